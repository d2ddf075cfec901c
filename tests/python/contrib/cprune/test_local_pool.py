# SPDX-License-Identifier: Apache-2.0
"""Measuring on this machine, with programs, processes and a machine that fail.

The functions that workers run are replaced by local ones, which are sent to the workers by value.
"""

import errno
import os
import signal
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from programs import FAST, task_of
from tvm.auto_scheduler.measure import MeasureErrorNo

from tvm.contrib.cprune.measuring import cpu_state, local_worker, model_timing
from tvm.contrib.cprune.measuring.local_pool import LocalMeasurer
from tvm.contrib.cprune.measuring.measurer import Measurer
from tvm.contrib.cprune.measuring.records import RecordLog
from tvm.contrib.cprune.measuring.result import Costs, Failure
from tvm.contrib.cprune.targets.target import host_target, pinned_target
from tvm.contrib.cprune.tuning.ansor.search import search
from tvm.contrib.cprune.types import CandidateError, CPruneError, InfrastructureError

# What happens to a process that times a program.
BREAKS: dict[str, Callable[[], None]] = {
    "dies": lambda: os.kill(os.getpid(), signal.SIGKILL),
    "hangs": lambda: time.sleep(60),
}
FAILURES = {
    "dies": Failure(MeasureErrorNo.RUNTIME_DEVICE, "the program crashed its process"),
    "hangs": Failure(MeasureErrorNo.RUN_TIMEOUT, "running took longer than 1 s"),
}
both = pytest.mark.parametrize("name", BREAKS)


@pytest.fixture(scope="module")
def measurer() -> Iterator[LocalMeasurer]:
    with LocalMeasurer(FAST) as measuring:
        yield measuring


@pytest.fixture
def timed_for_a_second(measurer, monkeypatch) -> None:
    """Let every program compile, and programs and models run for at most a second."""
    monkeypatch.setattr(local_worker, "build", lambda *_: None)
    monkeypatch.setattr(measurer, "config", replace(FAST, run_timeout=1))
    monkeypatch.setattr(model_timing, "FIRST_RUN_TIMEOUT", 1.0)


def breaks_once(name: str, folder: Path, result: Any) -> Callable[..., Any]:
    """Return a function that breaks its process the first time, and then returns ``result``."""
    marker, breaks = str(folder / "broke"), BREAKS[name]

    def function(*_: Any) -> Any:
        if not os.path.exists(marker):  # noqa: PTH110
            with open(marker, "w"):  # noqa: PTH123
                breaks()
        return result

    return function


@both
def test_a_program_whose_process_breaks_is_compiled_and_timed_once_more(
    name, measurer, timed_for_a_second, tmp_path, monkeypatch
):
    monkeypatch.setattr(local_worker, "run", breaks_once(name, tmp_path, (0.25,)))
    (result,) = measurer.measure_serialized(["program"])
    assert (tmp_path / "broke").exists()
    assert result.error_no == MeasureErrorNo.NO_ERROR


@both
def test_a_model_whose_process_breaks_is_run_once_more(
    name, measurer, timed_for_a_second, tmp_path, monkeypatch
):
    monkeypatch.setattr(local_worker, "run_model", breaks_once(name, tmp_path, ["output"]))
    assert measurer.run_model(Path("model.so"), np.zeros(1)) == ["output"]
    assert (tmp_path / "broke").exists()


@both
def test_only_on_a_machine_that_works_are_programs_and_models_to_blame(
    name, measurer, timed_for_a_second, monkeypatch
):
    breaks, die = BREAKS[name], BREAKS["dies"]
    for function in ("run", "run_model"):
        monkeypatch.setattr(local_worker, function, lambda *_: breaks())
    assert measurer.run(0, "program") == FAILURES[name]
    with pytest.raises(CandidateError, match=r"the model (crashed|took longer)"):
        measurer.run_model(Path("model.so"), np.zeros(1))
    monkeypatch.setattr(cpu_state, "run_parallel_kernel", die)
    with pytest.raises(InfrastructureError, match="die even with a program that is known to work"):
        measurer.run(0, "program")
    with pytest.raises(InfrastructureError, match="die even with a program that is known to work"):
        measurer.run_model(Path("model.so"), np.zeros(1))


def test_a_compile_process_that_dies_is_replaced_once(measurer, tmp_path, monkeypatch):
    marker = str(tmp_path / "died")

    def die_once(*_: Any) -> None:
        if not os.path.exists(marker):  # noqa: PTH110
            with open(marker, "w"):  # noqa: PTH123
                os.kill(os.getpid(), signal.SIGKILL)

    monkeypatch.setattr(local_worker, "build", die_once)
    [(_, failure, _)] = measurer.build(["program"])
    assert Path(marker).exists() and failure is None


def test_a_program_that_kills_its_compilers_fails_only_if_the_machine_works(measurer, monkeypatch):
    def die(*_: Any) -> None:
        os.kill(os.getpid(), signal.SIGKILL)

    monkeypatch.setattr(local_worker, "build", die)
    [(_, failure, _)] = measurer.build(["program"])
    assert failure == Failure(MeasureErrorNo.COMPILE_HOST, "the compiling process died 2 times")
    monkeypatch.setattr(cpu_state, "run_parallel_kernel", die)
    with pytest.raises(InfrastructureError, match="die even with a program that is known to work"):
        measurer.build(["program"])


def no_space(*_: Any) -> None:
    raise OSError(errno.ENOSPC, "No space left on device")


def wrong_template(*_: Any) -> None:
    raise AssertionError("a template's assertion")


def test_only_the_machine_stops_the_run(monkeypatch):
    monkeypatch.setattr(local_worker, "_instantiate", no_space)
    with pytest.raises(InfrastructureError, match="No space left on device"):
        local_worker.build(0, None)
    monkeypatch.setattr(local_worker, "_instantiate", wrong_template)
    failure = Failure(MeasureErrorNo.INSTANTIATION_ERROR, "a template's assertion")
    assert local_worker.build(0, None) == failure
    assert local_worker.build_file(None, "", None) == failure  # type: ignore[arg-type]


def test_an_unexpected_exception_ends_the_call_and_leaves_the_measurer_usable(measurer, monkeypatch):
    def build(_: int, data: str) -> None:
        if data == "wrong":
            raise ZeroDivisionError

    monkeypatch.setattr(local_worker, "build", build)
    with pytest.raises(ZeroDivisionError):
        measurer.build(["wrong", *["right"] * 8])
    assert [failure for _, failure, _ in measurer.build(["right"] * 4)] == [None] * 4


def test_slow_models_are_timed_within_a_budget(measurer, monkeypatch):
    """A model that takes 0.2 s, with limits that are scaled down."""
    monkeypatch.setattr(model_timing, "FIRST_RUN_TIMEOUT", 2.0)

    def time_models(_: Any, __: str, ___: Any, repeats: int) -> list[Costs]:
        time.sleep(0.2 * repeats)
        return [(0.2,) * repeats]

    monkeypatch.setattr(local_worker, "time_models", time_models)
    assert measurer.time_models([Path("model.so")], np.zeros(1), 15) == [(0.2,) * 15]
    monkeypatch.setattr(model_timing, "TIME_BUDGET", 1.5)
    assert measurer.time_models([Path("model.so")], np.zeros(1), 15) == [(0.2,) * 7]
    monkeypatch.setattr(model_timing, "TIME_BUDGET", 0.5)
    assert measurer.time_models([Path("model.so")], np.zeros(1), 15) == [(0.2,) * model_timing.MIN_REPEATS]


def test_a_model_that_hangs_or_crashes_is_reported_as_such(measurer, monkeypatch):
    monkeypatch.setattr(model_timing, "FIRST_RUN_TIMEOUT", 0.5)

    def die(*_: Any) -> None:
        os.kill(os.getpid(), signal.SIGKILL)

    monkeypatch.setattr(local_worker, "run_model", lambda *_: time.sleep(60))
    with pytest.raises(CPruneError, match="running the model took longer than 0 s"):
        measurer.run_model(Path("model.so"), np.zeros(1))
    monkeypatch.setattr(model_timing, "FIRST_RUN_TIMEOUT", 60.0)
    monkeypatch.setattr(local_worker, "run_model", die)
    with pytest.raises(CPruneError, match="the model crashed its process 2 times"):
        measurer.run_model(Path("model.so"), np.zeros(1))


class FullDisk(Measurer):
    """A measurer whose machine fails."""

    def close(self) -> None: ...

    def measure_serialized(self, serialized: Any) -> Any:
        raise InfrastructureError("No space left on device")

    def time_models(self, *_: Any) -> Any: ...

    def run_model(self, *_: Any) -> Any: ...


def test_auto_scheduler_passes_the_error_on():
    task, log = task_of("1x1", 16, pinned_target(host_target())), RecordLog(None)
    with pytest.raises(InfrastructureError, match="No space left on device"):
        search([task], FAST, FullDisk(FAST, 1), log)
    assert not log.measured
