# SPDX-License-Identifier: Apache-2.0
"""The decisions of Algorithm 1, case by case."""

import pytest

from tvm.contrib.cprune.config import PruneConfig, TuneConfig
from tvm.contrib.cprune.loop.decision import decide_accuracy, decide_latency, stop_reason
from tvm.contrib.cprune.types import CPruneError, Latency

OLD = Latency((1.0, 1.01, 0.99, 1.0))


@pytest.mark.parametrize(
    ("new", "goal", "accepted"),
    [
        ((0.9, 0.91, 0.89, 0.9), 0.99, True),
        ((0.995, 0.995, 0.995, 0.995), 0.99, False),  # above the goal
        ((0.5, 1.4, 0.5, 1.4), 0.99, False),  # below the goal, by less than the spread
    ],
)
def test_a_candidate_must_be_faster_by_more_than_the_spread(new, goal, accepted):
    assert decide_latency(OLD, Latency(new), goal).accepted is accepted


@pytest.mark.parametrize(
    ("last", "new", "accepted"), [(0.95, 0.949, True), (0.95, 0.94, False), (0.9, 0.89, False)]
)
def test_a_candidate_must_keep_the_required_accuracy(last, new, accepted):
    config = PruneConfig(accuracy_requirement=0.895, alpha=0.995)
    assert decide_accuracy(last, new, config).accepted is accepted


def test_the_loop_stops_at_each_limit():
    config = PruneConfig(max_iterations=10, speedup_goal=2, max_seconds=60, latency_floor=0.1)
    assert stop_reason(1.1, 3, 5, config) == ""
    assert "iterations" in stop_reason(1.1, 10, 5, config)
    assert "speed-up" in stop_reason(2.0, 3, 5, config)
    assert "time" in stop_reason(1.1, 3, 60, config)
    assert "latency" in stop_reason(10.0, 3, 5, config)


def test_median_and_spread_of_a_latency():
    assert Latency((3.0, 1.0, 2.0)).median == 2.0
    assert Latency((1.0, 2.0, 3.0, 4.0)).median == 2.5
    assert Latency((1.0, 2.0, 3.0, 4.0, 5.0)).spread == 1.0


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: PruneConfig(accuracy_requirement=92), "accuracy_requirement is 92, expected 0 to 1"),
        (lambda: PruneConfig(importance="l3"), "importance is 'l3', expected one of l1"),
        (lambda: PruneConfig(step_rule="best"), "step_rule"),
        (lambda: TuneConfig(trials=0), "trials is 0, expected at least 1"),
    ],
)
def test_an_invalid_setting_is_reported_with_the_expected_values(make, message):
    with pytest.raises(CPruneError, match=message):
        make()
