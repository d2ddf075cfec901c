# SPDX-License-Identifier: Apache-2.0
"""Programs per minute measured on 1, 2 and 4 RPC devices that hold each run for a fixed time.

    python benchmarks/rpc_scaling.py

The devices are servers on this machine that sleep, so the rates show whether all of them are kept busy.
Before each timing, two programs per device are measured so that all processes have started.
"""

import argparse
import contextlib
import socket
import subprocess
import sys
import time
from pathlib import Path

from torch import nn

from common import median, print_machine
from tvm import auto_scheduler
from tvm.contrib.cprune.config import TuneConfig
from tvm.contrib.cprune.importers.from_torch import from_torch
from tvm.contrib.cprune.measuring.rpc_pool import RpcMeasurer
from tvm.contrib.cprune.measuring.tracker import Tracker
from tvm.contrib.cprune.targets.presets import find_preset
from tvm.contrib.cprune.targets.target import host_target, pinned_target
from tvm.contrib.cprune.tasks import extract_from_program
from tvm.contrib.cprune.types import CPruneError

KEY, HOLD, REPEATS, PROGRAMS, ROUNDS = "bench", 0.5, 3, 24, 3
CONFIG = TuneConfig(repeats=REPEATS, threads=1, run_timeout=30)


def start(*command: str) -> "subprocess.Popen[bytes]":
    quiet = subprocess.DEVNULL
    return subprocess.Popen([sys.executable, *command], stdout=quiet, stderr=quiet, start_new_session=True)


def make_programs() -> list[auto_scheduler.MeasureInput]:
    """Return copies of a small program that compiles quickly."""
    relay_model = from_torch(nn.Conv2d(4, 16, 1), (1, 4, 8, 8))
    (task,) = extract_from_program(relay_model.mod, None, pinned_target(host_target()))
    state = task.tvm_task.compute_dag.get_init_state()
    return [auto_scheduler.MeasureInput(task.tvm_task, state)] * PROGRAMS


def wait_for_devices(tracker: Tracker, count: int) -> None:
    while True:
        with contextlib.suppress(CPruneError):
            if tracker.devices() == (count, count):
                return
        time.sleep(0.2)


def measure_rate(tracker: Tracker, inputs: list[auto_scheduler.MeasureInput], warm_up: int) -> float:
    """Return the median number of programs per minute."""
    rates = []
    with RpcMeasurer(CONFIG, find_preset(None), tracker, prepare="cprune.hold") as measurer:
        measurer.measure(inputs[:warm_up])
        for _ in range(ROUNDS):
            started = time.perf_counter()
            results = measurer.measure(inputs)
            rates.append(len(inputs) / (time.perf_counter() - started) * 60)
            assert not any(result.error_no for result in results)
    return median(rates)


def main() -> None:
    argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    ).parse_args()
    print_machine()
    print(f"# {PROGRAMS} programs per round, {REPEATS + 1} runs each, every run held for {HOLD} s")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    ports = ["--port", str(port), "--port-end", str(port + 1)]
    processes = [start("-m", "tvm.exec.rpc_tracker", "--host", "127.0.0.1", *ports)]
    script = str(Path(__file__).with_name("holding_server.py"))
    tracker, inputs, rates = Tracker("127.0.0.1", port, KEY), make_programs(), list[float]()
    try:
        for count in (1, 2, 4):
            while len(processes) <= count:
                processes.append(start(script, tracker.address, KEY, str(HOLD)))
            wait_for_devices(tracker, count)
            rates.append(measure_rate(tracker, inputs, warm_up=2 * count))
            speedup = rates[-1] / rates[0]
            print(f"{count} devices: {rates[-1]:7.1f} programs per minute, {speedup:.2f} times one device")
    finally:
        for process in processes:
            process.kill()
    print("required: at least 1.8 and 3.4")


if __name__ == "__main__":
    main()
