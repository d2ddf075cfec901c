# SPDX-License-Identifier: Apache-2.0
"""Who is to blame when devices are lost: the program, the model or the devices."""

import time
from typing import Any

import numpy as np
import pytest
from rpc_site import KEY

from tvm.contrib.cprune.measuring import (
    rpc_jobs,
)
from tvm.contrib.cprune.measuring.result import DeviceLost, Failure
from tvm.contrib.cprune.measuring.rpc_dispatch import RpcDispatcher
from tvm.contrib.cprune.measuring.rpc_jobs import Job, JobQueue
from tvm.contrib.cprune.measuring.rpc_worker import ProgramLibrary
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


def dispatch(device: FakeDevice) -> list[Any]:
    """Return the result of a program on a device."""
    jobs = JobQueue(1)
    jobs.put(Job(0, ProgramLibrary("no-such-file.so", []), 0.0))
    RpcDispatcher(FakeTracker(), lambda: device, print).run(jobs)  # type: ignore[arg-type, return-value]
    return jobs.results()


def test_a_model_that_loses_devices_is_to_blame_only_if_they_work_without_it(monkeypatch):
    monkeypatch.setattr(rpc_jobs, "PROOF_TIMEOUT", 0.2)
    for reference, error in (((1.0,), CandidateError), (DeviceLost("away"), InfrastructureError)):
        device = FakeDevice(DeviceLost("gone"), reference)
        dispatcher = RpcDispatcher(FakeTracker(), lambda device=device: device, print)  # type: ignore
        with pytest.raises(CPruneError, match="3 devices were lost while running the model: gone") as caught:
            dispatcher.run_model("model.so", np.zeros(1), 1.0)
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
    monkeypatch.setattr(rpc_jobs, "PROOF_TIMEOUT", 0.5)
    device = FakeDevice(DeviceLost("gone"))

    def run_reference():
        time.sleep(1)
        return DeviceLost("away")

    monkeypatch.setattr(device, "run_reference", run_reference)
    with pytest.raises(InfrastructureError, match="none ran the reference program within"):
        dispatch(device)
