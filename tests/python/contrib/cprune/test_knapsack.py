# SPDX-License-Identifier: Apache-2.0
"""The method knapsack: the solver against brute force, and predictions on known latencies."""

import itertools
from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy.optimize import OptimizeResult

from tvm.contrib.cprune.methods import solver
from tvm.contrib.cprune.methods.knapsack import values_at
from tvm.contrib.cprune.methods.solver import Cost, WidthChoice, fastest, most_important
from tvm.contrib.cprune.methods.staircases import LatencyModel, Staircase
from tvm.contrib.cprune.types import ChannelGroup, CPruneError, GroupMember


def random_problem(seed: int) -> WidthChoice:
    """Return a problem of four groups in a chain, with a layer of its own for each and one between two."""
    generator = np.random.default_rng(seed)
    sizes = {"a": 4, "b": 3, "c": 5, "d": 2}
    values = {root: np.sort(generator.random(size))[::-1] for root, size in sizes.items()}
    single = [Cost((root,), np.sort(generator.random(size) * 1e-4)[::-1]) for root, size in sizes.items()]
    pairs = [
        Cost((one, two), generator.random((sizes[one], sizes[two])) * 1e-4)
        for one, two in itertools.pairwise(sizes)
    ]
    return WidthChoice(values, (*single, *pairs), 5e-5)


def brute_force(problem: WidthChoice) -> list[tuple[float, float, dict[str, int]]]:
    """Return importance, latency and indices of every choice, computed without ``WidthChoice.seconds``."""
    choices = []
    for indices in itertools.product(*(range(len(values)) for values in problem.values.values())):
        choice = dict(zip(problem.values, indices, strict=True))
        seconds = problem.constant
        for cost in problem.costs:
            seconds += float(cost.seconds.item(*(choice[root] for root in cost.roots)))
        gained = sum(float(problem.values[root][i]) for root, i in choice.items())
        choices.append((gained, seconds, choice))
    return choices


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("share", [0.4, 0.6, 0.9])
def test_the_choice_is_the_best_of_all(seed, share):
    problem = random_problem(seed)
    choices = brute_force(problem)
    slowest = max(seconds for _, seconds, _ in choices)
    least = min(choices, key=lambda item: item[1])
    assert fastest(problem) == least[2]
    assert problem.seconds(least[2]) == pytest.approx(least[1])
    budget = share * slowest
    allowed = [item for item in choices if item[1] <= budget]
    chosen = most_important(problem, budget)
    if not allowed:
        assert chosen is None
        return
    assert chosen is not None
    best = max(item[0] for item in allowed)
    gained, seconds, _ = next(item for item in choices if item[2] == chosen)
    assert seconds <= budget * (1 + 1e-6)
    assert gained >= best * (1 - 1e-3)


@pytest.mark.parametrize("share", [0.5, 0.8])
def test_excluded_choices_are_not_made_again(share):
    problem = random_problem(1)
    budget = share * max(seconds for _, seconds, _ in brute_force(problem))
    allowed = sorted((item for item in brute_force(problem) if item[1] <= budget), key=lambda item: -item[0])
    excluded: list[dict[str, int]] = []
    for _ in range(3):
        choice = most_important(problem, budget, excluded)
        assert choice is not None and choice not in excluded
        best = next(gained for gained, _, other in allowed if other not in excluded)
        assert next(item[0] for item in allowed if item[2] == choice) >= best * (1 - 1e-3)
        excluded.append(choice)
    order = [choice for _, _, choice in sorted(brute_force(problem), key=lambda item: item[1])]
    assert fastest(problem, order[:2]) == order[2]
    assert fastest(problem, order) is None


def test_widths_above_the_widest_are_not_chosen():
    problem, widest = random_problem(2), {"a": 2, "c": 1}
    choices = [
        item for item in brute_force(problem) if all(item[2][root] >= index for root, index in widest.items())
    ]
    narrowed = replace(problem, widest=widest)
    assert fastest(narrowed) == min(choices, key=lambda item: item[1])[2]
    budget = 0.8 * max(seconds for _, seconds, _ in choices)
    best = max(gained for gained, seconds, _ in choices if seconds <= budget)
    chosen, unlimited = most_important(narrowed, budget), most_important(problem, budget)
    gained = {tuple(choice.values()): gained for gained, _, choice in choices}
    assert chosen is not None and unlimited is not None
    assert gained[tuple(chosen.values())] >= best * (1 - 1e-3)
    assert tuple(unlimited.values()) not in gained


def test_channels_without_importance_are_no_error():
    problem = random_problem(0)
    zeros = WidthChoice({root: 0 * values for root, values in problem.values.items()}, problem.costs, 5e-5)
    budget = 0.6 * max(seconds for _, seconds, _ in brute_force(problem))
    choice = most_important(zeros, budget)
    assert choice is not None and problem.seconds(choice) <= budget * (1 + 1e-6)


def test_an_unfinished_solution_is_an_error_and_not_a_missing_choice(monkeypatch):
    unfinished = OptimizeResult(x=None, status=1, message="Node limit reached.")
    monkeypatch.setattr(solver, "milp", lambda *_, **__: unfinished)
    with pytest.raises(CPruneError, match="found no widths for the budget: Node limit reached"):
        most_important(random_problem(0), 1.0)


def test_no_choice_meets_a_budget_below_the_fastest():
    problem = random_problem(0)
    choice = fastest(problem)
    assert choice is not None
    least = problem.seconds(choice)
    assert most_important(problem, least * 0.99) is None
    assert most_important(problem, least * 1.0001) == choice


WIDTHS = {"a": (64, 48, 32, 16), "b": (64, 48, 32, 16), "c": (32, 24, 16, 8)}


def true_layers(a: int, b: int, c: int) -> dict[str, float]:
    """Return the latencies of layers; "bc" has a fixed part, so that the product rule is wrong for it."""
    return {"a": a * 1e-6, "ab": a * b * 2e-8, "bc": 2e-5 + b * c * 4e-8, "c": c * 1e-6, "other": 1e-5}


def staircases() -> tuple[Staircase, ...]:
    full = {root: widths[0] for root, widths in WIDTHS.items()}
    layers = {"a": ("a", "ab"), "b": ("ab", "bc"), "c": ("bc", "c")}
    return tuple(
        Staircase(
            root,
            WIDTHS[root],
            {
                layer: tuple(true_layers(**{**full, root: w})[layer] for w in WIDTHS[root])
                for layer in layers[root]
            },
        )
        for root in WIDTHS
    )


def total(choice: dict[str, int]) -> float:
    return sum(true_layers(**{root: WIDTHS[root][i] for root, i in choice.items()}).values())


def test_a_measurement_corrects_the_latency_model():
    values = {root: np.array(widths, float) for root, widths in WIDTHS.items()}
    full = dict.fromkeys(WIDTHS, 0)
    model = LatencyModel(staircases(), true_layers(64, 64, 32))
    assert model.problem(values).seconds(full) == pytest.approx(total(full))
    for root in WIDTHS:  # one group alone: measured, not predicted
        alone = {**full, root: 2}
        assert model.problem(values).seconds(alone) == pytest.approx(total(alone))
    both = {"a": 1, "b": 2, "c": 3}
    # By hand: the rule takes (2e-5 + 32 * 32 * 4e-8) * (2e-5 + 64 * 8 * 4e-8) / (2e-5 + 64 * 32 * 4e-8).
    wrong = (2e-5 + 4.096e-5) * (2e-5 + 2.048e-5) / (2e-5 + 8.192e-5)
    right = 2e-5 + 1.024e-5
    assert model.problem(values).seconds(both) == pytest.approx(total(both) + wrong - right)
    widths = {root: WIDTHS[root][i] for root, i in both.items()}
    better = model.corrected(both, true_layers(**widths))
    assert better.problem(values).seconds(both) == pytest.approx(total(both))


def test_a_measurement_corrects_only_similar_widths():
    widths = (64, 48, 32, 16, 8)
    shares = tuple(width / 64 for width in widths)
    stairs = tuple(Staircase(root, widths, {"layer": shares}) for root in "ab")
    values = {root: np.array(widths, float) for root in "ab"}
    model = LatencyModel(stairs, {"layer": 1.0})

    def ratio(a: int, b: int, by: LatencyModel) -> float:
        return by.problem(values).seconds({"a": a, "b": b}) / (shares[a] * shares[b])

    # At 8 of 64 channels each, the layer takes a fifth of the predicted 1/64 s.
    once = model.corrected({"a": 4, "b": 4}, {"layer": 0.2 / 64})
    assert ratio(4, 4, once) == pytest.approx(0.2)
    assert 0.2 < ratio(3, 4, once) < ratio(2, 4, once) < 1
    assert 0.9 < ratio(1, 1, once) < 1
    # One group alone was measured.
    assert ratio(4, 0, once) == ratio(0, 4, once) == pytest.approx(1)
    # A measurement elsewhere has its own part of the table.
    twice = once.corrected({"a": 1, "b": 1}, {"layer": 1.3 * 0.75**2})
    assert ratio(4, 4, twice) == pytest.approx(0.2)
    assert ratio(1, 1, twice) == pytest.approx(1.3)
    assert ratio(3, 4, once) == pytest.approx(ratio(3, 4, twice), rel=0.02)
    # The last measurement of the same widths counts.
    again = twice.corrected({"a": 4, "b": 4}, {"layer": 0.4 / 64})
    assert ratio(4, 4, again) == pytest.approx(0.4)


@pytest.mark.parametrize("share", [0.3, 0.45, 0.7])
def test_rounds_of_correction_lead_to_the_budget(share):
    values = {root: np.array(widths, float) for root, widths in WIDTHS.items()}
    full = dict.fromkeys(WIDTHS, 0)
    budget = share * total(full)
    model = LatencyModel(staircases(), true_layers(64, 64, 32))
    tried = []
    for _ in range(4):
        choice = most_important(model.problem(values), budget)
        assert choice is not None
        if choice in tried:
            break
        tried.append(choice)
        widths = {root: WIDTHS[root][i] for root, i in choice.items()}
        model = model.corrected(choice, true_layers(**widths))
    every = [dict(zip(WIDTHS, indices, strict=True)) for indices in itertools.product(range(4), repeat=3)]
    best = max(sum(values[r][i] for r, i in c.items()) for c in every if total(c) <= budget)
    within = [c for c in tried if total(c) <= budget]
    assert within
    assert max(sum(values[root][i] for root, i in c.items()) for c in within) >= 0.9 * best


def test_a_layer_of_three_groups_adds_their_savings():
    stairs = tuple(
        Staircase(root, (8, 4), {"cat": (9e-6, 9e-6 - saving)}) for root, saving in SAVINGS.items()
    )
    values = {root: np.array([2.0, 1.0]) for root in SAVINGS}
    model = LatencyModel(stairs, {"cat": 9e-6, "other": 1e-6})
    assert model.problem(values).seconds({"p": 1, "q": 0, "r": 1}) == pytest.approx(10e-6 - 4e-6)
    corrected = model.corrected({"p": 1, "q": 1, "r": 1}, {"cat": 6e-6, "other": 1e-6})
    # The sum of all savings is 6 us of 9 us, but the measured latency is 6 us.
    assert corrected.problem(values).seconds({"p": 1, "q": 1, "r": 1}) == pytest.approx(7e-6)
    # The correction is one of the savings: the unpruned layer takes as long as before.
    assert corrected.problem(values).seconds({"p": 0, "q": 0, "r": 0}) == pytest.approx(10e-6)
    # A measurement of one group alone counts, too: it takes 7 us of 10 us, and not 10 us - 3 us * 0.5.
    again = corrected.corrected({"p": 0, "q": 0, "r": 1}, {"cat": 6e-6, "other": 1e-6})
    assert again.problem(values).seconds({"p": 0, "q": 0, "r": 1}) == pytest.approx(7e-6)


def test_groups_together_never_save_a_whole_layer():
    stairs = tuple(Staircase(root, (8, 4), {"cat": (8e-6, 2e-6)}) for root in SAVINGS)
    values = {root: np.array([2.0, 1.0]) for root in SAVINGS}
    problem = LatencyModel(stairs, {"cat": 8e-6}).problem(values)
    # The savings of 6 us each are reduced to 90 % of 8 us in total.
    assert problem.seconds(dict.fromkeys(SAVINGS, 1)) == pytest.approx(0.8e-6)
    assert problem.seconds({"p": 1, "q": 0, "r": 0}) == pytest.approx(8e-6 - 2.4e-6)


SAVINGS = {"p": 1e-6, "q": 2e-6, "r": 3e-6}


def test_the_value_of_a_width_is_that_of_the_best_channels():
    members = (GroupMember("a", "out", 6, 1), GroupMember("b", "out", 6, 1), GroupMember("c", "in", 6, 1))
    group = ChannelGroup("a", 6, 2, members)
    scores = torch.tensor([1.0, 5, 3, 2, 0, 7])  # sums of positions: 3, 5, 10
    assert values_at(group, (6, 4, 2), scores, "taylor").tolist() == [18, 15, 10]
    # Twice, for two layers: 18 / 10 less 18 / 18, 18 / 15 and 18 / 10.
    assert values_at(group, (6, 4, 2), scores, "l1").tolist() == pytest.approx([1.6, 1.2, 0])
    assert not values_at(group, (6, 4, 2), torch.zeros(6), "l1").any()
