# SPDX-License-Identifier: Apache-2.0
"""The search for a latency budget, on devices whose models are not as slow as the sum of their layers."""

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from chain_device import FULL, Device

from tvm.contrib.cprune.config import PruneConfig
from tvm.contrib.cprune.loop.journal import Journal
from tvm.contrib.cprune.methods import knapsack
from tvm.contrib.cprune.methods.actions import Accept, Stop, Try
from tvm.contrib.cprune.methods.budget_search import Bracket, Measurement, meets, next_choice
from tvm.contrib.cprune.methods.knapsack import ROUNDS, Knapsack
from tvm.contrib.cprune.methods.solver import Cost, WidthChoice
from tvm.contrib.cprune.types import ChannelGroup


@pytest.fixture
def search(tmp_path, monkeypatch) -> Callable[..., tuple[list[dict[str, Any]], Any]]:
    """Return a function that runs the method on a device until it builds nothing more."""

    def run_method(device: Device, **goal: Any) -> tuple[list[dict[str, Any]], Any]:
        journal = Journal(tmp_path / "journal.jsonl")
        unpruned = device.journal_staircases(journal)
        config = PruneConfig(method="knapsack", importance="taylor", **goal)
        run: Any = SimpleNamespace(config=config, journal=journal)
        table = SimpleNamespace(by_layer=lambda: device.layers(FULL))
        baseline: Any = SimpleNamespace(candidate=SimpleNamespace(table=table))
        while isinstance(action := Knapsack().next(run, baseline, baseline), Try):
            widths = dict(action.widths)
            seconds = device.model(widths)
            changes = {root: [full, widths[root]] for root, full in FULL.items() if widths[root] < full}
            event = {"event": "candidate", "iteration": len(built(journal)) + 1, "widths": changes}
            event |= {"layers_s": device.layers(widths), "latency_s": [seconds]}
            journal.append({**event, "speedup": unpruned / seconds})
        return built(journal), action

    def built(journal: Journal) -> list[dict[str, Any]]:
        return [event for event in journal.events if event["event"] == "candidate"]

    scores = {
        root: torch.linspace(2 - 0.1 * i, 0.2, full) / full for i, (root, full) in enumerate(FULL.items())
    }
    groups = [ChannelGroup(root, full, 1, ()) for root, full in FULL.items()]
    monkeypatch.setattr(knapsack, "groups_of", lambda *_: groups)
    monkeypatch.setattr(knapsack, "scores_of", lambda *_: scores)
    return run_method


@pytest.mark.parametrize("goal", [2, 3, 4, 6])
@pytest.mark.parametrize("seed", [0, 1])
def test_the_budget_is_met_within_5_percent_though_small_models_stay_in_the_cache(search, goal, seed):
    built, action = search(Device(seed), speedup_goal=goal)
    assert isinstance(action, Accept)
    accepted = built[action.iteration - 1]
    assert goal <= accepted["speedup"] <= goal / 0.95
    assert action.reason.endswith(f"meets the budget (a speedup of {goal:.2f})")
    assert len(built) <= 5


def test_a_budget_in_milliseconds_is_met_in_the_same_way(search):
    device = Device(0)
    milliseconds = device.model(FULL) * 1e3 / 4
    built, action = search(device, latency_goal=milliseconds)
    accepted = built[action.iteration - 1]
    assert 0.95 * milliseconds <= accepted["latency_s"][0] * 1e3 <= milliseconds


def test_a_model_that_cannot_meet_the_budget_is_the_fastest_one(search):
    built, action = search(Device(0), speedup_goal=1e4)
    narrowest = {root: [full, full // 8] for root, full in FULL.items()}
    assert [event["widths"] for event in built] == [narrowest]
    reached = f"a speedup of {built[0]['speedup']:.2f}"
    assert action == Accept(
        1, f"no candidate meets the budget (a speedup of 10000.00); the fastest reaches {reached}"
    )


def test_nothing_is_built_for_a_budget_that_is_met(search):
    built, action = search(Device(0), latency_goal=100)
    assert not built and action == Stop("the unpruned model meets the budget (100.000 ms)")


def line(widths: list[int]) -> WidthChoice:
    """Return the problem of one group whose importance and layer are in proportion to its width."""
    return WidthChoice({"a": np.array(widths, float)}, (Cost(("a",), np.array(widths, float)),), 0.0)


def search_widths(widths: list[int], latency: Callable[[int], float], budget: float) -> list[int]:
    """Return the widths that the search measures."""
    measured = [Measurement({"a": 0}, widths[0], latency(widths[0]))]
    while len(measured) <= ROUNDS and (chosen := next_choice(line(widths), budget, measured)):
        width = widths[chosen[0]["a"]]
        measured.append(Measurement(chosen[0], width, latency(width)))
    return [widths[model.choice["a"]] for model in measured[1:]]


def test_the_only_width_that_meets_the_budget_is_found():
    """A model of more than 30 channels is slower per channel, of 60 and more twice as slow."""
    latency = lambda width: width * min(1, max(0.5, width / 60))  # noqa: E731
    widths = list(range(100, 0, -1))
    assert [width for width in widths if meets(latency(width), 36)] == [46]
    tried = search_widths(widths, latency, 36)
    assert tried[-1] == 46 and len(tried) <= 5


def test_a_jump_of_latency_over_the_budget_is_found():
    """A model of more than 37 channels takes twice as long per channel."""
    tried = search_widths(list(range(100, 0, -1)), lambda width: width * (1 if width > 37 else 0.5), 30)
    assert len(set(tried)) == len(tried) <= 6
    assert max(width for width in tried if width <= 37) == 37


def test_the_search_ends_where_no_width_is_left_between_two_models():
    assert search_widths([100, 60, 30], float, 50) == [30, 60]
    # Nothing is faster than 60, and 100 is the unpruned model.
    assert search_widths([100, 60], float, 50) == [60]
    assert search_widths([100], float, 50) == []


def test_a_plateau_of_latency_ends_at_its_widest_model():
    """Latency is a multiple of 25: 50 channels are as fast as 26."""
    tried = search_widths(list(range(100, 0, -1)), lambda width: 25.0 * -(-width // 25), 60)
    assert len(set(tried)) == len(tried) <= ROUNDS
    assert max(width for width in tried if width <= 50) == 50


def test_a_slow_model_of_a_smaller_sum_does_not_end_the_search():
    problem, unpruned = line(list(range(100, 0, -1))), Measurement({"a": 0}, 100, 100)
    fast, slow = Measurement({"a": 60}, 40, 30), Measurement({"a": 65}, 35, 60)
    chosen = next_choice(problem, 50, [unpruned, fast, slow])
    assert chosen is not None and 40 < 100 - chosen[0]["a"] < 100
    # A model that is faster than the unpruned one, but whose layers take longer, leaves nothing to search.
    assert next_choice(problem, 50, [unpruned, Measurement({"a": 60}, 101, 30)]) is None


def test_latency_between_two_models_is_a_power_of_the_sum():
    bracket = Bracket(Measurement({}, 1, 1), Measurement({}, 4, 16))
    assert bracket.total_at(4) == pytest.approx(2)
    assert bracket.seconds_at(2) == pytest.approx(4)
    assert bracket.seconds_at(0.5) == pytest.approx(0.5)


def test_a_choice_that_cannot_be_built_is_replaced_by_the_next_best_one():
    problem, unpruned = line([8, 6, 4, 2]), Measurement({"a": 0}, 8, 8)
    # 4 of 8 channels meet a budget of 4.2; then 2 do, and then 6 are the fastest that are left.
    choices = [
        next_choice(problem, 4.2, [unpruned], unbuilt) for unbuilt in ([], [{"a": 2}], [{"a": 2}, {"a": 3}])
    ]
    assert [choice[0] for choice in choices if choice] == [{"a": 2}, {"a": 3}, {"a": 1}]
    assert next_choice(problem, 4.2, [unpruned], [{"a": index} for index in (1, 2, 3)]) is None
