# SPDX-License-Identifier: Apache-2.0
"""A latency budget: the knapsack problem of HALP (Shen et al., NeurIPS 2022), on tuned programs."""

import time
from collections.abc import Mapping, Sequence

import numpy as np
import torch

from tvm.contrib.cprune.loop.run import AcceptedModel, Run
from tvm.contrib.cprune.loop.state import Event
from tvm.contrib.cprune.methods.actions import Accept, Action, Stop, Try
from tvm.contrib.cprune.methods.budget_search import TOLERANCE, Measurement, meets, next_choice
from tvm.contrib.cprune.methods.planned import PlannedMethod, candidates, groups_of, scores_of
from tvm.contrib.cprune.methods.prediction import predicted_table, unpruned_layers
from tvm.contrib.cprune.methods.staircases import LatencyModel, Staircase
from tvm.contrib.cprune.methods.widths import widths_to_measure
from tvm.contrib.cprune.numerics import Array
from tvm.contrib.cprune.types import CandidateError, ChannelGroup, CPruneError, Latency

# Candidates to measure.
ROUNDS = 8


class Knapsack(PlannedMethod):
    """Keeps the most important channels that a latency budget allows.

    Staircases of latency are measured with transplanted programs. An integer linear program then chooses the
    widths, and the chosen model is built and measured, after the search that would otherwise follow at the
    end. Where it differs from its prediction, the staircases and the limit of the linear program are
    corrected, and it is solved again.
    """

    def next(self, run: Run, baseline: AcceptedModel, current: AcceptedModel) -> Action:
        done, budget = candidates(run), _budget(run)
        if accepted := run.journal.last("accepted"):
            return Stop(accepted["reason"])
        if _seconds(run, None) <= budget:
            return Stop(f"the unpruned model meets the budget ({_amount(run, budget)})")
        staircases, values = costs_and_values(run, baseline)
        tried = [_choice_of(event, staircases) for event in done]
        if len(done) < ROUNDS and (action := _next_try(run, baseline, staircases, values, done, tried)):
            return action
        if not done:
            return Stop("no widths are predicted to be faster than those of the unpruned model")
        kept = [sum(values[root][i] for root, i in choice.items()) for choice in tried]
        return _best(run, done, kept, budget)


def costs_and_values(run: Run, baseline: AcceptedModel) -> tuple[tuple[Staircase, ...], dict[str, Array]]:
    """Return the staircase of each group of the unpruned model, and what its widths are worth, by root.

    Staircases that are not in the journal are measured.
    """
    scores = scores_of(run, baseline)
    groups = [group for group in groups_of(run, baseline) if group.root in scores]
    staircases = tuple(_staircase(run, baseline, group) for group in groups)
    values = {
        group.root: values_at(group, staircase.widths, scores[group.root], run.config.importance)
        for group, staircase in zip(groups, staircases, strict=True)
    }
    return staircases, values


def values_at(group: ChannelGroup, widths: Sequence[int], scores: torch.Tensor, importance: str) -> Array:
    """Return what a group is worth at each width.

    The Taylor importance estimates a change of the loss, as in HALP, and is comparable between groups: that
    of all kept channels is added up. Other importances are not comparable. There, each layer of the group is
    assumed to lose the inverse of the share of importance that it keeps. The narrower a layer is, the more
    its next channel is worth; sums would keep few channels of some layers and all channels of others.

    Returns
    -------
    ``(len(widths),)``. For other importances than Taylor's, the value at the smallest width is 0. All values
    are 0 if no channel has any importance.
    """
    by_position = scores.reshape(group.round_to, -1).double().sum(0)
    kept = by_position.sort(descending=True).values.cumsum(0)
    values = np.array([float(kept[width // group.round_to - 1]) for width in widths])
    if importance == "taylor" or not values.any():
        return values
    layers = sum(member.side == "out" for member in group.members)
    inverse = float(kept[-1]) / values
    return layers * (inverse.max() - inverse)


def _budget(run: Run) -> float:
    """Return the budget in seconds."""
    config = run.config
    return _seconds(run, None) / config.speedup_goal if config.speedup_goal else config.latency_goal / 1e3


def _seconds(run: Run, event: Event | None) -> float:
    """Return the latency of a candidate, or of the unpruned model for None.

    A budget that is a speedup refers to the unpruned model timed in the same session as the candidate.
    """
    baseline = run.journal.last("baseline")
    assert baseline is not None
    unpruned = Latency(tuple(baseline["latency_s"])).median
    if event is None:
        return unpruned
    if run.config.speedup_goal:
        return float(unpruned / event["speedup"])
    return Latency(tuple(event["latency_s"])).median


def _amount(run: Run, seconds: float) -> str:
    """Return a latency as the user gave the budget: as a speedup or in milliseconds."""
    if run.config.speedup_goal:
        return f"a speedup of {_seconds(run, None) / seconds:.2f}"
    return f"{seconds * 1e3:.3f} ms"


def _staircase(run: Run, baseline: AcceptedModel, group: ChannelGroup) -> Staircase:
    """Return a group's staircase, measured unless it is in the journal."""
    for event in run.journal.events:
        if event["event"] == "staircase" and event["root"] == group.root:
            return Staircase.from_event(event)
    started, table = time.monotonic(), baseline.candidate.table
    widths, by_layer = [group.width], [table.by_layer()]
    for width in widths_to_measure(group, table, run.config)[1:]:
        try:
            by_layer.append(predicted_table(run, baseline, {group.root: width}).by_layer())
        except CandidateError:  # the candidate would fail, too
            continue
        widths.append(width)
    layers = by_layer[0].keys() & {"", *(member.layer for member in group.members)}
    event = {
        "event": "staircase",
        "root": group.root,
        "widths": widths,
        "layers_s": {layer: [seconds[layer] for seconds in by_layer] for layer in sorted(layers)},
        "trials": run.compiler.programs.trials(),
    }
    seconds = round(time.monotonic() - started, 2)
    return Staircase.from_event(run.record({**event, "seconds": seconds}))


def _choice_of(event: Event, staircases: Sequence[Staircase]) -> dict[str, int]:
    """Return the index of each group's width in a candidate."""
    widths = {root: width for root, (_, width) in event["widths"].items()}
    return {s.root: s.widths.index(widths.get(s.root, s.widths[0])) for s in staircases}


def _next_try(
    run: Run,
    baseline: AcceptedModel,
    staircases: tuple[Staircase, ...],
    values: Mapping[str, Array],
    done: Sequence[Event],
    tried: Sequence[Mapping[str, int]],
) -> Try | None:
    """Return the next candidate, None if no other one can come closer to the budget."""
    budget, base = _budget(run), unpruned_layers(run, baseline)
    model = LatencyModel(staircases, base)
    unpruned = {staircase.root: 0 for staircase in staircases}
    measured = [Measurement(unpruned, sum(base.values()), _seconds(run, None))]
    for event, choice in zip(done, tried, strict=True):
        if "layers_s" in event:
            layers = event["layers_s"]
            model = model.corrected(choice, layers)
            measured.append(Measurement(choice, sum(layers.values()), _seconds(run, event)))
    unbuilt = [choice for event, choice in zip(done, tried, strict=True) if "layers_s" not in event]
    chosen = next_choice(model.problem(values), budget, measured, unbuilt)
    if chosen is None:
        return None
    choice, seconds = chosen
    title = f"predicted {_amount(run, seconds)}; the budget is {_amount(run, budget)}"
    # The budget is for the programs that the model will have in the end.
    return Try(title, {s.root: s.widths[choice[s.root]] for s in staircases}, search=True)


def _best(run: Run, done: Sequence[Event], kept: Sequence[float], budget: float) -> Action:
    """Accept the most important candidate within the budget, or else the fastest."""
    measured = [(event, value) for event, value in zip(done, kept, strict=True) if "layers_s" in event]
    if not measured:
        raise CPruneError(f"no candidate can be built: {done[-1]['reason']}")
    within = [(event, value) for event, value in measured if _seconds(run, event) <= budget]
    if within:
        best = max(within, key=lambda item: item[1])[0]
    else:
        best = min(measured, key=lambda item: _seconds(run, item[0]))[0]
    reached, goal = _amount(run, _seconds(run, best)), f"the budget ({_amount(run, budget)})"
    excess = _seconds(run, best) / budget - 1
    if excess <= 0:
        unused = not any(meets(_seconds(run, event), budget) for event, _ in within)
        note = f"; all candidates that meet it are more than {TOLERANCE:.0%} faster" if unused else ""
        return Accept(best["iteration"], f"{reached} meets {goal}{note}")
    if excess <= TOLERANCE:
        text = f"{reached} misses {goal} by {excess:.1%}, within the tolerance of {TOLERANCE:.0%}"
        return Accept(best["iteration"], text)
    return Accept(best["iteration"], f"no candidate meets {goal}; the fastest reaches {reached}")
