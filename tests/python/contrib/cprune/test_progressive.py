# SPDX-License-Identifier: Apache-2.0
"""The method progressive: its candidates on a device without noise, and a whole run."""

import itertools
import math
import shutil
from collections.abc import Callable, Collection, Mapping
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from chain_device import FULL, Device
from method_runs import accuracy_by_width, config, interrupt_at, journal_of, predict_by_flops, run
from pruning import SHAPE, make_model, time_by_macs
from torch import nn

from tvm.contrib.cprune.compiler import Compiler
from tvm.contrib.cprune.config import PruneConfig
from tvm.contrib.cprune.loop.journal import Journal
from tvm.contrib.cprune.loop.training import Training
from tvm.contrib.cprune.methods import knapsack, planned, progressive
from tvm.contrib.cprune.methods.actions import Stop, Try
from tvm.contrib.cprune.methods.progressive import RESOLUTION, Progressive
from tvm.contrib.cprune.models.checkpoint import load_checkpoint
from tvm.contrib.cprune.types import ChannelGroup, GroupMember

Accuracy = Callable[[Mapping[str, int]], float]


class ExactDevice(Device):
    """A device without caches and errors: a model takes as long as its layers."""

    def model(self, widths: Mapping[str, int]) -> float:
        return sum(self.layers(widths).values())


def share_of_channels(widths: Mapping[str, int]) -> float:
    return sum(widths.values()) / sum(FULL.values())


class SlowDevice(ExactDevice):
    """Where more than one group is pruned, layers are slower than the staircases predict."""

    def layers(self, widths: Mapping[str, int]) -> dict[str, float]:
        pruned = sum(widths[root] < full for root, full in FULL.items())
        return {layer: seconds * 1.5 ** (pruned > 1) for layer, seconds in super().layers(widths).items()}


def groups_at(widths: Mapping[str, int]) -> list[ChannelGroup]:
    return [ChannelGroup(r, width, 1, (GroupMember(r, "out", width, 1),)) for r, width in widths.items()]


@pytest.fixture
def search(tmp_path, monkeypatch) -> Callable[..., tuple[list[dict[str, Any]], str]]:
    """Return a function that runs the method on a device, and returns its candidates and why it stopped."""

    def run_method(
        device: Device, accuracy: Accuracy, unbuilt: Collection[int] = (), **settings: Any
    ) -> tuple[list[dict[str, Any]], str]:
        journal = Journal(tmp_path / "journal.jsonl")
        unpruned = device.journal_staircases(journal)
        run: Any = SimpleNamespace(config=PruneConfig(method="progressive", **settings), journal=journal)
        table = SimpleNamespace(by_layer=lambda: device.layers(FULL))
        baseline: Any = SimpleNamespace(candidate=SimpleNamespace(table=table), widths=FULL)
        current, candidates = baseline, list[dict[str, Any]]()
        while isinstance(action := next_action(run, baseline, current), Try):
            assert action.train and not action.accept and action.required == run.config.accuracy_requirement
            old, new = current.widths, action.widths
            event = {
                "event": "candidate",
                "iteration": len(candidates) + 1,
                "accepted": False,
                **action.facts,
            }
            event["widths"] = {root: [old[root], new[root]] for root in new if new[root] != old[root]}
            event |= {"verdict": "impossible", "reason": "no valid program"}
            if len(candidates) + 1 not in unbuilt:
                event |= {"layers_s": device.layers(new), "speedup": unpruned / device.model(new)}
                event |= {"checkpoint": "", "seconds": 10}
                accepted = journal.state().speedup
                # Others are not evaluated.
                if event["speedup"] > accepted:
                    event["accuracy_val"] = accuracy(new)
                verdict, reason = planned._decide(event, accepted, action.required)
                event |= {"verdict": verdict, "reason": reason, "accepted": verdict == "accepted"}
            current = SimpleNamespace(widths=new) if event["accepted"] else current
            candidates.append(journal.append(event))
        assert isinstance(action, Stop)
        return candidates, action.reason

    def next_action(run: Any, baseline: Any, current: Any) -> Any:
        action = Progressive().next(run, baseline, current)
        # It follows from the journal: a resumed run decides the same.
        assert Progressive().next(run, baseline, current) == action
        return action

    scores = {root: torch.linspace(2, 0.2, full) for root, full in FULL.items()}
    monkeypatch.setattr(knapsack, "groups_of", lambda *_: groups_at(FULL))
    monkeypatch.setattr(knapsack, "scores_of", lambda *_: scores)
    monkeypatch.setattr(progressive, "groups_of", lambda _, current: groups_at(current.widths))
    return run_method


def test_the_latency_is_halved_until_the_accuracy_fails_and_then_bisected(search):
    tried, stop = search(ExactDevice(0), share_of_channels, accuracy_requirement=0.5)
    accepted = [event for event in tried if event["accepted"]]
    rejected = [event for event in tried if not event["accepted"]]
    assert len(accepted) >= 2 and len(rejected) >= 1 and len(tried) <= 8
    assert all(event["accuracy_val"] >= 0.5 for event in accepted)
    assert all(event["accuracy_val"] < 0.5 and event["verdict"] == "accuracy" for event in rejected)
    # Until the first rejection, each candidate has at most half of the latency of the one before.
    speedups = [1.0, *(event["speedup"] for event in tried[: rejected[0]["iteration"]])]
    assert all(new >= 2 * old * (1 - 1e-6) for old, new in itertools.pairwise(speedups))
    # Accepted models become faster, and no group becomes wider.
    speedups = [1.0, *(event["speedup"] for event in accepted)]
    assert speedups == sorted(set(speedups))
    for event in tried:
        assert event["widths"] and all(new < old for old, new in event["widths"].values())
    # The limits are used up: no other channels could be kept.
    shares = [sum(event["layers_s"].values()) / ExactDevice(0).model(FULL) for event in tried]
    assert all(0.8 < share / event["limit"] <= 1 for share, event in zip(shares, tried, strict=True))
    # In the end, the accepted model and the nearest rejected one are close.
    nearest = max(rejected, key=lambda event: event["limit"])
    assert 1 < 1 / nearest["limit"] / accepted[-1]["speedup"] < RESOLUTION
    assert stop == (
        f"candidate {nearest['iteration']} was rejected: with a speedup of {nearest['speedup']:.2f}, "
        f"accuracy {nearest['accuracy_val']:.4f} is below the requirement of 0.5000"
    )


def test_a_candidate_halfway_follows_if_the_first_one_fails(search):
    tried, _ = search(ExactDevice(0), share_of_channels, accuracy_requirement=0.9)
    assert [event["limit"] for event in tried[:2]] == [0.5, pytest.approx(math.sqrt(0.5))]


def test_without_a_requirement_it_stops_at_the_lowest_latency(search):
    tried, stop = search(ExactDevice(0), lambda _: 0.0)
    assert stop == "latency fell to 0.1 of the unpruned model's"
    assert all(event["accepted"] for event in tried) and 10 <= tried[-1]["speedup"] < 20


def test_the_most_important_channels_are_kept(search, monkeypatch):
    """Channels of ``a`` matter little beyond the first 8; those of the other groups are equal."""
    scores = {root: torch.ones(full) for root, full in FULL.items()}
    scores["a"][8:] = 1e-3
    monkeypatch.setattr(knapsack, "scores_of", lambda *_: scores)
    tried, _ = search(ExactDevice(0), lambda _: 0.9, max_iterations=1)
    kept = {root: new / old for root, (old, new) in tried[0]["widths"].items()}
    assert kept["a"] == 1 / 8 == min(kept.values())
    assert all(kept.get(root, 1) > 1 / 8 for root in FULL if root != "a")


@pytest.mark.parametrize(
    ("settings", "reason", "candidates"),
    [
        ({"max_iterations": 1}, "the limit of 1 iteration was reached", 1),
        ({"max_seconds": 15}, "the time budget of 15 s is used up", 2),
    ],
)
def test_it_stops_at_its_limits(search, settings, reason, candidates):
    tried, stop = search(ExactDevice(0), lambda _: 0.9, **settings)
    assert stop == reason
    assert [event["accepted"] for event in tried] == [True] * candidates


def test_the_time_of_the_staircases_leaves_the_first_candidate(search, monkeypatch):
    journal_staircases = Device.journal_staircases

    def slow_staircases(device, journal):
        unpruned = journal_staircases(device, journal)
        journal.append({"event": "plan", "seconds": 1000})
        return unpruned

    monkeypatch.setattr(Device, "journal_staircases", slow_staircases)
    tried, stop = search(ExactDevice(0), lambda _: 0.9, max_seconds=15)
    assert len(tried) == 1 and stop == "the time budget of 15 s is used up"


@pytest.mark.parametrize("goal", [1.5, 2.2, 3.0, 5.0])
def test_a_speedup_that_is_the_goal_is_reached_and_hardly_exceeded(search, goal):
    tried, stop = search(ExactDevice(0), lambda _: 0.9, speedup_goal=goal)
    assert stop == f"the speed-up goal of {goal} was reached"
    assert goal <= tried[-1]["speedup"] < 1.25 * goal


def test_layers_that_are_slower_than_predicted_are_halved_from_their_measured_latency(search):
    tried, _ = search(SlowDevice(0), lambda _: 0.9, max_iterations=2)
    share = sum(tried[0]["layers_s"].values()) / SlowDevice(0).model(FULL)
    assert tried[0]["limit"] == 0.5 < share
    assert tried[1]["limit"] == pytest.approx(share / 2)


def test_it_stops_where_all_widths_are_the_smallest(search):
    tried, stop = search(ExactDevice(0), lambda _: 0.9, latency_floor=0.0)
    assert stop == "no other widths are predicted to be faster than those of the last accepted model"
    widths = dict(FULL)
    for event in tried:
        widths |= {root: new for root, (_, new) in event["widths"].items()}
    assert widths == {root: full // 8 for root, full in FULL.items()} and tried[-1]["accepted"]


@pytest.mark.parametrize("unbuilt", [(1, 2), (2,), (1, 3, 5)])
def test_candidates_that_cannot_be_built_do_not_end_the_search(search, unbuilt):
    tried, stop = search(ExactDevice(0), lambda _: 0.9, unbuilt)
    assert [event["iteration"] for event in tried if not event["accepted"]] == list(unbuilt)
    # The next one has other widths for the same limit.
    for number in unbuilt:
        failed, other = tried[number - 1 : number + 1]
        assert failed["limit"] == other["limit"] and failed["widths"] != other["widths"]
    assert tried[-1]["speedup"] >= 10 and stop == "latency fell to 0.1 of the unpruned model's"


def test_it_stops_after_three_candidates_in_a_row_that_cannot_be_built(search):
    tried, stop = search(ExactDevice(0), lambda _: 0.9, unbuilt=(2, 3, 4))
    assert [event["accepted"] for event in tried] == [True, False, False, False]
    assert stop == "3 candidates in a row cannot be built: no valid program"


def test_a_candidate_that_is_not_faster_is_rejected(search):
    class FixedDevice(ExactDevice):
        """Takes a second for any model: the sums of the layers mislead."""

        def model(self, widths: Mapping[str, int]) -> float:
            return 1.0

    tried, stop = search(FixedDevice(0), lambda _: 0.9, accuracy_requirement=0.5)
    assert tried and {event["verdict"] for event in tried} == {"latency"}
    assert stop.endswith("was rejected: a speedup of 1.00 is not above the last accepted 1.00")


def test_a_run_keeps_the_required_accuracy_and_continues_after_a_kill(tuned_run, tmp_path, monkeypatch):
    monkeypatch.setattr(Compiler, "time", time_by_macs)
    predict_by_flops(monkeypatch)
    shutil.copytree(tuned_run("chain", make_model(), SHAPE) / "records", tmp_path / "records")
    trained: list[nn.Module] = []
    training = Training(short_term=trained.append, evaluate=accuracy_by_width)
    settings = config("progressive", accuracy_requirement=0.7)
    for kind, count in (("staircase", 2), ("candidate", 1), ("candidate", 2)):
        with pytest.raises(KeyboardInterrupt):
            run(tmp_path, settings, training, interrupt_at(count, kind), resume=kind != "staircase")
    begun = journal_of(tmp_path, "staircase") + journal_of(tmp_path, "candidate")
    result = run(tmp_path, settings, training, resume=True)
    staircases, candidates = (journal_of(tmp_path, kind) for kind in ("staircase", "candidate"))
    assert begun == staircases + candidates[:3]
    assert [event["root"] for event in staircases] == ["a", "b", "c"]
    assert len(trained) == len(candidates) == len(result["iterations"])
    accepted = [event for event in candidates if event["accepted"]]
    assert 1 <= len(accepted) == result["accepted"] < len(candidates)
    # Candidates start from the last accepted model, whose widths become those of the result.
    current = dict(result["baseline"]["widths"])
    for event in candidates:
        assert all(old == current[root] > new for root, (old, new) in event["widths"].items())
        assert event["accepted"] == (event["accuracy_val"] >= 0.7)
        if event["accepted"]:
            current |= {root: new for root, (_, new) in event["widths"].items()}
    assert result["pruned"]["widths"] == current
    assert result["speedup"] == pytest.approx(accepted[-1]["speedup"])
    assert "is below the requirement of 0.7000" in result["stopped_because"]
    assert result["method"]["accuracy_requirement"] == 0.7


def test_a_candidate_that_lacks_accuracy_is_trained_like_the_final_model(tuned_run, tmp_path, monkeypatch):
    monkeypatch.setattr(Compiler, "time", time_by_macs)
    predict_by_flops(monkeypatch)
    shutil.copytree(tuned_run("chain", make_model(), SHAPE) / "records", tmp_path / "records")
    seeds = list[int]()

    def bias(model: nn.Module) -> nn.Parameter:
        return [value for name, value in model.named_parameters() if name.endswith("bias")][-1]

    def long(model: nn.Module) -> None:
        seeds.append(torch.initial_seed())
        if len(seeds) == 1:
            raise KeyboardInterrupt
        bias(model).data.fill_(7)

    def accuracy(model: nn.Module) -> float:
        return accuracy_by_width(model) + 0.1 * bool((bias(model) == 7).all())

    training = Training(lambda model: bias(model).data.fill_(0), evaluate=accuracy, long_term=long)
    settings = config("progressive", accuracy_requirement=0.7)
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path, settings, training)
    run(tmp_path, settings, training, resume=True)
    candidates = journal_of(tmp_path, "candidate")
    longer = [event for event in candidates if "accuracy_short_term" in event]
    assert {event["accepted"] for event in longer} == {True, False} and len(longer) < len(candidates)
    for event in longer:
        assert event["accuracy_short_term"] < 0.7
        assert event["accuracy_val"] == pytest.approx(event["accuracy_short_term"] + 0.1)
        assert "after the long-term training" in event["reason"]
    for event in candidates:
        assert event["accepted"] == (event["accuracy_val"] >= 0.7)
        # The weights after all trainings are kept.
        model = load_checkpoint(tmp_path, event["checkpoint"], make_model())
        assert bool((bias(model) == 7).all()) == (event in longer)
    # The training during which the run was killed is repeated with the same seed.
    first, *others = [event["iteration"] for event in longer]
    assert seeds[:-1] == [settings.seed + number for number in (first, first, *others)]
