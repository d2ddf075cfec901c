# SPDX-License-Identifier: Apache-2.0
"""Check everything between here and a measured program, and say how to mend what is missing.

    python -m tvm.contrib.cprune doctor
    python -m tvm.contrib.cprune doctor --target android-cpu --tracker 127.0.0.1:9190 --device-key phone

Each line passes (ok), fails with what to do (FAIL), or says what could not be checked (?).
"""

import argparse
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
from tvm._ffi import base as ffi
from tvm.auto_scheduler import ComputeDAG, MeasureInput
from tvm.auto_scheduler.workload_registry import register_workload_tensors

import tvm
from tvm import auto_scheduler, te
from tvm.contrib.cprune import _plugin
from tvm.contrib.cprune.config import TuneConfig
from tvm.contrib.cprune.device import host_threads
from tvm.contrib.cprune.presets import NAMES, Preset, find_preset
from tvm.contrib.cprune.tuning.devices import DevicePool, Tracker
from tvm.contrib.cprune.tuning.workers import MeasuringPool
from tvm.contrib.cprune.types import CPruneError

# Tasks of a network like ResNet-18, direct and Winograd, for the estimate.
TASKS = 26


@dataclass(frozen=True)
class Finding:
    """One line: ``ok`` is None where nothing could be checked."""

    name: str
    ok: bool | None
    message: str

    def __str__(self) -> str:
        mark = {True: "ok  ", False: "FAIL", None: "?   "}[self.ok]
        return f"{mark} {self.name}: {self.message}"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.description, parser.formatter_class = __doc__, argparse.RawDescriptionHelpFormatter
    parser.add_argument("-h", "--help", action="help", help="show this help message and exit")
    parser.add_argument("--target", help=f"{', '.join(NAMES)}, or a target of TVM (default: this machine)")
    parser.add_argument("--tracker", help="host:port (or TVM_TRACKER_HOST and TVM_TRACKER_PORT)")
    parser.add_argument("--device-key", help="which of the tracker's devices")


def run(options: argparse.Namespace) -> None:
    failed = 0
    for finding in examine(options.target, options.tracker, options.device_key):
        print(finding, flush=True)
        failed += finding.ok is False
    if failed:
        raise CPruneError(f"{failed} of these must be mended first")


def examine(target: str | None, tracker: str | None, key: str | None) -> Iterator[Finding]:
    """Return the findings one after the other, as they are made."""
    preset = find_preset(target)
    yield from _tvm(preset)
    yield _attempt("compiler", lambda: f"{preset.name} links with {preset.compiler()}")
    if not tracker and not key:
        yield Finding(
            "tracker", None, "not asked for: programs run on this machine (--tracker, --device-key)"
        )
        if preset.name not in ("cpu", preset.target):
            yield Finding(
                "round trip", None, f"a {preset.name} needs a device: give --tracker and --device-key"
            )
            return
        yield from _round_trip(preset, None)
        return
    try:
        found = Tracker.parse(tracker, key)
        known, free = found.devices()
    except CPruneError as error:
        yield Finding(
            "tracker", False, f"{error}; start one: python -m tvm.exec.rpc_tracker --host 127.0.0.1"
        )
        yield Finding("round trip", None, "there is no tracker to ask for a device")
        return
    yield Finding("tracker", True, f"answers at {found.host}:{found.port}")
    if not known:
        start = f"python -m tvm.exec.rpc_server --tracker {found.host}:{found.port} --key {found.key}"
        yield Finding("devices", False, f"none of key {found.key}; on the device: {start}")
        yield Finding("round trip", None, "there is no device")
        return
    yield Finding("devices", True, f"{known} of key {found.key}, {free} free")
    yield from _round_trip(preset, found)


def _attempt(name: str, check: Callable[[], str]) -> Finding:
    try:
        return Finding(name, True, check())
    except CPruneError as error:
        return Finding(name, False, str(error))


def _tvm(preset: Preset) -> Iterator[Finding]:
    info = tvm.support.libinfo()
    said = ("USE_LLVM", "USE_RPC", "USE_OPENCL", "USE_VULKAN", "USE_GRAPH_EXECUTOR", "USE_SORT", "USE_RANDOM")
    options = ", ".join(f"{name[4:]} {info[name]}" for name in said if name in info)
    yield Finding("TVM", True, f"{tvm.__version__}: {options}")
    kind = ffi.__dict__.get("_FFI_MODE", "")
    cython = tvm.runtime.Object.__mro__[1].__module__.startswith("tvm._ffi._cy")
    advice = "" if cython else "; slower: build it, or use the wheel of `make tvm`"
    yield Finding(
        "FFI", True, f"{'Cython' if cython else 'ctypes'}{advice}{' ' + kind if kind == 'cython' else ''}"
    )
    yield Finding("plug-in", True, f"FindSubgraphs and others, {_plugin.ORIGIN}")
    codegen = tvm.get_global_func(f"target.build.{preset.make_target().kind.name}", allow_missing=True)
    message = f"generates code for {preset.target}"
    if codegen is None:
        message = f"this TVM has no code generation for {preset.target}: build it with that option ON"
    yield Finding("target", codegen is not None, message)


def _round_trip(preset: Preset, tracker: Tracker | None) -> Iterator[Finding]:
    """Compile a small kernel, run it, and compare what it computes."""
    if preset.device != "cpu":
        yield Finding("round trip", None, "kernels for GPUs are tried by the first tuning")
        return
    started = time.time()
    config = TuneConfig(repeats=3)
    try:
        if tracker is None:
            pool: MeasuringPool = MeasuringPool(config)
        else:
            pool = DevicePool(config, preset, tracker)
        with pool:
            (result,) = pool.measure([_kernel(preset)])
    except CPruneError as error:
        yield Finding("round trip", False, str(error))
        return
    seconds = time.time() - started
    if result.error_no:
        yield Finding("round trip", False, f"the kernel failed: {result.error_msg}")
        return
    cost = float(np.median([float(each) for each in result.costs]))
    where = "this machine" if tracker is None else f"a device of {tracker.key}"
    yield Finding(
        "round trip", True, f"compiled and ran on {where}: {cost * 1e6:.1f} us, after {seconds:.1f} s"
    )
    trials = TASKS * TuneConfig().trials
    minutes = trials * 2.0 / 60 * 2 / host_threads()
    yield Finding(
        "tuning", None, f"a network like ResNet-18 takes about {minutes:.0f} minutes, {trials} trials"
    )


def _kernel(preset: Preset) -> MeasureInput:
    data, weight = te.placeholder((64, 64), name="data"), te.placeholder((64, 64), name="weight")
    k = te.reduce_axis((0, 64), name="k")
    dense = te.compute((64, 64), lambda i, j: te.sum(data[i, k] * weight[k, j], k), name="dense")
    tensors = [data, weight, dense]
    key = register_workload_tensors(ComputeDAG(tensors).workload_key(), tensors)
    task = auto_scheduler.SearchTask(workload_key=key, target=preset.make_target())
    return MeasureInput(task, task.compute_dag.get_init_state())
