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


def test_each_device_is_checked_at_intervals(watch, monkeypatch):
    assert watch.is_due("b") and not watch.is_due("a")
    monkeypatch.setattr(throttling, "CHECK_INTERVAL", 0.0)
    assert watch.is_due("a")
