# SPDX-License-Identifier: Apache-2.0
"""Check the installation, the compiler and the devices by running a small kernel.

    python -m tvm.contrib.cprune doctor
    python -m tvm.contrib.cprune doctor --target android-cpu --tracker 127.0.0.1:9190 --device-key phone

Each line is a check that passed (ok) or failed (FAIL, with a way to fix it), or a note (?).
"""

import argparse
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

import tvm
from tvm import relay
from tvm.contrib.cprune import _plugin
from tvm.contrib.cprune.config import TuneConfig
from tvm.contrib.cprune.lowering import quietly
from tvm.contrib.cprune.measuring.create import create_measurer
from tvm.contrib.cprune.measuring.tracker import TRACKER_HELP, Tracker
from tvm.contrib.cprune.numerics import compare_outputs
from tvm.contrib.cprune.targets.presets import NAMES, Preset, find_preset
from tvm.contrib.cprune.types import INPUT, CPruneError

# For the estimate of the tuning time: tasks of a network like ResNet-18, counting direct and Winograd
# convolutions, and seconds per trial on two cores (benchmarks/tuning_throughput.py, rounded up).
TASKS, SECONDS_PER_TRIAL = 26, 1.0
# The kernel's input and output channels, its timed runs, and the maximum relative error of its result.
CHANNELS, REPEATS, TOLERANCE = 64, 10, 1e-4
# Options of TVM's build to list, without their prefix USE_.
BUILD_OPTIONS = ("RPC", "OPENCL", "VULKAN", "GRAPH_EXECUTOR", "SORT", "RANDOM")

Report = Callable[[dict[str, Any]], None]


@dataclass(frozen=True)
class Check:
    """The outcome of one check; ``passed`` is None if it could not be made."""

    name: str
    passed: bool | None
    message: str

    def __str__(self) -> str:
        mark = {True: "ok  ", False: "FAIL", None: "?   "}[self.passed]
        return f"{mark} {self.name}: {self.message}"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.description, parser.formatter_class = __doc__, argparse.RawDescriptionHelpFormatter
    parser.add_argument("-h", "--help", action="help", help="show this help message and exit")
    parser.add_argument("--target", help=f"{', '.join(NAMES)}, or a TVM target (default: this machine)")
    parser.add_argument("--tracker", help=TRACKER_HELP)
    parser.add_argument("--device-key", help="key of the tracker's devices to use")


def run(options: argparse.Namespace) -> None:
    def report(event: dict[str, Any]) -> None:
        print(Check("device", None, event["message"]), flush=True)

    failed = 0
    for check in run_checks(options.target, options.tracker, options.device_key, report):
        print(check, flush=True)
        failed += check.passed is False
    if failed:
        raise CPruneError(f"{failed} of these checks failed")


def run_checks(
    target: str | None, tracker: str | None, key: str | None, report: Report = lambda _: None
) -> Iterator[Check]:
    """Yield the outcome of each check as soon as it is made.

    Parameters
    ----------
    report
        Receives events of RPC devices during the checks; see ``RpcMeasurer``.
    """
    preset = find_preset(target)
    yield from _check_tvm(preset)
    yield _attempt("compiler", lambda: f"{preset.name} links with {preset.compiler()}")
    if tracker or key:
        yield from _check_devices(preset, tracker, key, report)
    elif preset.runs_here:
        yield Check("tracker", None, "none given (--tracker, --device-key): programs run on this machine")
        yield from _round_trip(preset, None, report)
    else:
        yield Check("tracker", None, "none given (--tracker, --device-key): programs cannot run")
        yield Check("round trip", None, f"{preset.name} needs a device: pass --tracker and --device-key")


def _attempt(name: str, describe: Callable[[], str]) -> Check:
    try:
        return Check(name, True, describe())
    except CPruneError as error:
        return Check(name, False, str(error))


def _check_tvm(preset: Preset) -> Iterator[Check]:
    info = tvm.support.libinfo()
    options = [f"LLVM {info.get('LLVM_VERSION', 'unknown')}"]
    options += [f"{name} {info[f'USE_{name}']}" for name in BUILD_OPTIONS if f"USE_{name}" in info]
    yield Check("TVM", True, f"{tvm.__version__}: {', '.join(options)}")
    cython = tvm.runtime.Object.__mro__[1].__module__.startswith("tvm._ffi._cy")
    slow = "ctypes, which is slower: build TVM's Cython FFI, or use the wheel of `make tvm`"
    yield Check("FFI", True, "Cython" if cython else slow)
    yield Check("plug-in", True, f"FindSubgraphs and others, {_plugin.ORIGIN}")
    codegen = tvm.get_global_func(f"target.build.{preset.make_target().kind.name}", allow_missing=True)
    message = f"generates code for {preset.target}"
    if codegen is None:
        message = f"this TVM cannot generate code for {preset.target}: rebuild it with the option enabled"
    yield Check("target", codegen is not None, message)


def _check_devices(preset: Preset, address: str | None, key: str | None, report: Report) -> Iterator[Check]:
    try:
        tracker = Tracker.parse(address, key)
        registered, free = tracker.devices()
    except CPruneError as error:
        advice = "to start one: python -m tvm.exec.rpc_tracker --host 127.0.0.1"
        yield Check("tracker", False, f"{error}; {advice}")
        yield Check("round trip", None, "there is no tracker")
        return
    yield Check("tracker", True, f"responds at {tracker.address}")
    if tracker.warning:
        yield Check("tracker", None, tracker.warning)
    if not registered:
        start = f"python -m tvm.exec.rpc_server --tracker {tracker.address} --key {tracker.key}"
        yield Check("devices", False, f"none with key {tracker.key}; run on the device: {start}")
        yield Check("round trip", None, "there is no device")
        return
    yield Check("devices", True, f"{registered} with key {tracker.key}, {free} free")
    yield from _round_trip(preset, tracker, report)


def _round_trip(preset: Preset, tracker: Tracker | None, report: Report) -> Iterator[Check]:
    """Compile a small kernel, run it, and compare its result with NumPy's."""
    started = time.time()
    try:
        costs = _run_kernel(preset, tracker, report)
    except CPruneError as failure:
        yield Check("round trip", False, str(failure))
        return
    place = "this machine" if tracker is None else f"a device with key {tracker.key}"
    cost, seconds = float(np.median(costs)) * 1e6, time.time() - started
    message = f"compiled and ran a kernel on {place} with the correct result"
    yield Check("round trip", True, f"{message}: {cost:.1f} us per run, {seconds:.1f} s in total")
    trials = TASKS * TuneConfig().trials
    minutes = trials * SECONDS_PER_TRIAL / 60
    message = f"a network like ResNet-18 takes about {minutes:.0f} minutes ({trials} trials) on two cores"
    yield Check("tuning", None, message)


def _run_kernel(preset: Preset, tracker: Tracker | None, report: Report) -> tuple[float, ...]:
    """Check the result of a small kernel, and return the seconds of each timed run."""
    data = np.random.default_rng(0).standard_normal((CHANNELS, CHANNELS)).astype("float32")
    weight = np.random.default_rng(1).standard_normal((CHANNELS, CHANNELS)).astype("float32")
    expected = np.maximum(data @ weight.T, 0)
    measurer = create_measurer(TuneConfig(), preset, tracker, report)
    with tempfile.TemporaryDirectory() as folder, measurer:
        library = Path(folder) / "kernel.so"
        preset.link(_build_kernel(preset, weight), library)
        outputs = measurer.run_model(library, data)
        (costs,) = measurer.time_models([library], data, REPEATS)
    compare_outputs(outputs, [expected], TOLERANCE, "the kernel")
    return costs


def _build_kernel(preset: Preset, weight: np.ndarray) -> Any:
    """Compile a model of one dense layer with a ReLU."""
    data = relay.var(INPUT, shape=weight.shape)
    body = relay.nn.relu(relay.nn.dense(data, relay.const(weight)))
    with quietly():
        return relay.build(tvm.IRModule.from_expr(relay.Function([data], body)), preset.make_target())
