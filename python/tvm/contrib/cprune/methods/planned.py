# SPDX-License-Identifier: Apache-2.0
"""The run of a method that decides widths by itself: candidates are measured, and some are accepted."""

import time
from abc import abstractmethod
from collections.abc import Callable, Mapping
from typing import Any

import torch

from tvm.contrib.cprune.compiler import Candidate
from tvm.contrib.cprune.loop.baseline import restore
from tvm.contrib.cprune.loop.evaluation import evaluate
from tvm.contrib.cprune.loop.run import AcceptedModel, Run
from tvm.contrib.cprune.loop.scoring import scorer_of
from tvm.contrib.cprune.loop.state import Event
from tvm.contrib.cprune.methods.actions import Accept, Action, Stop, Try
from tvm.contrib.cprune.methods.method import Method
from tvm.contrib.cprune.models.checkpoint import save_checkpoint
from tvm.contrib.cprune.models.surgery import channels_to_drop
from tvm.contrib.cprune.types import CandidateError, ChannelGroup, ChannelStep, CPruneError


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
        started, state = time.monotonic(), run.journal.state()
        current = restore(run, state, baseline)
        while (stopped := run.journal.last("stopped")) is None:
            event = self._act(run, baseline, current)
            # The events of ``next`` have seconds of their own.
            known = run.journal.state().seconds - state.seconds
            run.record({**event, "seconds": round(max(0.0, time.monotonic() - started - known), 2)})
            started, state = time.monotonic(), run.journal.state()
            if event.get("accepted", False):
                last = current
                # The model gets transplants again; faster programs follow at the end of the run.
                current = restore(run, state, last)
                if last is not baseline:
                    run.compiler.discard(last.candidate)
        return current.candidate, stopped["reason"]

    def _act(self, run: Run, baseline: AcceptedModel, current: AcceptedModel) -> Event:
        """Decide and do what is next; return the journal's entry without its seconds."""
        match self.next(run, baseline, current):
            case Stop(reason):
                return {"event": "stopped", "reason": reason}
            case Accept(iteration, reason):
                return _accepted(run, iteration, reason)
            case Try() as action:
                return _attempt(run, baseline, current, action)


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
    accepted = sum(event.get("accepted", False) for event in run.journal.events)
    scorer = scorer_of(run, current.prunable.model, accepted)
    scores = current.prunable.scores(groups_of(run, current), scorer)
    if not scores:
        raise CPruneError(
            f"importance {run.config.importance!r} cannot score the channels of any layer; try another one"
        )
    return scores


def _attempt(run: Run, baseline: AcceptedModel, current: AcceptedModel, action: Try) -> Event:
    """Prune, compile, time and evaluate one candidate; return the journal's entry without its seconds."""
    number = len(candidates(run)) + 1
    every = [ChannelStep(g, action.widths.get(g.root, g.width), "") for g in groups_of(run, current)]
    steps = [step for step in every if step.next_width != step.width]
    verdict, reason, facts = "accepted" if action.accept else "measured", action.title, dict[str, Any]()
    try:
        facts = _measure(run, baseline, current, steps, number, action)
        if action.required is not None:
            verdict, reason = _decide(facts, run.journal.state().speedup, action.required)
    except CandidateError as error:
        verdict, reason = "impossible", str(error)
    return {
        "event": "candidate",
        "iteration": number,
        "task": action.title,
        "layers": [m.layer for step in steps for m in step.group.members if m.side == "out"],
        "widths": {step.group.root: [step.width, step.next_width] for step in steps},
        **action.facts,
        **facts,
        "accepted": verdict == "accepted",
        "verdict": verdict,
        "reason": reason,
        "trials": run.compiler.programs.trials(),
    }


def _measure(
    run: Run,
    baseline: AcceptedModel,
    current: AcceptedModel,
    steps: list[ChannelStep],
    number: int,
    action: Try,
) -> dict[str, Any]:
    """Return the latency and the accuracy of a candidate, and what else a later decision needs.

    A candidate that must be faster than the last accepted model, and is not, has no accuracy.
    """
    scores = scores_of(run, current)
    drops = {step.group.root: channels_to_drop(scores[step.group.root], step) for step in steps}
    transplanted = run.compiler.transplant(current.candidate, current.prunable.drop_channels(drops).model)
    if action.search and run.config.final_trials:
        made = run.compiler.search_again(transplanted, run.config.final_trials, "candidate")
    else:
        made = run.compiler.build(transplanted, weights=False)
    try:
        latencies = run.compiler.time({"unpruned": baseline.candidate, "new": made})
        facts: dict[str, Any] = {
            "latency_s": latencies["new"].samples,
            "speedup": latencies["unpruned"].median / latencies["new"].median,
            "layers_s": made.table.by_layer(),
        }
        if action.required is not None and facts["speedup"] <= run.journal.state().speedup:
            return facts
        facts |= _train(run, made.model, number, action)
        return {**facts, "checkpoint": save_checkpoint(run.folder, f"iteration-{number:03}", made.model)}
    finally:
        run.compiler.discard(made)


def _train(run: Run, model: torch.nn.Module, number: int, action: Try) -> dict[str, Any]:
    """Train a candidate as the action says, and return its accuracy.

    If a long-term training follows, the accuracy before it is returned, too.
    """
    training = run.training

    def apply(work: Callable[[torch.nn.Module], None] | None) -> None:
        if work is not None:
            torch.manual_seed(run.config.seed + number)
            work(model)

    apply(training.recalibrate)
    apply(training.short_term if action.train else None)
    accuracy = evaluate(training, model)
    if action.required is None or accuracy >= action.required or training.long_term is None:
        return {"accuracy_val": accuracy}
    apply(training.long_term)
    return {"accuracy_val": evaluate(training, model), "accuracy_short_term": accuracy}


def _decide(facts: Mapping[str, Any], speedup: float, required: float) -> tuple[str, str]:
    """Return the verdict about a measured candidate, and its reason.

    Parameters
    ----------
    facts
        What was measured. A candidate that is not faster has no accuracy.
    speedup
        That of the last accepted model.
    required
        The required accuracy.
    """
    if "accuracy_val" not in facts:
        return "latency", f"a speedup of {facts['speedup']:.2f} is not above the last accepted {speedup:.2f}"
    accuracy, reached = f"accuracy {facts['accuracy_val']:.4f}", f"a speedup of {facts['speedup']:.2f}"
    if "accuracy_short_term" in facts:
        accuracy += " after the long-term training"
    if facts["accuracy_val"] < required:
        return "accuracy", f"with {reached}, {accuracy} is below the requirement of {required:.4f}"
    return "accepted", f"with {reached}, {accuracy} is sufficient"


def _accepted(run: Run, iteration: int, reason: str) -> Event:
    """Return the journal's entry that accepts an earlier candidate."""
    chosen = candidates(run)[iteration - 1]
    facts = {key: chosen[key] for key in ("iteration", "latency_s", "speedup", "accuracy_val", "checkpoint")}
    return {"event": "accepted", **facts, "accepted": True, "verdict": "accepted", "reason": reason}
