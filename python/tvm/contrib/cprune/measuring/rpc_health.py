# SPDX-License-Identifier: Apache-2.0
"""Failures and speed of RPC devices."""

import threading
import time
from collections.abc import Callable

from tvm.contrib.cprune.measuring.throttling import SpeedWatch

# After this many consecutive failures a device is paused for so many seconds.
MAX_FAILURES, PAUSE_SECONDS = 2, 30.0


class DeviceHealth:
    """Records which devices fail, by address, and pauses those that fail repeatedly.

    Parameters
    ----------
    report
        Receives messages for the user.

    Attributes
    ----------
    speed
        The speed of each device.
    """

    def __init__(self, report: Callable[[str], None]) -> None:
        self.report = report
        self.speed = SpeedWatch()
        self._lock = threading.Lock()
        # Consecutive failures of each device, and the time of the last one.
        self._failures: dict[str, tuple[int, float]] = {}
        self._reported_refusals: set[str] = set()

    def record_loss(self, address: str, reason: str) -> None:
        """Count a failure of a device."""
        with self._lock:
            count, _ = self._failures.get(address, (0, 0.0))
            self._failures[address] = (count + 1, time.time())
        self.report(f"lost device {address}: {reason}")

    def record_success(self, address: str) -> None:
        """Reset a device's failures."""
        with self._lock:
            self._failures.pop(address, None)

    def record_refusal(self, reason: str, tracker: str) -> None:
        """Report why a request to the tracker failed, once until a request succeeds."""
        with self._lock:
            new = reason not in self._reported_refusals
            self._reported_refusals.add(reason)
        if new:
            self.report(f"{reason}; retrying the tracker at {tracker}")

    def admit(self, address: str) -> bool:
        """Return whether a device that the tracker assigned may be used: it is neither paused nor refused."""
        if self.speed.is_refused(address):
            return False
        with self._lock:
            self._reported_refusals.clear()
            count, failed_at = self._failures.get(address, (0, 0.0))
        if count < MAX_FAILURES:
            return True
        if time.time() - failed_at < PAUSE_SECONDS:
            return False
        self.report(f"retrying device {address}")
        return True
