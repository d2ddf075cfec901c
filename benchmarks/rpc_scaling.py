# SPDX-License-Identifier: Apache-2.0
"""Programs measured a minute by 1, 2 and 4 RPC servers that each hold a program for a fixed time.

    python benchmarks/rpc_scaling.py

The servers run on this machine and only wait, as if they were phones; what is measured is whether the queue
keeps all of them busy. The programs are compiled before the clock starts for each round's second half.
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


def start(*command: str) -> subprocess.Popen[bytes]:
    quiet = subprocess.DEVNULL
    return subprocess.Popen([sys.executable, *command], stdout=quiet, stderr=quiet, start_new_session=True)


def programs() -> list[auto_scheduler.MeasureInput]:
    """Return small programs that compile in a moment."""
    relay_model = from_torch(nn.Conv2d(4, 16, 1), (1, 4, 8, 8))
    (task,) = extract_from_program(relay_model.mod, None, pinned_target(host_target()))
    state = task.tvm_task.compute_dag.get_init_state()
    return [auto_scheduler.MeasureInput(task.tvm_task, state)] * PROGRAMS


def wait(tracker: Tracker, count: int) -> None:
    while True:
        with contextlib.suppress(CPruneError):
            if tracker.devices() == (count, count):
                return
        time.sleep(0.2)


def main() -> None:
    argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    ).parse_args()
    print_machine()
    print(f"# {PROGRAMS} programs a round, {REPEATS + 1} runs each, every run held for {HOLD} s")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    where = ["--host", "127.0.0.1", "--port", str(port), "--port-end", str(port + 1)]
    processes = [start("-m", "tvm.exec.rpc_tracker", *where)]
    script = str(Path(__file__).with_name("holding_server.py"))
    tracker = Tracker("127.0.0.1", port, KEY)
    config = TuneConfig(repeats=REPEATS, threads=1, run_timeout=30)
    inputs, first = programs(), 0.0
    try:
        for count in (1, 2, 4):
            while len(processes) <= count:
                processes.append(start(script, f"127.0.0.1:{port}", KEY, str(HOLD)))
            wait(tracker, count)
            rates = []
            with RpcMeasurer(config, find_preset(None), tracker, prepare="cprune.hold") as pool:
                pool.measure(inputs[: 2 * count])  # the processes start
                for _ in range(ROUNDS):
                    started = time.perf_counter()
                    results = pool.measure(inputs)
                    rates.append(PROGRAMS / (time.perf_counter() - started) * 60)
                    assert not any(each.error_no for each in results)
            first = first or median(rates)
            ratio = median(rates) / first
            print(f"{count} servers: {median(rates):7.1f} programs a minute, {ratio:.2f} times one")
    finally:
        for process in processes:
            process.kill()
    print("asked: at least 1.8 and 3.4")


if __name__ == "__main__":
    main()
