# SPDX-License-Identifier: Apache-2.0
"""One RPC device at a time: its process, its session, and what runs on it."""

import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np

from tvm.contrib.cprune.measuring import rpc_worker, throttling
from tvm.contrib.cprune.measuring.process import WorkerProcess
from tvm.contrib.cprune.measuring.result import Costs, DeviceLost, Failure
from tvm.contrib.cprune.measuring.rpc_health import DeviceHealth
from tvm.contrib.cprune.measuring.rpc_worker import ProgramLibrary, RunSettings
from tvm.contrib.cprune.measuring.tracker import Tracker
from tvm.contrib.cprune.messages import last_line
from tvm.contrib.cprune.types import INPUT

# Seconds after which the worker process counts as hung: releasing a device, and requesting a device after the
# tracker's own timeout.
RELEASE_TIMEOUT, REQUEST_MARGIN = 10.0, 10.0
# Seconds that a session lasts in addition to the programs or models that run in it.
SESSION_MARGIN = 20
# Seconds in addition to a session within which a free device runs the reference program: to be assigned, even
# after a pause, and for a check of its speed.
PROOF_MARGIN = 120
# Seconds before the next request after the tracker assigned no device, or a paused one.
RETRY_SECONDS, PAUSED_RETRY_SECONDS = 0.5, 1.0


def session_timeout(settings: RunSettings) -> int:
    """Return the seconds after which the server ends a session, which frees the device if a program hangs."""
    return int(4 * (settings.timeout + settings.cooldown)) + SESSION_MARGIN


def proof_timeout(settings: RunSettings) -> int:
    """Return the seconds within which a device that works has run the reference program after a hang."""
    return session_timeout(settings) + PROOF_MARGIN


class RpcDevice:
    """Acquires a device from the tracker and runs programs and models on it.

    Parameters
    ----------
    settings
        How programs run, unless a call says otherwise.
    health
        Shared by all devices of a measurer.
    reference
        The program of ``throttling.build_reference``.

    Attributes
    ----------
    address
        The device that is held at present, or None.
    """

    def __init__(
        self, tracker: Tracker, settings: RunSettings, health: DeviceHealth, reference: ProgramLibrary
    ) -> None:
        self.address: str | None = None
        self._tracker, self._settings = tracker, settings
        self._health, self._reference = health, reference
        self._process = WorkerProcess()
        self._acquired_at = 0.0
        self._session_timeout = session_timeout(settings)

    def acquire(self, seconds: float = 0.0) -> bool:
        """Request a device from the tracker; return whether it assigned a usable one.

        Parameters
        ----------
        seconds
            Duration of a call that the session must outlast, apart from programs.
        """
        tracker = self._tracker
        self._session_timeout = session_timeout(self._settings) + int(seconds)
        arguments = (tracker.host, tracker.port, tracker.key, tracker.wait, self._session_timeout)
        address = self._call(rpc_worker.request, *arguments, timeout=tracker.wait + REQUEST_MARGIN)
        if not isinstance(address, str):
            if isinstance(address, DeviceLost):
                self._health.record_refusal(address.reason, tracker.address)
            time.sleep(RETRY_SECONDS)
            return False
        if not self._health.admit(address):
            self._call(rpc_worker.release, timeout=RELEASE_TIMEOUT)
            time.sleep(PAUSED_RETRY_SECONDS)
            return False
        self.address, self._acquired_at = address, time.time()
        return True

    def release(self) -> None:
        """Return the device to the tracker."""
        if self.address is not None:
            self._call(rpc_worker.release, timeout=RELEASE_TIMEOUT)
            self.address = None

    def close(self) -> None:
        """Kill the process, which ends its session."""
        self._process.close()

    def run(self, program: ProgramLibrary) -> Costs | Failure | DeviceLost:
        """Time a program on the device that is held, corrected for the device's slowdown."""
        address = str(self.address)
        outcome = self._time(program, self._settings)
        self._record(outcome)
        return self._health.speed.correct(address, outcome) if isinstance(outcome, tuple) else outcome

    def run_reference(self) -> Costs | Failure | DeviceLost:
        """Time the reference program on the device that is held."""
        repeats, seconds = throttling.CHECK_REPEATS, throttling.CHECK_SECONDS
        settings = replace(self._settings, repeats=repeats, min_seconds=seconds, prepare="")
        outcome = self._time(self._reference, settings)
        # Success does not reset the failures: it tells nothing about the programs that failed.
        if isinstance(outcome, DeviceLost):
            self._record(outcome)
        return outcome

    def time_models(
        self, libraries: list[str], data: np.ndarray, repeats: int, timeout: float
    ) -> list[Costs] | DeviceLost:
        """Time models on the device that is held; see ``rpc_worker.time_models``."""
        address, arguments = str(self.address), (libraries, self._settings, INPUT, data, repeats)
        outcome = self._call(rpc_worker.time_models, *arguments, timeout=timeout)
        self._record(outcome)
        if isinstance(outcome, DeviceLost):
            return outcome
        return [self._health.speed.correct(address, costs) for costs in outcome]

    def run_model(self, library: str, data: np.ndarray, timeout: float) -> list[np.ndarray] | DeviceLost:
        """Return a model's outputs on the device that is held."""
        outcome = self._call(rpc_worker.run_model, library, self._settings, INPUT, data, timeout=timeout)
        self._record(outcome)
        return outcome

    def check_speed(self) -> bool:
        """Time the reference program if a check is due; return whether the device is still held."""
        address, speed = str(self.address), self._health.speed
        if not speed.is_due(address):
            return True
        while True:
            outcome = self.run_reference()
            if isinstance(outcome, DeviceLost):
                return False
            if isinstance(outcome, Failure):
                speed.postpone(address)
                self._health.report(f"device {address} failed the reference program: {outcome.message}")
                return True
            if message := speed.update(address, outcome):
                self._health.report(message)
            if speed.is_refused(address):
                self.release()
                return False
            if not speed.needs_confirmation(address):
                return True

    def _time(self, program: ProgramLibrary, settings: RunSettings) -> Costs | Failure | DeviceLost:
        return self._call(rpc_worker.run, program, settings, timeout=settings.timeout + settings.cooldown)

    def _record(self, outcome: Any) -> None:
        """Update the device's health, and end a session that is lost or may soon time out."""
        if isinstance(outcome, DeviceLost):
            self._health.record_loss(str(self.address), outcome.reason)
            self.address = None
        else:
            self._health.record_success(str(self.address))
        if time.time() - self._acquired_at > self._session_timeout / 2:
            self.release()

    def _call(self, function: Callable[..., Any], *args: Any, timeout: float) -> Any | DeviceLost:
        try:
            return self._process.call(function, *args, timeout=timeout)
        except TimeoutError:
            return DeviceLost(f"no answer within {timeout:.0f} s")
        except (OSError, RuntimeError) as error:
            return DeviceLost(last_line(error))
