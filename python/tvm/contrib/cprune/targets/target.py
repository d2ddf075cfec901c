# SPDX-License-Identifier: Apache-2.0
"""Targets: parsing, this machine's, and the key that pins the algorithms of operators."""

import functools
import os
import re
from pathlib import Path
from typing import Any

from tvm.target.codegen import llvm_get_cpu_archlist, llvm_get_cpu_features, llvm_get_targets

import tvm
from tvm.contrib.cprune.messages import last_line
from tvm.contrib.cprune.targets.op_strategy import KEY
from tvm.contrib.cprune.types import CPruneError


def parse_target(target: tvm.target.Target | str) -> tvm.target.Target:
    """Parse a target.

    Raises
    ------
    CPruneError
        If ``target`` is not a TVM target, or LLVM does not support its processor or a feature of it.
    """
    try:
        parsed = tvm.target.Target(target)
    except (tvm.error.TVMError, ValueError, TypeError) as error:
        raise CPruneError(f"target {str(target)!r} is not a TVM target: {last_line(error)}") from error
    for part in (parsed, parsed.host):
        if part is not None and part.kind.name == "llvm":
            attributes = (str(part.attrs.get("mtriple") or ""), str(part.attrs.get("mcpu") or ""))
            reason = _unsupported(*attributes, tuple(map(str, part.attrs.get("mattr") or ())))
            if reason:
                raise CPruneError(f"target {str(target)!r} {reason}")
    return parsed


@functools.cache
def _unsupported(triple: str, cpu: str, features: tuple[str, ...]) -> str:
    """Return what LLVM does not support, "" if it supports everything.

    LLVM itself compiles for a generic processor instead, and crashes on an unknown triple.
    """
    architecture = (
        "i386" if re.match("i[3-9]86", triple) else triple.split("-")[0].replace("arm64", "aarch64")
    )
    if triple and not architecture.startswith(tuple(map(str, llvm_get_targets()))):
        return f"has -mtriple={triple}: LLVM has no architecture {architecture!r}"
    base = {"kind": "llvm", **({"mtriple": triple} if triple else {})}
    known = sorted(str(name) for name in llvm_get_cpu_archlist(tvm.target.Target(base)))
    if cpu and cpu not in known:
        return f"has -mcpu={cpu}: expected one of {', '.join(known)}"
    for feature in features:
        name = feature.lstrip("+-")
        if name not in llvm_get_cpu_features(tvm.target.Target({**base, "mattr": [f"+{name}"]})):
            return f"has -mattr={feature}: LLVM has no such feature for {triple or 'this machine'}"
    return ""


def pinned_target(target: tvm.target.Target | str) -> tvm.target.Target:
    """Return ``target`` with the key that selects CPrune's operator strategies (see ``op_strategy``).

    Raises
    ------
    CPruneError
        If ``target`` is not a TVM target.
    """
    parsed = parse_target(target)
    if KEY in parsed.keys:
        return parsed
    config = dict(parsed.export())
    config["keys"] = [KEY, *parsed.keys]
    return tvm.target.Target(config)


@functools.cache
def vector_lanes(target: str) -> int:
    """Return the number of float32 lanes in a vector register of a CPU target, 1 for other targets."""
    with parse_target(target) as parsed:
        lanes = tvm.get_global_func("tvm.topi.x86.utils.get_simd_32bit_lanes")
        return int(lanes()) if parsed.kind.name == "llvm" else 1


@functools.cache
def vector_registers(target: str) -> int:
    """Return the number of vector registers of a CPU target."""
    # TVM adds this machine's triple to a target that has none.
    triple = str(parse_target(target).attrs.get("mtriple") or "")
    if triple.startswith(("aarch64", "arm64")):
        return 32
    return 32 if vector_lanes(target) == 16 else 16


# Widest instruction set first. LLVM 10 in TVM's wheel does not recognize the names of newer processors.
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
    """Return the number of cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def with_cores(target: tvm.target.Target, cores: int) -> tvm.target.Target:
    """Return a CPU target with another number of cores."""
    return tvm.target.Target({**dict(target.export()), "num-cores": cores}, host=target.host)


def core_count(tvm_task: Any) -> int:
    """Return the number of cores of a ``SearchTask``'s target.

    If the target does not name it, it is TVM's own hardware parameter, which is that of this machine.
    """
    attrs = tvm_task.target.attrs
    return int(attrs.get("num-cores") or tvm_task.hardware_params.num_cores)
