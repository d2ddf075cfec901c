# SPDX-License-Identifier: Apache-2.0
"""The decisions of Algorithm 1, case by case."""

import math

import numpy as np
import pytest
import torch

from tvm.contrib.cprune.config import PruneConfig, TuneConfig
from tvm.contrib.cprune.loop import comparison
from tvm.contrib.cprune.loop.comparison import MAX_SECONDS, MIN_SESSIONS, compare
from tvm.contrib.cprune.loop.decision import (
    decide_accuracy,
    decide_estimate,
    decide_latency,
    decide_prediction,
    decide_untrained,
    has_spare_accuracy,
    hopeless_share,
    stop_reason,
    undecided,
)
from tvm.contrib.cprune.loop.evaluation import checked_accuracy, checked_counts
from tvm.contrib.cprune.loop.interval import Interval
from tvm.contrib.cprune.types import CPruneError, Latency


def runs(rng, count, ratio, spread, drift):
    """Simulate paired runs of two models, in the order old, new, new, old, on a machine whose speed drifts.

    One run in fifty is disturbed, for half of its time on average.
    """
    pairs = np.arange(count)[:, None]
    positions = 2 * pairs + np.where(pairs % 2 == 0, [[0, 1]], [[1, 0]])
    disturbance = 1 + rng.exponential(0.5, (count, 2)) * (rng.random((count, 2)) < 0.02)
    noise = np.exp(rng.normal(0, spread, (count, 2)) + drift * positions / (2 * count))
    old, new = (np.array([1.0, ratio]) * noise * disturbance).T
    return tuple(old), tuple(new)


class Simulation:
    """Stands in for a compiler whose models have a known ratio of latencies."""

    def __init__(self, seed, ratio, spread, drift, beta):
        self.rng, self.arguments = np.random.default_rng(seed), (60, ratio, spread, drift)
        self.config, self.sessions = PruneConfig(beta=beta), 0

    def time(self, candidates):
        self.sessions += 1
        old, new = runs(self.rng, *self.arguments)
        return {"old": Latency(old), "new": Latency(new)}


def acceptance_rate(ratio, spread, drift, beta, count):
    decisions = [compare(Simulation(s, ratio, spread, drift, beta), None, None)[2] for s in range(count)]
    return sum(decision.accepted for decision in decisions) / count


@pytest.mark.parametrize("drift", [0.0, 0.7, -0.7])
@pytest.mark.parametrize("spread", [0.02, 0.05, 0.10])
def test_candidates_without_a_gain_are_accepted_in_at_most_5_percent(spread, drift):
    assert acceptance_rate(1.0, spread, drift, beta=1.0, count=200) <= 0.05
    assert acceptance_rate(1.0, spread, drift, beta=0.99, count=40) <= 0.05


@pytest.mark.parametrize("spread", [0.02, 0.05, 0.10])
def test_candidates_with_a_clear_gain_are_accepted(spread):
    assert acceptance_rate(0.9, spread, 0.3, beta=0.99, count=40) >= 0.95


@pytest.mark.parametrize("spread", [0.02, 0.05, 0.10])
def test_small_gains_are_proven_by_more_sessions(spread):
    assert acceptance_rate(0.975, spread, 0.0, beta=0.99, count=40) >= 0.9


@pytest.mark.parametrize(("seconds", "sessions"), [(100.0, MIN_SESSIONS), (MAX_SECONDS / 6.5, 7)])
def test_slow_sessions_end_undecided_after_a_limited_time(seconds, sessions, monkeypatch):
    simulation = Simulation(0, 0.99, 0.05, 0.0, 0.99)
    monkeypatch.setattr(comparison.time, "monotonic", lambda: simulation.sessions * seconds)
    old, new, decision = compare(simulation, None, None)
    assert not decision.accepted and "does not prove" in decision.reason
    assert len(old) == len(new) == 60 * sessions


@pytest.mark.parametrize("repeats", [1, 5])
def test_sessions_of_few_runs_end_with_a_decision(repeats):
    simulation = Simulation(0, 0.5, 0.02, 0.0, 0.99)
    simulation.arguments = (repeats, 0.5, 0.02, 0.0)
    old, new, decision = compare(simulation, None, None)
    assert len(old) == len(new) >= 2
    assert decision.accepted


def test_equal_samples_do_not_decide():
    assert decide_latency((1.0,) * 8, (1.0,) * 8, 1.0, 0.05) is None
    assert not undecided((1.0,) * 8, (1.0,) * 8, 1.0).accepted


def test_samples_must_be_paired():
    with pytest.raises(ValueError, match="got 3 and 4 latencies, expected equally many"):
        decide_latency((1.0,) * 3, (1.0,) * 4, 1.0, 0.05)


@pytest.mark.parametrize(
    ("last", "new", "accepted"), [(0.95, 0.949, True), (0.95, 0.94, False), (0.9, 0.89, False)]
)
def test_a_candidate_must_keep_the_required_accuracy(last, new, accepted):
    config = PruneConfig(accuracy_requirement=0.895, alpha=0.995)
    assert decide_accuracy(last, new, config).accepted is accepted


@pytest.mark.parametrize(
    ("last", "low", "high", "reason"),
    [
        (0.90, 0.85, 0.8949, "between 0.8500 and 0.8949 (99% confidence), below the requirement of 0.8950"),
        (0.89, 0.85, 0.8950, None),
        (0.95, 0.90, 0.9452, "(99% confidence), below 0.995 x the last accepted 0.9500"),
        (0.95, 0.90, 0.9453, None),
        (0.95, 0.96, 0.9900, None),
    ],
)
def test_a_part_of_the_split_only_rejects(last, low, high, reason):
    config = PruneConfig(accuracy_requirement=0.895, alpha=0.995)
    decision = decide_estimate(last, Interval(low, high), config)
    assert (decision is None) == (reason is None)
    if decision is not None:
        assert not decision.accepted and reason in decision.reason


@pytest.mark.parametrize(
    ("low", "high", "share", "required", "trained"),
    [
        (0.2, 0.2, 0.25, 0.8, True),
        (0.1999, 0.1999, 0.25, 0.8, False),
        (0.17, 0.2, 0.25, 0.8, True),
        (0.15, 0.19, 0.25, 0.8, False),
        (0.0, 0.0, 0.25, 0.0, True),
        (0.0, 0.0, 0.0, 0.8, True),
    ],
)
def test_only_a_candidate_that_is_certainly_hopeless_is_not_trained(low, high, share, required, trained):
    decision = decide_untrained(Interval(low, high), share, PruneConfig(accuracy_requirement=required))
    assert (decision is None) == trained
    if decision is not None:
        assert not decision.accepted and decision.reason.startswith("not trained: ")


@pytest.mark.parametrize(
    ("hopeless", "rule", "recalibrated", "share"),
    [
        (None, "joint", True, 0.25),
        (None, "joint", False, 0.0),
        (None, "paper", True, 0.0),
        (0.5, "joint", False, 0.5),
        (0.5, "paper", True, 0.5),
        (0.0, "joint", True, 0.0),
    ],
)
def test_the_paper_trains_every_candidate_unless_the_user_says_otherwise(hopeless, rule, recalibrated, share):
    assert hopeless_share(PruneConfig(hopeless=hopeless, step_rule=rule), recalibrated) == share


@pytest.mark.parametrize(
    ("last", "new", "spare"),
    [
        (0.8, 0.7902, True),  # a quarter of what the next step may lose
        (0.8, 0.79, False),
        (0.8, 0.81, True),
        (0.71, 0.7081, True),  # the requirement leaves only 0.0081
        (0.71, 0.7076, False),
        (0.7, 0.7, False),
    ],
)
def test_accuracy_is_to_spare_after_a_quarter_of_the_next_loss(last, new, spare):
    assert has_spare_accuracy(last, new, PruneConfig(accuracy_requirement=0.7, alpha=0.95)) is spare


@pytest.mark.parametrize(
    ("old", "new", "beta", "built"),
    [
        (2.0, 1.0, 0.9, True),
        (2.0, 2.69, 0.9, True),  # drift may explain 50 %
        (2.0, 2.71, 0.9, False),
        (2.0, math.nan, 0.9, False),
    ],
)
def test_a_candidate_with_far_too_slow_programs_is_not_built(old, new, beta, built):
    decision = decide_prediction(old, new, beta)
    assert (decision is None) == built
    if decision is not None:
        assert not decision.accepted and "not built: its programs take" in decision.reason


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


@pytest.mark.parametrize("value", [0.5, np.float32(0.5), torch.tensor(0.5), np.array([0.5])])
def test_accuracies_of_every_numeric_type_become_floats(value):
    assert type(checked_accuracy(value, "evaluate")) is float
    assert checked_accuracy(value, "evaluate") == 0.5


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (
            92.5,
            r"Training.evaluate returned 92.5, expected an accuracy in \[0, 1\]: divide percentages by 100",
        ),
        (float("nan"), "returned nan, expected an accuracy"),
        (-0.1, "returned -0.1, expected an accuracy"),
        (None, "returned a NoneType, expected an accuracy"),
        (torch.zeros(2), "returned a Tensor, expected an accuracy"),
    ],
)
def test_an_invalid_accuracy_is_an_error(value, message):
    with pytest.raises(CPruneError, match=message):
        checked_accuracy(value, "evaluate")


@pytest.mark.parametrize("value", [(3, 4), [np.int64(3), np.int32(4)], (torch.tensor(3), 4)])
def test_counts_of_every_integer_type_become_integers(value):
    assert checked_counts(value, 4) == (3, 4)
    assert [type(number) for number in checked_counts(value, None)] == [int, int]


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (0.75, "returned 0.75, expected the numbers of correct images and of all images"),
        ((0.75, 4), r"returned \(0.75, 4\), expected the numbers"),
        ((1, 2, 3), "expected the numbers"),
        ((5, 4), "returned 5 correct images of 4"),
        ((0, 0), "returned 0 correct images of 0"),
        ((-1, 4), "returned -1 correct images of 4"),
        ((3, 9), "read 9 images of a validation split of 8: correct Training.validation_size"),
    ],
)
def test_invalid_counts_are_an_error(value, message):
    with pytest.raises(CPruneError, match=message):
        checked_counts(value, 8)
