# SPDX-License-Identifier: Apache-2.0
"""One iteration of Algorithm 1: make a candidate, and accept or reject it."""

import time
from typing import Any

import torch

from tvm.contrib.cprune.compiler import Candidate
from tvm.contrib.cprune.loop.comparison import compare, measured_speedup
from tvm.contrib.cprune.loop.decision import Decision, decide_accuracy
from tvm.contrib.cprune.loop.evaluation import evaluate
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
    try:
        scorer = scorer_of(run, current.prunable.model, number)
        prunable = current.prunable.shrink(proposal.steps, scorer)
        made = AcceptedModel(run.compiler.move(current.candidate, prunable.model), prunable)
        verdict, decision = _judge(run, baseline, current.candidate, made.candidate, state, facts)
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
        **facts,
        "accepted": decision.accepted,
        "verdict": verdict,
        "retry_smaller": run.config.retry_smaller and run.config.step_rule != "paper",
        "reason": decision.reason,
        "seconds": round(time.monotonic() - started, 2),
        "trials": run.compiler.programs.trials(),
    }


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
    number = state.iteration + 1
    facts["old_latency_s"], facts["latency_s"], fast = compare(run.compiler, old, new)
    if not fast.accepted:
        return "latency", fast

    torch.manual_seed(run.config.seed + number)
    run.training.short_term(new.model)
    accuracy = facts["accuracy_val"] = evaluate(run.training, new.model)
    good = decide_accuracy(state.accuracy, accuracy, run.config)
    if not good.accepted:
        return "accuracy", good

    facts["speedup"] = measured_speedup(run.compiler, baseline, new)
    facts["checkpoint"] = save_checkpoint(run.folder, f"iteration-{number:03}", new.model)
    return "accepted", Decision(True, f"{fast.reason}, {good.reason}")
