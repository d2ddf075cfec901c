# SPDX-License-Identifier: Apache-2.0
"""Time by kind of work."""

import pytest

from tvm.contrib.cprune.stopwatch import Stopwatch


class Clock:
    """A clock that stands still until it is set forward."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def test_every_second_counts_once_for_the_innermost_work():
    clock = Clock()
    stopwatch = Stopwatch(clock)
    clock.now += 1
    with stopwatch("search"):
        clock.now += 2
        with stopwatch("build"):
            clock.now += 4
        clock.now += 8
    clock.now += 16
    assert stopwatch.seconds() == {"other": 17, "search": 10, "build": 4}
    assert sum(stopwatch.seconds().values()) == clock.now - 100


def test_work_that_fails_is_timed():
    clock = Clock()
    stopwatch = Stopwatch(clock)
    with pytest.raises(ValueError), stopwatch("build"):
        clock.now += 3
        raise ValueError
    clock.now += 1
    assert stopwatch.seconds() == {"other": 1, "build": 3}


def test_laps_add_up_even_if_they_end_while_work_is_running():
    clock = Clock()
    stopwatch = Stopwatch(clock)
    with stopwatch("search"):
        clock.now += 2
        assert stopwatch.lap() == {"search": 2}
        clock.now += 3
    clock.now += 1
    assert stopwatch.lap() == {"search": 3, "other": 1}
    assert stopwatch.lap() == {}
    assert stopwatch.seconds() == {"search": 5, "other": 1}
