# SPDX-License-Identifier: Apache-2.0
"""One iteration of Algorithm 1: make a candidate, and accept or reject it."""

import time
from typing import Any

import torch

from tvm.contrib.cprune.compiler import Candidate, Unbuilt
from tvm.contrib.cprune.loop.choice import settle
from tvm.contrib.cprune.loop.comparison import compare, measured_speedup
from tvm.contrib.cprune.loop.decision import (
    Decision,
    decide_accuracy,
    decide_estimate,
    decide_prediction,
    decide_untrained,
    has_spare_accuracy,
    hopeless_share,
)
from tvm.contrib.cprune.loop.evaluation import estimate, evaluate
from tvm.contrib.cprune.loop.proposal import Proposal
from tvm.contrib.cprune.loop.run import AcceptedModel, Run
from tvm.contrib.cprune.loop.scoring import scorer_of
from tvm.contrib.cprune.loop.state import Event, LoopState
from tvm.contrib.cprune.models.checkpoint import save_checkpoint
from tvm.contrib.cprune.types import CandidateError


def attempt(
    run: Run, baseline: Candidate, current: AcceptedModel, state: LoopState, proposal: Proposal
) -> tuple[AcceptedModel | None, Event]:
    """Prune, compile, time, train and evaluate one candidate (lines 7 to 13).

    Returns
    -------
    accepted
        The candidate if it is accepted, otherwise None. ``current`` is not changed.
    event
        The journal's entry, with ``verdict`` "accepted", "impossible", "latency" or "accuracy".
    """
    started, number = time.monotonic(), state.iteration + 1
    made, facts = None, dict[str, Any]()
    proposal = settle(run.compiler, current, proposal)
    try:
        scorer = scorer_of(run, current.prunable.model, number)
        prunable = current.prunable.shrink(proposal.steps, scorer)
        unbuilt = run.compiler.transplant(current.candidate, prunable.model)
        slow = _predict(run, current.candidate, unbuilt)
        if slow is None:
            made = AcceptedModel(run.compiler.build(unbuilt, weights=False), prunable)
            verdict, decision = _judge(run, baseline, current.candidate, made.candidate, state, facts)
        else:
            verdict, decision = "latency", slow
    except CandidateError as error:
        verdict, decision = "impossible", Decision(False, str(error))
    if made is not None and not decision.accepted:
        run.compiler.discard(made.candidate)
    return made if decision.accepted else None, {
        "event": "candidate",
        "iteration": number,
        "task": proposal.row.task.title,
        "layers": list(proposal.row.task.layers),
        "widths": {step.group.root: [step.width, step.next_width] for step in proposal.steps},
        "reasons": [step.reason for step in proposal.steps],
        "stride": max(step.stride for step in proposal.steps),
        **facts,
        "accepted": decision.accepted,
        "verdict": verdict,
        "retry_smaller": run.config.retry_smaller,
        "reason": decision.reason,
        "seconds": round(time.monotonic() - started, 2),
        "trials": run.compiler.programs.trials(),
    }


def _predict(run: Run, old: Candidate, new: Unbuilt) -> Decision | None:
    """Reject a candidate whose programs are far too slow; the paper builds and times every candidate."""
    if run.config.step_rule == "paper":
        return None
    return decide_prediction(old.table.predicted, new.table.predicted, run.config.beta)


def _judge(
    run: Run, baseline: Candidate, old: Candidate, new: Candidate, state: LoopState, facts: dict[str, Any]
) -> tuple[str, Decision]:
    """Time, train and evaluate a candidate (lines 9 to 13), and save it if it is accepted.

    Parameters
    ----------
    facts
        Receives what is measured, for the journal.

    Returns
    -------
    verdict, decision
        The verdict by name, and its reason.
    """
    facts["old_latency_s"], facts["latency_s"], fast = compare(run.compiler, old, new)
    if not fast.accepted:
        return "latency", fast

    good = _train(run, new.model, state, facts)
    if not good.accepted:
        return "accuracy", good

    facts["speedup"] = measured_speedup(run.compiler, baseline, new)
    spare = has_spare_accuracy(state.accuracy, facts["accuracy_val"], run.config)
    facts["spare"] = run.config.larger_steps and spare
    facts["checkpoint"] = save_checkpoint(run.folder, f"iteration-{state.iteration + 1:03}", new.model)
    return "accepted", Decision(True, f"{fast.reason}, {good.reason}")


def _train(run: Run, model: torch.nn.Module, state: LoopState, facts: dict[str, Any]) -> Decision:
    """Train and evaluate a candidate (lines 12 and 13), unless an earlier evaluation already rejects it."""
    training, config, seed = run.training, run.config, run.config.seed + state.iteration + 1
    if training.recalibrate is not None:
        torch.manual_seed(seed)
        training.recalibrate(model)
    share = hopeless_share(config, training.recalibrate is not None)
    if share * config.accuracy_requirement > 0:
        untrained = estimate(training, model)
        facts["accuracy_untrained"] = [untrained.low, untrained.high]
        if hopeless := decide_untrained(untrained, share, config):
            return hopeless

    # The training must not depend on what precedes it: a resumed run repeats it.
    torch.manual_seed(seed)
    training.short_term(model)
    if training.evaluate_part is not None and config.step_rule != "paper":
        part = estimate(training, model)
        facts["accuracy_part"] = [part.low, part.high]
        if rejected := decide_estimate(state.accuracy, part, config):
            return rejected
    accuracy = facts["accuracy_val"] = evaluate(training, model)
    return decide_accuracy(state.accuracy, accuracy, config)
