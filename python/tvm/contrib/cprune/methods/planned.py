# SPDX-License-Identifier: Apache-2.0
"""The run of a method that decides widths by itself: candidates are measured, and some are accepted."""

import time
from abc import abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch

from tvm.contrib.cprune.compiler import Candidate
from tvm.contrib.cprune.loop.baseline import restore
from tvm.contrib.cprune.loop.evaluation import evaluate
from tvm.contrib.cprune.loop.run import AcceptedModel, Run
from tvm.contrib.cprune.loop.scoring import scorer_of
from tvm.contrib.cprune.loop.state import Event
from tvm.contrib.cprune.methods.method import Method
from tvm.contrib.cprune.models.checkpoint import save_checkpoint
from tvm.contrib.cprune.models.surgery import channels_to_drop
from tvm.contrib.cprune.types import CandidateError, ChannelGroup, ChannelStep, CPruneError


@dataclass(frozen=True)
class Try:
    """Build, time and evaluate a candidate.

    Attributes
    ----------
    title
        What the candidate is, for reports.
    widths
        New number of channels by root of the group.
    train
        Train the candidate for a short time before it is evaluated.
    accept
        Accept the candidate without a comparison with others.
    """

    title: str
    widths: Mapping[str, int]
    train: bool = False
    accept: bool = False


@dataclass(frozen=True)
class Accept:
    """Accept the candidate of an earlier iteration."""

    iteration: int
    reason: str


@dataclass(frozen=True)
class Stop:
    """Prune no further."""

    reason: str


Action = Try | Accept | Stop


class PlannedMethod(Method):
    """A method whose next action follows from the journal and the accepted model: runs can resume."""

    @abstractmethod
    def next(self, run: Run, baseline: AcceptedModel, current: AcceptedModel) -> Action:
        """Return what to do next.

        Parameters
        ----------
        baseline, current
            The unpruned model and the last accepted one.

        Raises
        ------
        CPruneError
            If the method cannot continue.
        """

    def prune(self, run: Run, baseline: AcceptedModel) -> tuple[Candidate, str]:
        current = restore(run, run.journal.state(), baseline)
        while (stopped := run.journal.last("stopped")) is None:
            action = self.next(run, baseline, current)
            if isinstance(action, Stop):
                run.journal.append({"event": "stopped", "reason": action.reason})
                continue
            if isinstance(action, Try):
                event = run.record(_attempt(run, baseline, current, action))
            else:
                event = run.record(_accepted(run, action))
            if event["accepted"]:
                if current is not baseline:
                    run.compiler.discard(current.candidate)
                current = restore(run, run.journal.state(), baseline)
        return current.candidate, stopped["reason"]


def candidates(run: Run) -> list[Event]:
    """Return the events of all candidates."""
    return [event for event in run.journal.events if event["event"] == "candidate"]


def groups_of(run: Run, current: AcceptedModel) -> tuple[ChannelGroup, ...]:
    """Return the channel groups to prune."""
    return current.prunable.groups(run.config.include, run.config.exclude).groups


def scores_of(run: Run, current: AcceptedModel) -> dict[str, torch.Tensor]:
    """Return the importance of every channel by root of the group.

    Groups that the importance cannot score are missing; they are not pruned.

    Raises
    ------
    CPruneError
        If there is no other group.
    """
    accepted = sum(event["accepted"] for event in candidates(run))
    scorer = scorer_of(run, current.prunable.model, accepted)
    scores = current.prunable.scores(groups_of(run, current), scorer)
    if not scores:
        raise CPruneError(
            f"importance {run.config.importance!r} cannot score the channels of any layer; try another one"
        )
    return scores


def _attempt(run: Run, baseline: AcceptedModel, current: AcceptedModel, action: Try) -> Event:
    """Prune, compile, time and evaluate one candidate; return the journal's entry."""
    started, number = time.monotonic(), len(candidates(run)) + 1
    every = [ChannelStep(g, action.widths.get(g.root, g.width), "") for g in groups_of(run, current)]
    steps = [step for step in every if step.next_width != step.width]
    verdict, reason, facts = "accepted" if action.accept else "measured", action.title, dict[str, Any]()
    try:
        facts = _measure(run, baseline, current, steps, number, action.train)
    except CandidateError as error:
        verdict, reason = "impossible", str(error)
    return {
        "event": "candidate",
        "iteration": number,
        "task": action.title,
        "layers": [m.layer for step in steps for m in step.group.members if m.side == "out"],
        "widths": {step.group.root: [step.width, step.next_width] for step in steps},
        **facts,
        "accepted": verdict == "accepted",
        "verdict": verdict,
        "reason": reason,
        "seconds": round(time.monotonic() - started, 2),
        "trials": run.compiler.programs.trials(),
    }


def _measure(
    run: Run,
    baseline: AcceptedModel,
    current: AcceptedModel,
    steps: list[ChannelStep],
    number: int,
    train: bool,
) -> dict[str, Any]:
    """Return the latency and the accuracy of a candidate, and what else a later decision needs."""
    scores = scores_of(run, current)
    drops = {step.group.root: channels_to_drop(scores[step.group.root], step) for step in steps}
    made = run.compiler.move(current.candidate, current.prunable.drop_channels(drops).model)
    try:
        latencies = run.compiler.time({"unpruned": baseline.candidate, "new": made})
        for work in (run.training.recalibrate, run.training.short_term if train else None):
            if work is not None:
                torch.manual_seed(run.config.seed + number)
                work(made.model)
        return {
            "latency_s": latencies["new"].samples,
            "speedup": latencies["unpruned"].median / latencies["new"].median,
            "layers_s": made.table.by_layer(),
            "accuracy_val": evaluate(run.training, made.model),
            "checkpoint": save_checkpoint(run.folder, f"iteration-{number:03}", made.model),
        }
    finally:
        run.compiler.discard(made)


def _accepted(run: Run, action: Accept) -> Event:
    """Return the journal's entry that accepts an earlier candidate."""
    done = candidates(run)
    chosen = done[action.iteration - 1]
    changed = {"iteration": len(done) + 1, "accepted": True, "verdict": "accepted", "seconds": 0.0}
    return {**chosen, **changed, "reason": action.reason}
