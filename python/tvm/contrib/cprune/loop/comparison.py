# SPDX-License-Identifier: Apache-2.0
"""Timing two models in turn until the samples decide which is faster."""

from tvm.contrib.cprune.compiler import Candidate, Compiler
from tvm.contrib.cprune.loop.decision import Decision, decide_latency, undecided

# Tolerated probability of a wrong decision, and the largest number of sessions that share it (Bonferroni).
LEVEL, SESSIONS = 0.05, 4
Samples = tuple[float, ...]


def compare(compiler: Compiler, old: Candidate, new: Candidate) -> tuple[Samples, Samples, Decision]:
    """Time a candidate beside the last accepted model, session after session, until the samples decide.

    Returns
    -------
    old, new
        Paired latencies of both models, in seconds.
    decision
        Whether the candidate reaches ``beta`` times the old latency.
    """
    before: Samples = ()
    after: Samples = ()
    beta = compiler.config.beta
    for _ in range(SESSIONS):
        latencies = compiler.time({"old": old, "new": new})
        # An even number: the order of the models alternates, and units of two runs cancel a drift.
        count = len(latencies["old"].samples) // 2 * 2 or 1
        before, after = before + latencies["old"].samples[:count], after + latencies["new"].samples[:count]
        if len(before) < 2:
            continue
        decision = decide_latency(before, after, beta, LEVEL / SESSIONS)
        if decision is not None:
            return before, after, decision
    return before, after, undecided(before, after, beta)


def measured_speedup(compiler: Compiler, baseline: Candidate, candidate: Candidate) -> float:
    """Return the unpruned model's latency over a candidate's, both timed in one session."""
    latencies = compiler.time({"unpruned": baseline, "new": candidate})
    return latencies["unpruned"].median / latencies["new"].median
