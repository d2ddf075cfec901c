# SPDX-License-Identifier: Apache-2.0
"""Settings and fixtures of all tests. What is tuned is shared by the worker processes of a test run."""

import fcntl
import os
import shutil
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

os.environ.setdefault("TVM_NUM_THREADS", "2")
# What a test finds must not depend on programs of earlier runs, and must not stay in the user's library.
os.environ["CPRUNE_LIBRARY"] = "none"

import pytest

sys.path.insert(0, str(Path(__file__).parents[4] / "tutorials" / "frontend"))

from hypothesis import settings
from networks import KINDS
from programs import FAST, task_of
from pruning import SHAPE, make_model, time_by_macs
from torch import nn

import tvm
from tvm.contrib.cprune import lagging
from tvm.contrib.cprune.compiler import Compiler
from tvm.contrib.cprune.config import PruneConfig
from tvm.contrib.cprune.loop import attempt
from tvm.contrib.cprune.measuring.local_pool import LocalMeasurer
from tvm.contrib.cprune.measuring.records import Measured, RecordLog
from tvm.contrib.cprune.targets.target import host_target, pinned_target
from tvm.contrib.cprune.tuning.ansor.search import search
from tvm.contrib.cprune.types import Task

# Every run draws the same examples, however slow the machine; HYPOTHESIS_PROFILE=explore draws new ones.
settings.register_profile("same", derandomize=True, deadline=None)
settings.register_profile("explore", deadline=None)
settings.load_profile(os.getenv("HYPOTHESIS_PROFILE", "same"))

# Whether a program of some microseconds lags depends on the machine: only the tests of lagging.py look at it.
lagging.MIN_LATENCY = 1.0

TuneKind = Callable[[str], tuple[Task, Measured]]
TuneModel = Callable[[str, nn.Module, tuple[int, ...]], Path]


@pytest.fixture(scope="session")
def target() -> tvm.target.Target:
    return pinned_target(host_target())


@pytest.fixture(scope="session")
def pool() -> Iterator[LocalMeasurer]:
    with LocalMeasurer(FAST) as measurer:
        yield measurer


@pytest.fixture(scope="session")
def shared_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder that all worker processes of this test run share, and no other run."""
    folder, run = tmp_path_factory.getbasetemp(), os.getenv("PYTEST_XDIST_TESTRUNUID")
    shared = folder.parent / f"shared-{run}" if run else folder / "shared"
    shared.mkdir(exist_ok=True)
    return shared


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Keep other worker processes out of the body of a ``with`` statement until it ends."""
    with path.with_suffix(".lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


@pytest.fixture(scope="session")
def tuned(pool: LocalMeasurer, target: tvm.target.Target, shared_dir: Path) -> TuneKind:
    """Return a function from a kind of layer to its task and a tuned program of it."""
    cache: dict[str, tuple[Task, Measured]] = {}

    def tune(kind: str) -> tuple[Task, Measured]:
        if kind not in cache:
            task, path = task_of(kind, KINDS[kind].width, target), shared_dir / f"{kind}.json"
            with locked(path):
                log = RecordLog(path)
                if len(log.of(task.workload_key)) < FAST.trials:
                    search([task], FAST, pool, log)
            best = log.best(task.workload_key)
            assert best is not None
            cache[kind] = task, best
        return cache[kind]

    return tune


@pytest.fixture(scope="session")
def tuned_run(shared_dir: Path) -> TuneModel:
    """Return a function that tunes a model once per test run, and returns the folder of the run.

    The folder has ``table.json`` and the records of all tasks. Tests must not write there.
    """

    def tune(name: str, model: nn.Module, shape: tuple[int, ...]) -> Path:
        folder = shared_dir / name
        with locked(folder):
            if not (folder / "table.json").exists():
                with Compiler(PruneConfig(tune=FAST, measure_repeats=3), shape, folder) as compiler:
                    compiler.tune(model).table.save(folder / "table.json")
        return folder

    return tune


@pytest.fixture
def tuned_dir(tuned_run: TuneModel, tmp_path: Path) -> Path:
    """Return the folder of a new run of the chain that has the records of the unpruned model."""
    folder = tmp_path / "run"
    shutil.copytree(tuned_run("chain", make_model(), SHAPE) / "records", folder / "records")
    return folder


@pytest.fixture
def latency_by_macs(monkeypatch: pytest.MonkeyPatch) -> None:
    """Replace the latency of models by one that does not depend on the machine."""
    monkeypatch.setattr(Compiler, "time", time_by_macs)
    monkeypatch.setattr(attempt, "decide_prediction", lambda *_: None)
