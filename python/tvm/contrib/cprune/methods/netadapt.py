# SPDX-License-Identifier: Apache-2.0
"""NetAdapt (Yang et al., ECCV 2018): equal cuts of latency, of which the most accurate one is kept."""

import time
from bisect import bisect_left
from collections.abc import Sequence

from tvm.contrib.cprune.loop.decision import stop_reason
from tvm.contrib.cprune.loop.run import AcceptedModel, Run
from tvm.contrib.cprune.loop.state import Event
from tvm.contrib.cprune.methods.actions import Accept, Action, Stop, Try
from tvm.contrib.cprune.methods.planned import PlannedMethod, groups_of, scores_of
from tvm.contrib.cprune.methods.prediction import predicted_table
from tvm.contrib.cprune.methods.widths import fitting_widths
from tvm.contrib.cprune.models.surgery import widths
from tvm.contrib.cprune.types import CandidateError, ChannelGroup


class NetAdapt(PlannedMethod):
    """Shrinks each channel group alone by the same latency, and keeps the most accurate candidate.

    Latencies are the sums of the task latencies of transplanted programs, where the paper looks them up in a
    table. Each group gets the largest fitting width that removes ``PruneConfig.latency_cut`` of the latency.
    """

    def next(self, run: Run, baseline: AcceptedModel, current: AcceptedModel) -> Action:
        plan, tried = _iteration(run)
        if plan is None:
            state = run.journal.state()
            rounds = sum(event["event"] == "plan" for event in run.journal.events)
            if stop := stop_reason(state.speedup, rounds, state.seconds, run.config):
                return Stop(stop)
            started = time.monotonic()
            plan = {"event": "plan", "widths": _plan(run, current)}
            run.journal.append({**plan, "seconds": round(time.monotonic() - started, 2)})
        for root, width in list(plan["widths"].items())[len(tried) :]:
            return Try(f"{root} alone", {root: width}, train=True)
        return _choice(run, tried)


def _iteration(run: Run) -> tuple[Event | None, list[Event]]:
    """Return the plan of the current iteration, None if it has none yet, and its candidates."""
    tried: list[Event] = []
    for event in reversed(run.journal.events):
        if event["event"] == "plan":
            return event, tried[::-1]
        if event["event"] == "accepted":
            break
        if event["event"] == "candidate":
            tried.append(event)
    return None, []


def _plan(run: Run, current: AcceptedModel) -> dict[str, int]:
    """Return the width that each group is shrunk to, alone, by root; groups that cannot are missing."""
    scores, originals = scores_of(run, current), widths(run.model)
    plan = {}
    for group in groups_of(run, current):
        rungs = fitting_widths(group, current.candidate.table, originals[group.root], run.config)[1:]
        width = _width_for_cut(run, current, group, rungs) if group.root in scores else None
        if width is not None:
            plan[group.root] = width
    return plan


def _width_for_cut(run: Run, current: AcceptedModel, group: ChannelGroup, rungs: Sequence[int]) -> int | None:
    """Return the largest of some widths that removes enough latency, None if there is none.

    Parameters
    ----------
    rungs
        Widths in descending order, at which the latency falls.
    """
    table = current.candidate.table
    layers = {"", *(member.layer for member in group.members)}
    affected = sum(seconds for layer, seconds in table.by_layer().items() if layer in layers)
    goal = (1 - run.config.latency_cut) * table.predicted
    # The group's layers take too little time to save so much.
    if not rungs or table.predicted - affected > goal:
        return None

    def is_enough(width: int) -> bool:
        try:
            return predicted_table(run, current, {group.root: width}).predicted <= goal
        except CandidateError:  # the candidate would fail, too
            return False

    if not is_enough(rungs[-1]):
        return None
    return rungs[bisect_left(rungs, True, hi=len(rungs) - 1, key=is_enough)]


def _choice(run: Run, tried: Sequence[Event]) -> Action:
    """Accept the most accurate of the candidates that are faster than the accepted model."""
    state, required = run.journal.state(), run.config.accuracy_requirement
    faster = [event for event in tried if event.get("speedup", 0) > state.speedup]
    if not tried:
        return Stop(f"no layer can be shrunk by {run.config.latency_cut:g} of the latency")
    if not faster:
        built = sum("speedup" in event for event in tried)
        return Stop(f"{built} of {len(tried)} candidates can be built, and none is faster")
    best = max(faster, key=lambda event: (event["accuracy_val"], event["speedup"]))
    if best["accuracy_val"] < required:
        return Stop(
            f"accuracy {best['accuracy_val']:.4f} of the best of {len(tried)} candidates is below the "
            f"requirement of {required:.4f}"
        )
    return Accept(best["iteration"], f"it is the most accurate of {len(tried)} candidates")
