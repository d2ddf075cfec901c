# SPDX-License-Identifier: Apache-2.0
"""Resuming a run after kill -9."""

import json
import multiprocessing.forkserver
import os
import signal
import sys
import time
from pathlib import Path

import pytest
from pruning import SHAPE, config, make_model, time_by_macs, training

from tvm.contrib.cprune.compiler import Compiler
from tvm.contrib.cprune.loop.journal import Journal
from tvm.contrib.cprune.pruner import CPruner


def resume_run(folder: Path) -> None:
    """Continue the run in ``folder``, in a process group of its own."""
    os.setsid()
    pytest.MonkeyPatch().setattr(Compiler, "time", time_by_macs)
    CPruner(make_model(), SHAPE, training(), config(), folder).run(resume=True)


def accepted(folder: Path) -> list[dict]:
    events = Journal(folder / "journal.jsonl").events
    return [event["widths"] for event in events if event["event"] == "candidate" and event["accepted"]]


def lines(folder: Path, name: str) -> list[str]:
    (path,) = [*folder.glob(f"records/*/{name}")] or [folder / "none"]
    return path.read_text().splitlines() if path.exists() else []


def state_of(line: str) -> str:
    return json.dumps(json.loads(line)["i"])


@pytest.fixture(scope="module")
def processes():
    """Return a context that forks processes from one that has imported TVM and torch."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([__name__])
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", os.pathsep.join(sys.path))
        multiprocessing.forkserver.ensure_running()
    return context


def test_a_killed_run_continues_without_repeating_a_measurement(processes, tmp_path):
    """Kill the run whenever it writes something, and resume it, until it completes."""
    seen: list[dict] = []
    for kills in range(8):
        size = footprint(tmp_path)
        child = processes.Process(target=resume_run, args=(tmp_path,))
        child.start()
        while child.is_alive() and footprint(tmp_path) <= size:
            time.sleep(0.02)
        # Sometimes a little later, in the middle of the next step.
        child.join(0.4 * (kills % 3))
        if child.is_alive():
            os.killpg(child.pid, signal.SIGKILL)
        child.join()
        now = accepted(tmp_path) if (tmp_path / "journal.jsonl").exists() else []
        assert now[: len(seen)] == seen
        seen = now
        if child.exitcode == 0:
            break
    child = processes.Process(target=resume_run, args=(tmp_path,))
    child.start()
    child.join()
    assert child.exitcode == 0
    result = json.loads((tmp_path / "result.json").read_text())
    assert [it["widths"] for it in result["iterations"] if it["accepted"]][: len(seen)] == seen
    first, later = result["trials"]["first_tuning"], result["trials"]["pruning_and_final_tuning"]
    for origin in ("search", "transplant"):
        states = [state_of(line) for line in lines(tmp_path, f"{origin}.json")]
        assert len(states) == len(set(states)), f"a trial of {origin} was spent twice"
        # A program that a disturbance makes slow is followed by a short search.
        assert len(states) == first[origin] + later[origin]


def footprint(folder: Path) -> int:
    """Return how many lines of records and events there are."""
    files = [*folder.glob("records/*/*.json"), *folder.glob("journal.jsonl")]
    return sum(path.read_bytes().count(b"\n") for path in files)
