# SPDX-License-Identifier: Apache-2.0
"""Distribution of work over all RPC devices of a key."""

import threading
import time
from collections.abc import Callable
from typing import TypeVar

import numpy as np

from tvm.contrib.cprune.measuring.result import Costs, DeviceLost
from tvm.contrib.cprune.measuring.rpc_device import RpcDevice
from tvm.contrib.cprune.measuring.rpc_jobs import MAX_ATTEMPTS, JobQueue
from tvm.contrib.cprune.measuring.tracker import Tracker
from tvm.contrib.cprune.types import CandidateError, CPruneError, InfrastructureError

# Seconds between two queries of the tracker's list of devices.
POLL_INTERVAL = 2.0
# Seconds between two checks whether a batch is done, and that a device waits for the next program.
DONE_INTERVAL, JOB_TIMEOUT = 0.02, 0.1

Result = TypeVar("Result")


class RpcDispatcher:
    """Feeds jobs to as many devices as the tracker lists; one thread serves each of them.

    A device that dies or hangs costs the timeout of the program that it runs, which another device then
    takes. Without any device the jobs wait.

    Parameters
    ----------
    make_device
        Creates an ``RpcDevice`` that holds no device yet.
    report
        Receives messages for the user.
    proof_timeout
        Seconds after the last device was lost within which one must run the reference program.

    Attributes
    ----------
    devices
        Grows with the number of devices at the tracker.
    """

    def __init__(
        self,
        tracker: Tracker,
        make_device: Callable[[], RpcDevice],
        report: Callable[[str], None],
        proof_timeout: float,
    ) -> None:
        self.devices: list[RpcDevice] = []
        self._tracker, self._make_device, self._report = tracker, make_device, report
        self._proof_timeout = proof_timeout

    def run(self, jobs: JobQueue) -> None:
        """Return when every job is done or the batch is aborted; all devices are then released."""
        threads: dict[RpcDevice, threading.Thread] = {}
        stop = threading.Event()
        polled_at = reported_at = 0.0
        try:
            while not jobs.done:
                if time.time() - polled_at > POLL_INTERVAL:
                    polled_at = time.time()
                    self._start_threads(threads, jobs, stop)
                    if not threads and time.time() - reported_at > self._tracker.wait:
                        reported_at = time.time()
                        self._report(f"waiting for a device of key {self._tracker.key}: none is registered")
                jobs.check_suspects()
                time.sleep(DONE_INTERVAL)
        finally:
            stop.set()
            for thread in threads.values():
                thread.join()
            for device in self.devices:
                device.release()

    def _start_threads(
        self, threads: dict[RpcDevice, threading.Thread], jobs: JobQueue, stop: threading.Event
    ) -> None:
        """Drop threads that have ended, and start one for each further device at the tracker."""
        for device, thread in list(threads.items()):
            if not thread.is_alive():
                del threads[device]
        for _ in range(self._registered() - len(threads)):
            idle = [device for device in self.devices if device not in threads]
            device = idle[0] if idle else self._add_device()
            threads[device] = threading.Thread(target=self._serve, args=(device, jobs, stop))
            threads[device].start()

    def _serve(self, device: RpcDevice, jobs: JobQueue, stop: threading.Event) -> None:
        """Run jobs on one device until all are done or the tracker has no device; abort them on an error."""
        try:
            self._run_jobs(device, jobs, stop)
        except BaseException as error:
            jobs.abort(error)

    def _run_jobs(self, device: RpcDevice, jobs: JobQueue, stop: threading.Event) -> None:
        while not jobs.done and not stop.is_set():
            if device.address is None and not device.acquire():
                if self._registered() == 0:
                    return
                continue
            if not device.check_speed():
                continue
            job = jobs.take(JOB_TIMEOUT)
            if job is None:
                continue
            if job.suspected:
                jobs.judge(job, device.run_reference())
            else:
                jobs.finish(job, device.run(job.program))

    def time_models(
        self, libraries: list[str], data: np.ndarray, repeats: int, timeout: float
    ) -> list[Costs]:
        """Time models on any device; see ``_call``."""
        return self._call(lambda device: device.time_models(libraries, data, repeats, timeout), timeout)

    def run_model(self, library: str, data: np.ndarray, timeout: float) -> list[np.ndarray]:
        """Return a model's outputs on any device; see ``_call``."""
        return self._call(lambda device: device.run_model(library, data, timeout), timeout)

    def _call(self, function: Callable[[RpcDevice], Result | DeviceLost], timeout: float) -> Result:
        """Call ``function`` on any device; use another one if the device is lost.

        Parameters
        ----------
        timeout
            Seconds that the function may take; the session with the device lasts longer.

        Raises
        ------
        CPruneError
            If ``MAX_ATTEMPTS`` devices were lost with the model, but then run the reference program.
        InfrastructureError
            If they do not.
        """
        device, reason = self.devices[0] if self.devices else self._add_device(), ""
        for _ in range(MAX_ATTEMPTS):
            reported_at = 0.0
            while not self._is_ready(device, timeout):
                if time.time() - reported_at > self._tracker.wait:
                    reported_at = time.time()
                    self._report(f"waiting for a device of key {self._tracker.key}")
            outcome = function(device)
            if not isinstance(outcome, DeviceLost):
                device.release()
                return outcome
            reason = outcome.reason
        lost = f"{MAX_ATTEMPTS} devices were lost while running the model: {reason}"
        deadline = time.time() + self._proof_timeout + timeout  # The session was longer by that, too.
        while time.time() < deadline:
            if device.acquire() and isinstance(device.run_reference(), tuple):
                device.release()
                raise CandidateError(lost)
        raise InfrastructureError(f"{lost}; none ran the reference program afterwards")

    @staticmethod
    def _is_ready(device: RpcDevice, timeout: float) -> bool:
        return (device.address is not None or device.acquire(timeout)) and device.check_speed()

    def close(self) -> None:
        """Kill the processes of all devices."""
        for device in self.devices:
            device.close()

    def _add_device(self) -> RpcDevice:
        self.devices.append(self._make_device())
        return self.devices[-1]

    def _registered(self) -> int:
        """Return how many devices of the key the tracker lists, 0 if it does not respond."""
        try:
            return self._tracker.devices()[0]
        except CPruneError:
            return 0
