# SPDX-License-Identifier: Apache-2.0
"""Choosing a width where none fits every program: by the latency of the programs at each."""

from collections.abc import Mapping, Sequence
from dataclasses import replace

from tvm.contrib.cprune.compiler import Compiler
from tvm.contrib.cprune.loop.proposal import Proposal
from tvm.contrib.cprune.loop.run import AcceptedModel
from tvm.contrib.cprune.models.importance import score
from tvm.contrib.cprune.types import CandidateError, ChannelStep


def settle(compiler: Compiler, current: AcceptedModel, proposal: Proposal) -> Proposal:
    """Return a proposal without choices, after measuring the programs at the width of each."""
    if not proposal.choices:
        return proposal
    before, seconds = current.candidate.table.predicted, dict[int, float]()
    for step in proposal.choices:
        try:
            # The latency does not depend on which channels are removed.
            smaller = current.prunable.shrink([step], lambda group: score(group, "random", 0))
            unbuilt = compiler.transplant(current.candidate, smaller.model)
            seconds[step.next_width] = unbuilt.table.predicted
        except CandidateError:
            continue
    return replace(proposal, steps=(fastest(proposal.choices, seconds, before),), choices=())


def fastest(choices: Sequence[ChannelStep], seconds: Mapping[int, float], before: float) -> ChannelStep:
    """Return the step whose programs are the fastest; the first if none has valid programs.

    Whether the model becomes faster is decided by timing it, as for every candidate.

    Parameters
    ----------
    seconds
        Sum of the latencies of the model's programs by width, in seconds, for widths with valid programs.
    before
        The same for the model before the step.
    """
    valid = [step for step in choices if step.next_width in seconds]
    if not valid:
        return choices[0]
    best = min(valid, key=lambda step: seconds[step.next_width])
    ratio = seconds[best.next_width] / before
    return replace(best, reason=f"{best.reason}; all programs together take {ratio:.3f} times as long")
