# SPDX-License-Identifier: Apache-2.0
"""Detection of devices that change their speed."""

import pytest

from tvm.contrib.cprune.measuring import throttling
from tvm.contrib.cprune.measuring.throttling import SpeedWatch

RUNS = 9


@pytest.fixture
def watch() -> SpeedWatch:
    """Return a watch whose device "a" initially takes one second."""
    watch = SpeedWatch()
    assert watch.update("a", [2.0] * RUNS) is None and watch.needs_confirmation("a")
    # The faster of the first two checks is the initial speed.
    assert watch.update("a", [1.0] * RUNS) is None and not watch.needs_confirmation("a")
    assert watch.correct("a", [3.0]) == (3.0,)
    return watch


def test_a_short_disturbance_changes_nothing(watch):
    assert watch.update("a", [5.0] * RUNS) is None and watch.needs_confirmation("a")
    assert watch.update("a", [1.05] * RUNS) is None and not watch.needs_confirmation("a")
    # Disturbed runs within one check.
    assert watch.update("a", [1.0] * 3 + [9.0] * 6) is None and not watch.needs_confirmation("a")
    assert watch.correct("a", [3.0]) == (3.0,)


def test_a_confirmed_change_of_speed_is_reported_and_corrected(watch):
    assert watch.update("a", [1.6] * RUNS) is None and watch.needs_confirmation("a")
    slower = "device a takes 1.50 times as long as initially; its measurements are divided by this factor"
    assert watch.update("a", [1.5] * RUNS) == slower
    assert watch.correct("a", [3.0, 6.0]) == (2.0, 4.0)
    # A further change of less than a tenth is ignored.
    assert watch.update("a", [1.6] * RUNS) is None and not watch.needs_confirmation("a")
    assert watch.update("a", [1.04] * RUNS) is None
    assert watch.update("a", [1.04] * RUNS) == "device a is back to its initial speed"
    assert watch.correct("a", [3.0]) == (3.0,)


def test_devices_are_compared_with_the_first_one(watch):
    assert watch.update("b", [1.5] * RUNS) is None and watch.needs_confirmation("b")
    slower = "device b takes 1.50 times as long as device a; its measurements are divided by this factor"
    assert watch.update("b", [1.6] * RUNS) == slower and not watch.needs_confirmation("b")
    assert watch.correct("b", [3.0]) == (2.0,)
    # Further changes are relative to its own initial speed.
    watch.update("b", [3.0] * RUNS)
    assert "device b takes 2.00 times as long as initially" in str(watch.update("b", [3.0] * RUNS))
    assert watch.correct("b", [3.0]) == (1.0,)
    # A difference of less than a tenth is ignored.
    assert watch.update("c", [1.05] * RUNS) is None and watch.update("c", [1.05] * RUNS) is None
    assert watch.correct("c", [3.0]) == (3.0,)


@pytest.mark.parametrize("seconds", [5.0, 0.2])
def test_devices_that_are_too_different_are_refused(watch, seconds):
    for _ in range(throttling.MAX_JOIN_CHECKS - 1):
        assert watch.update("b", [seconds] * RUNS) is None and watch.needs_confirmation("b")
    message = f"device b takes {seconds:.2f} times as long as device a and is not used"
    assert message in str(watch.update("b", [seconds] * RUNS))
    assert watch.is_refused("b") and not watch.needs_confirmation("b") and not watch.is_refused("a")
    # A device whose machine is busy for a moment is not refused.
    assert watch.update("c", [5.0] * RUNS) is None and watch.update("c", [1.0] * RUNS) is None
    assert not watch.is_refused("c") and not watch.needs_confirmation("c")


def test_each_device_is_checked_at_intervals(watch, monkeypatch):
    assert watch.is_due("b") and not watch.is_due("a")
    monkeypatch.setattr(throttling, "CHECK_INTERVAL", 0.0)
    assert watch.is_due("a")
