# SPDX-License-Identifier: Apache-2.0
"""Progressive pruning: half of the latency at a time, as long as the network is accurate enough."""

import math
from collections.abc import Sequence
from dataclasses import replace

from tvm.contrib.cprune.loop.decision import stop_reason
from tvm.contrib.cprune.loop.run import AcceptedModel, Run
from tvm.contrib.cprune.loop.state import Event
from tvm.contrib.cprune.methods.actions import Action, Stop, Try
from tvm.contrib.cprune.methods.knapsack import costs_and_values
from tvm.contrib.cprune.methods.planned import PlannedMethod, candidates, groups_of
from tvm.contrib.cprune.methods.prediction import unpruned_layers
from tvm.contrib.cprune.methods.solver import fastest, most_important
from tvm.contrib.cprune.methods.staircases import LatencyModel, Staircase

# Share of the latency that a candidate keeps, until the first one that is rejected.
CUT = 0.5
# With a speedup as the goal, the predicted latency is this share of what is needed.
MARGIN = 0.97
# An accepted and a rejected candidate whose latencies have a smaller ratio are close enough.
RESOLUTION = 1.2
# Candidates in a row that cannot be built before the method stops.
MAX_UNBUILT = 3


class Progressive(PlannedMethod):
    """Prunes all groups together to half of the latency, again and again.

    The widths are those of ``Knapsack``, with half of the latency of the last accepted model as the limit of
    the linear program. Latencies are sums over the layers. No group becomes wider again. Each candidate that
    is faster is trained for a short time, and like the final model if that is not enough. After the first one
    that is rejected, candidates between it and the last accepted model follow.
    """

    def next(self, run: Run, baseline: AcceptedModel, current: AcceptedModel) -> Action:
        done, state = candidates(run), run.journal.state()
        # The staircases, which precede the first candidate, can take up the time limit.
        if done and (stop := stop_reason(state.speedup, len(done), state.seconds, run.config)):
            return Stop(stop)
        if reason := _cannot_be_built(done):
            return Stop(reason)
        total = sum(unpruned_layers(run, baseline).values())
        shares = [sum(event["layers_s"].values()) / total for event in done if event["accepted"]]
        kept = min(shares, default=1.0)
        rejected = [event for event in done if event["verdict"] in ("accuracy", "latency")]
        if not rejected:
            goal = run.config.speedup_goal
            needed = MARGIN * kept * state.speedup / goal if goal else 0.0
            return _next_try(run, baseline, current, max(kept * CUT, needed))
        nearest = max(rejected, key=lambda event: event["limit"])
        if kept < nearest["limit"] * RESOLUTION:
            return Stop(f"candidate {nearest['iteration']} was rejected: {nearest['reason']}")
        return _next_try(run, baseline, current, math.sqrt(kept * nearest["limit"]))


def _cannot_be_built(done: Sequence[Event]) -> str:
    """Return why too many candidates in a row cannot be built, "" if the last ones can."""
    last = done[-MAX_UNBUILT:]
    if len(last) < MAX_UNBUILT or any(event["verdict"] != "impossible" for event in last):
        return ""
    return f"{MAX_UNBUILT} candidates in a row cannot be built: {last[-1]['reason']}"


def _next_try(run: Run, baseline: AcceptedModel, current: AcceptedModel, limit: float) -> Action:
    """Return the most important candidate within a limit, or the fastest one if none is.

    Parameters
    ----------
    limit
        Largest sum of the latencies of the candidate's layers, as a share of that of the unpruned layers.

    Returns
    -------
    A ``Stop`` if no candidate is predicted to be faster than the last accepted model.
    """
    staircases, values = costs_and_values(run, baseline)
    base, done = unpruned_layers(run, baseline), candidates(run)
    model, choices = LatencyModel(staircases, base), _choices(done, staircases)
    for event, choice in zip(done, choices, strict=True):
        if "layers_s" in event:
            model = model.corrected(choice, event["layers_s"])
    own = {group.root: group.width for group in groups_of(run, current)}
    widest = {s.root: s.widths.index(own[s.root]) for s in staircases}
    problem, total = replace(model.problem(values), widest=widest), sum(base.values())
    excluded = [widest, *choices]
    chosen = most_important(problem, limit * total, excluded) or fastest(problem, excluded)
    if chosen is None or problem.seconds(chosen) >= problem.seconds(widest):
        return Stop("no other widths are predicted to be faster than those of the last accepted model")
    share = problem.seconds(chosen) / total
    widths = {s.root: s.widths[chosen[s.root]] for s in staircases}
    title = f"predicted {share:.3f} of the latency of all layers"
    required, facts = run.config.accuracy_requirement, {"limit": max(limit, share)}
    return Try(title, widths, train=True, required=required, facts=facts)


def _choices(done: Sequence[Event], staircases: Sequence[Staircase]) -> list[dict[str, int]]:
    """Return the index of each group's width in every candidate, which starts from the accepted ones."""
    current, choices = {s.root: s.widths[0] for s in staircases}, list[dict[str, int]]()
    for event in done:
        widths = current | {root: width for root, (_, width) in event["widths"].items()}
        choices.append({s.root: s.widths.index(widths[s.root]) for s in staircases})
        current = widths if event["accepted"] else current
    return choices
