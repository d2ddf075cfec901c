# SPDX-License-Identifier: Apache-2.0
"""How far two cores are from each other: the round trip of a cache line between them (core_distance.cc).

The cores of a virtual machine can move while it runs. Where they have no common last-level cache, layers
wait for data of another core.
"""

import functools
import os
import subprocess
from pathlib import Path

from common import CACHE

# Nanoseconds of a round trip that cores with a common last-level cache do not exceed.
FAR = 150


@functools.cache
def _program() -> Path:
    """Compile core_distance.cc, and return the path of the program."""
    source, path = Path(__file__).with_suffix(".cc"), CACHE / "core_distance"
    path.parent.mkdir(parents=True, exist_ok=True)
    subprocess.run(
        [os.environ.get("CXX", "g++"), "-O2", "-pthread", str(source), "-o", str(path)], check=True
    )
    return path


def round_trip() -> float:
    """Return the nanoseconds that a cache line needs from one core to another one and back."""
    return float(subprocess.run([str(_program())], check=True, capture_output=True, text=True).stdout)
