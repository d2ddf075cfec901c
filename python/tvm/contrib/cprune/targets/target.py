# SPDX-License-Identifier: Apache-2.0
"""Targets: this machine's, and the key that pins the algorithms of operators."""

import functools
import os
from pathlib import Path

import tvm
from tvm.contrib.cprune.targets.op_strategy import KEY
from tvm.contrib.cprune.types import CPruneError


def parse_target(target: tvm.target.Target | str) -> tvm.target.Target:
    """Return a target by what TVM calls it.

    Raises
    ------
    CPruneError
        If ``target`` is not one that TVM understands.
    """
    try:
        return tvm.target.Target(target)
    except (tvm.error.TVMError, ValueError, TypeError) as error:
        reason = [line for line in str(error).splitlines() if line.strip()][-1].strip()
        raise CPruneError(f"target {str(target)!r} is not one of TVM's: {reason}") from error


def pinned_target(target: tvm.target.Target | str) -> tvm.target.Target:
    """Return ``target`` with the key under which CPrune, not TOPI, chooses between direct and Winograd
    convolution.

    Raises
    ------
    CPruneError
        If ``target`` is not one that TVM understands.
    """
    plain = parse_target(target)
    if KEY in plain.keys:
        return plain
    config = dict(plain.export())
    config["keys"] = [KEY, *plain.keys]
    return tvm.target.Target(config)


@functools.cache
def vector_lanes(target: str) -> int:
    """Return how many float32 numbers a target's vector register holds; 1 for what is no CPU."""
    with parse_target(target) as parsed:
        known = tvm.get_global_func("tvm.topi.x86.utils.get_simd_32bit_lanes")
        return int(known()) if parsed.kind.name == "llvm" else 1


# The widest instruction sets first: LLVM 10, which TVM's wheel holds, does not know newer processors by name.
_CPUS = (
    ({"avx512f", "avx512dq", "avx512bw", "avx512vl"}, "skylake-avx512"),
    ({"avx2", "fma"}, "core-avx2"),
)


def host_target() -> str:
    """Return the target string for this machine."""
    try:
        flags = set(Path("/proc/cpuinfo").read_text().split())
    except OSError:
        flags = set()
    cpu = next((f" -mcpu={name}" for needed, name in _CPUS if needed <= flags), "")
    return f"llvm{cpu} -num-cores {host_threads()}"


def host_threads() -> int:
    """Return how many cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
