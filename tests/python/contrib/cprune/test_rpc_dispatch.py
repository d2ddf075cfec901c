# SPDX-License-Identifier: Apache-2.0
"""Who is to blame when devices are lost: the program, the model or the devices."""

import time
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from rpc_site import KEY

from tvm.contrib.cprune.measuring import (
    rpc_jobs,
)
from tvm.contrib.cprune.measuring.result import DeviceLost, Failure
from tvm.contrib.cprune.measuring.rpc_device import proof_timeout, session_timeout
from tvm.contrib.cprune.measuring.rpc_dispatch import RpcDispatcher
from tvm.contrib.cprune.measuring.rpc_jobs import Job, JobQueue
from tvm.contrib.cprune.measuring.rpc_worker import ProgramLibrary, RunSettings
from tvm.contrib.cprune.types import CandidateError, CPruneError, InfrastructureError


class FakeTracker:
    """Lists one device."""

    key, wait = KEY, 1.0

    def devices(self) -> tuple[int, int]:
        return 1, 1


class FakeDevice:
    """Returns the given outcomes for programs and for the reference program."""

    def __init__(self, program: Any, reference: Any = (1.0,)) -> None:
        self.program, self.reference, self.address = program, reference, ""

    def acquire(self, _: float = 0.0) -> bool:
        return True

    def run_model(self, *_: Any) -> Any:
        return self.program

    def check_speed(self) -> bool:
        return True

    def release(self) -> None: ...

    def run(self, _: ProgramLibrary) -> Any:
        if isinstance(self.program, Exception):
            raise self.program
        return self.program

    def run_reference(self) -> Any:
        return self.reference


def job(index: int) -> Job:
    return Job(index, ProgramLibrary("no-such-file.so", []), 0.0)


def dispatcher_of(device: FakeDevice, timeout: float) -> RpcDispatcher:
    return RpcDispatcher(FakeTracker(), lambda: device, print, timeout)  # type: ignore[arg-type, return-value]


def dispatch(device: FakeDevice, timeout: float = 60.0) -> list[Any]:
    """Return the result of a program on a device that must run the reference program within ``timeout``."""
    jobs = JobQueue(1, timeout)
    jobs.put(job(0))
    dispatcher_of(device, timeout).run(jobs)
    return jobs.results()


def test_a_model_that_loses_devices_is_to_blame_only_if_they_work_without_it():
    for reference, error in (((1.0,), CandidateError), (DeviceLost("away"), InfrastructureError)):
        device = FakeDevice(DeviceLost("gone"), reference)
        dispatcher = dispatcher_of(device, 0.2)
        with pytest.raises(CPruneError, match="3 devices were lost while running the model: gone") as caught:
            dispatcher.run_model("model.so", np.zeros(1), 0.1)
        assert caught.type is error


def test_an_unexpected_exception_of_a_device_thread_ends_the_call():
    with pytest.raises(ZeroDivisionError):
        dispatch(FakeDevice(ZeroDivisionError()))


def test_a_program_that_loses_devices_fails_only_if_the_devices_work_without_it():
    (result,) = dispatch(FakeDevice(DeviceLost("gone")))
    assert int(result.error_no) and "3 devices were lost" in str(result.error_msg)
    for reference, reason in ((DeviceLost("away"), "also lost .*: away"), (Failure(1, "bad"), "failed: bad")):
        with pytest.raises(InfrastructureError, match=reason):
            dispatch(FakeDevice(DeviceLost("gone"), reference))


def test_devices_that_do_not_come_back_stop_measuring(monkeypatch):
    device = FakeDevice(DeviceLost("gone"))

    def run_reference():
        time.sleep(1)
        return DeviceLost("away")

    monkeypatch.setattr(device, "run_reference", run_reference)
    with pytest.raises(InfrastructureError, match="none ran the reference program within"):
        dispatch(device, 0.5)


def test_suspected_jobs_come_first():
    jobs = JobQueue(3, 60.0)
    for index in range(3):
        jobs.put(job(index))
    first = jobs.take(0)
    first.losses = 2
    jobs.finish(first, DeviceLost("gone"))
    assert [jobs.take(0).index for _ in range(3)] == [0, 1, 2]
    assert first.suspected
    assert jobs.take(0) is None


@pytest.mark.parametrize("timeout", [15.0, 120.0])
def test_two_hanging_programs_on_one_device_do_not_end_the_batch(monkeypatch, timeout):
    """Each occupies the device until the server ends the session."""
    settings, seconds = RunSettings("cpu", 1, 1, 0.0, "", timeout, 0.0), [0.0]
    monkeypatch.setattr(rpc_jobs, "time", SimpleNamespace(time=lambda: seconds[0]))
    jobs = JobQueue(2, proof_timeout(settings))
    jobs.put(job(0))
    jobs.put(job(1))
    while not jobs.done:
        taken = jobs.take(0)
        if taken.suspected:
            jobs.judge(taken, (1.0,))
        else:
            jobs.finish(taken, DeviceLost("hangs"))
            seconds[0] += session_timeout(settings)
        jobs.check_suspects()
    assert all("devices were lost" in str(result.error_msg) for result in jobs.results())
