# SPDX-License-Identifier: Apache-2.0
"""Check everything between here and a measured program, and say how to mend what is missing.

    python -m tvm.contrib.cprune doctor
    python -m tvm.contrib.cprune doctor --target android-cpu --tracker 127.0.0.1:9190 --device-key phone

Each line passes (ok), fails with what to do (FAIL), or says what could not be checked (?).
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
from tvm.contrib.cprune.measuring.local_pool import LocalMeasurer
from tvm.contrib.cprune.measuring.rpc_pool import RpcMeasurer
from tvm.contrib.cprune.measuring.tracker import Tracker
from tvm.contrib.cprune.targets.presets import NAMES, Preset, find_preset
from tvm.contrib.cprune.tasks import quietly
from tvm.contrib.cprune.types import INPUT, CPruneError

# For the estimate: tasks of a network like ResNet-18, direct and Winograd, and a trial on two cores.
TASKS, SECONDS_A_TRIAL = 26, 2.0
# The kernel's rows and columns, and how far its result may be off.
SIZE, TOLERANCE = 64, 1e-4


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
        where = "programs run on this machine" if preset.runs_here else "there is nowhere to run programs"
        yield Finding("tracker", None, f"none given (--tracker, --device-key): {where}")
        if not preset.runs_here:
            yield Finding("round trip", None, f"{preset.name} needs a device: --tracker and --device-key")
            return
        yield from _round_trip(preset, None)
        return
    try:
        found = Tracker.parse(tracker, key)
        known, free = found.devices()
    except CPruneError as error:
        advice = "start one: python -m tvm.exec.rpc_tracker --host 127.0.0.1"
        yield Finding("tracker", False, f"{error}; {advice}")
        yield Finding("round trip", None, "there is no tracker to ask for a device")
        return
    yield Finding("tracker", True, f"answers at {found.host}:{found.port}")
    if found.warning:
        yield Finding("tracker", None, found.warning)
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
    said = ("USE_RPC", "USE_OPENCL", "USE_VULKAN", "USE_GRAPH_EXECUTOR", "USE_SORT", "USE_RANDOM")
    llvm = f"LLVM {info.get('LLVM_VERSION', 'unknown')}"
    options = [llvm, *(f"{name[4:]} {info[name]}" for name in said if name in info)]
    yield Finding("TVM", True, f"{tvm.__version__}: {', '.join(options)}")
    cython = tvm.runtime.Object.__mro__[1].__module__.startswith("tvm._ffi._cy")
    slow = "ctypes; slower: build Cython's, or use the wheel of `make tvm`"
    yield Finding("FFI", True, "Cython" if cython else slow)
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
    data = np.random.default_rng(0).standard_normal((SIZE, SIZE)).astype("float32")
    weight = np.random.default_rng(1).standard_normal((SIZE, SIZE)).astype("float32")
    expected = np.maximum(data @ weight.T, 0)
    try:
        config = TuneConfig()
        pool = LocalMeasurer(config) if tracker is None else RpcMeasurer(config, preset, tracker)
        with tempfile.TemporaryDirectory() as name, pool:
            library = Path(name) / "kernel.so"
            preset.link(_kernel(preset, weight), library)
            found = pool.run_model(library, data)
            (times,) = pool.time_models([library], data, 10)
    except CPruneError as error:
        yield Finding("round trip", False, str(error))
        return
    off = float(np.abs(found - expected).max() / np.abs(expected).max())
    where = "this machine" if tracker is None else f"a device of {tracker.key}"
    if off > TOLERANCE:
        yield Finding("round trip", False, f"{where} computes something else: off by {off:.1e}")
        return
    cost, seconds = float(np.median(times)) * 1e6, time.time() - started
    message = f"compiled, ran and compared on {where}: {cost:.1f} us, after {seconds:.1f} s"
    yield Finding("round trip", True, message)
    trials = TASKS * config.trials
    minutes = trials * SECONDS_A_TRIAL / 60
    message = f"a network like ResNet-18 takes about {minutes:.0f} minutes ({trials} trials) on two cores"
    yield Finding("tuning", None, message)


def _kernel(preset: Preset, weight: np.ndarray) -> Any:
    """Return a compiled model of one dense layer and a rectifier."""
    data = relay.var(INPUT, shape=(SIZE, SIZE))
    body = relay.nn.relu(relay.nn.dense(data, relay.const(weight)))
    with quietly():
        return relay.build(tvm.IRModule.from_expr(relay.Function([data], body)), preset.make_target())
