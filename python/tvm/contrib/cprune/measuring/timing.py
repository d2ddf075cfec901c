# SPDX-License-Identifier: Apache-2.0
"""Timing compiled models side by side."""

import time
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import numpy.typing as npt

from tvm.contrib.cprune.measuring.measurer import Measurer
from tvm.contrib.cprune.types import Latency

# Seconds between two rounds.
PAUSE = 1.0


def sample_input(shape: tuple[int, ...], seed: int = 0) -> npt.NDArray[np.float32]:
    """Return a standard normal input of ``shape``."""
    return np.random.default_rng(seed).standard_normal(shape).astype("float32")


def time_side_by_side(
    measurer: Measurer,
    libraries: Mapping[str, Path],
    input_shape: tuple[int, ...],
    repeats: int,
    rounds: int = 1,
) -> dict[str, Latency]:
    """Time compiled models interleaved in one process, so that a disturbance affects all of them.

    Parameters
    ----------
    libraries
        Shared libraries by name.
    repeats
        Runs of each model per round.
    rounds
        Rounds, with a pause between two of them: a disturbance of a few seconds affects only one round.

    Returns
    -------
    latencies
        Latency of each model, with up to ``repeats * rounds`` samples in seconds: fewer for slow models.
    """
    data = sample_input(input_shape)
    samples: dict[str, tuple[float, ...]] = dict.fromkeys(libraries, ())
    for number in range(rounds):
        time.sleep(PAUSE if number else 0)
        times = measurer.time_models(list(libraries.values()), data, repeats)
        samples = {name: samples[name] + new for name, new in zip(libraries, times, strict=True)}
    return {name: Latency(times) for name, times in samples.items()}
