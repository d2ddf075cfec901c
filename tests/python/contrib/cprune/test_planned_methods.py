# SPDX-License-Identifier: Apache-2.0
"""The order of actions of methods that measure candidates, and their reasons to accept one or to stop."""

from types import SimpleNamespace
from typing import Any

import pytest
import torch

from tvm.contrib.cprune.config import PruneConfig
from tvm.contrib.cprune.loop.history import phase_seconds
from tvm.contrib.cprune.loop.journal import Journal
from tvm.contrib.cprune.loop.run import Run
from tvm.contrib.cprune.methods import knapsack, netadapt, planned
from tvm.contrib.cprune.methods.actions import Accept, Action, Stop, Try
from tvm.contrib.cprune.methods.knapsack import Knapsack
from tvm.contrib.cprune.methods.planned import PlannedMethod
from tvm.contrib.cprune.types import ChannelGroup, CPruneError, GroupMember

BASELINE = {"event": "baseline", "accuracy_val": 0.9, "latency_s": [1.0], "seconds": 100.0}
IMPOSSIBLE = {"verdict": "impossible", "accepted": False, "reason": "no valid program"}


@pytest.fixture
def make_run(tmp_path):
    """Return a run with a journal, but without a model and a compiler that works."""

    def make(**settings: Any) -> Run:
        journal = Journal(tmp_path / "journal.jsonl")
        journal.append(BASELINE)
        compiler = SimpleNamespace(discard=discarded.append)
        common = {"model": None, "input_shape": (), "training": None, "folder": tmp_path, "labels": {}}
        return Run(
            **common,
            config=PruneConfig(**settings),
            compiler=compiler,
            journal=journal,
            report=lambda _: None,
        )

    discarded: list[str] = []
    return make


def measured(iteration: int, speedup: float, accuracy: float = 0.9) -> dict[str, Any]:
    event = {"iteration": iteration, "verdict": "measured", "accepted": False, "widths": {"a": [64, 32]}}
    event |= {"event": "candidate", "latency_s": [1 / speedup], "speedup": speedup, "accuracy_val": accuracy}
    return {**event, "layers_s": {"a": 1 / speedup}, "checkpoint": f"iteration-{iteration:03}"}


class Planned(PlannedMethod):
    """Measures two candidates and accepts the first; each decision takes 10 s, and the plan 4 of them."""

    def __init__(self, clock: SimpleNamespace) -> None:
        self.clock, self.seen = clock, []

    def next(self, run: Run, baseline: Any, current: Any) -> Action:
        self.seen.append(current.candidate)
        self.clock.now += 10
        if not self.seen[1:]:
            run.journal.append({"event": "plan", "widths": {}, "seconds": 4.0})
        actions: list[Action] = [Try("one", {}), Try("two", {}), Accept(1, "the best"), Stop("the end")]
        return actions[len(self.seen) - 1]


def test_all_seconds_of_a_method_are_in_the_journal_once(make_run, monkeypatch):
    run, clock = make_run(), SimpleNamespace(now=0.0)
    restored = []

    def attempt(run, *_):
        clock.now += 5
        return measured(len(planned.candidates(run)) + 1, 2.0)

    def restore(run, state, donor):
        clock.now += 3
        restored.append((state.checkpoint, donor.candidate))
        return SimpleNamespace(candidate="accepted") if state.checkpoint else donor

    monkeypatch.setattr(planned, "time", SimpleNamespace(monotonic=lambda: clock.now))
    monkeypatch.setattr(planned, "_attempt", attempt)
    monkeypatch.setattr(planned, "restore", restore)
    method = Planned(clock)
    assert method.prune(run, SimpleNamespace(candidate="unpruned")) == ("accepted", "the end")
    assert method.seen == ["unpruned"] * 3 + ["accepted"]
    assert restored == [("", "unpruned"), ("iteration-001", "unpruned")]
    seconds = [(event["event"], event["seconds"]) for event in run.journal.events[1:]]
    # The first candidate takes 3 s to restore the model, 10 s to decide less 4 s of the plan, and 5 s.
    expected = [("plan", 4), ("candidate", 14), ("candidate", 15), ("accepted", 10), ("stopped", 13)]
    assert seconds == expected
    assert phase_seconds(run.journal.events)["pruning"] == run.journal.state().seconds == clock.now == 56


def test_netadapt_tells_layers_that_cannot_shrink_from_candidates_that_are_not_faster(make_run):
    run = make_run(method="netadapt", accuracy_requirement=0.85)
    assert netadapt._choice(run, []) == Stop("no layer can be shrunk by 0.05 of the latency")
    reason = "1 of 2 candidates can be built, and none is faster"
    assert netadapt._choice(run, [IMPOSSIBLE, measured(2, 0.99)]) == Stop(reason)
    best = netadapt._choice(run, [IMPOSSIBLE, measured(2, 1.1, 0.86), measured(3, 1.1, 0.88)])
    assert best == Accept(3, "it is the most accurate of 3 candidates")


@pytest.mark.parametrize(
    ("speedup", "reason"),
    [
        (2.0, "a speedup of 2.00 meets the budget (a speedup of 2.00)"),
        (
            2.2,
            "a speedup of 2.20 meets the budget (a speedup of 2.00); "
            "all candidates that meet it are more than 5% faster",
        ),
        (1.95, "a speedup of 1.95 misses the budget (a speedup of 2.00) by 2.6%, within the tolerance of 5%"),
        (1.5, "no candidate meets the budget (a speedup of 2.00); the fastest reaches a speedup of 1.50"),
    ],
)
def test_knapsack_says_how_a_candidate_relates_to_the_budget(make_run, speedup, reason):
    run = make_run(method="knapsack", speedup_goal=2.0)
    done = [IMPOSSIBLE, measured(2, speedup), measured(3, 1.2)]
    assert knapsack._best(run, done, [9.0, 1.0, 3.0], 0.5) == Accept(2, reason)


def test_knapsack_tries_other_widths_until_all_its_candidates_failed(make_run, monkeypatch):
    """Each of two groups has a layer of half the latency, which is in proportion to the width."""
    run = make_run(method="knapsack", speedup_goal=2.0)
    widths = tuple(range(64, 0, -8))
    for root in "ab":
        layers = {root: [width / 128 for width in widths]}
        run.journal.append({"event": "staircase", "root": root, "widths": widths, "layers_s": layers})
    scores = {"a": torch.arange(64.0), "b": torch.ones(64)}
    groups = [ChannelGroup(root, 64, 1, (GroupMember(root, "out", 64, 1),)) for root in "ab"]
    monkeypatch.setattr(knapsack, "groups_of", lambda *_: groups)
    monkeypatch.setattr(knapsack, "scores_of", lambda *_: scores)
    table = SimpleNamespace(by_layer=lambda: {"a": 0.5, "b": 0.5})
    baseline: Any = SimpleNamespace(candidate=SimpleNamespace(table=table))
    tried: list[dict[str, int]] = []
    for number in range(1, knapsack.ROUNDS + 1):
        action = Knapsack().next(run, baseline, baseline)
        assert isinstance(action, Try) and action.widths not in tried
        # Half of the latency is half of the channels, less half of the tolerance.
        assert sum(action.widths.values()) <= 62
        tried.append(dict(action.widths))
        changes = {root: [64, width] for root, width in action.widths.items()}
        run.journal.append({**IMPOSSIBLE, "event": "candidate", "iteration": number, "widths": changes})
    assert sum(tried[0].values()) == 56 and len(tried) == 8
    with pytest.raises(CPruneError, match="no candidate can be built: no valid program"):
        Knapsack().next(run, baseline, baseline)
