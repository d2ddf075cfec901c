# SPDX-License-Identifier: Apache-2.0
"""Timing two models in turn until the samples decide which is faster."""

import time

from tvm.contrib.cprune.compiler import Candidate, Compiler
from tvm.contrib.cprune.loop.decision import Decision, decide_latency, undecided

# Tolerated probability of a wrong decision.
LEVEL = 0.05
# Numbers of timing sessions after which the samples are tested.
TESTS = (1, 2, 4, 8, 16, 32)
# After these seconds there is a last test, but not before MIN_SESSIONS. Sessions on remote devices are slow.
MAX_SECONDS, MIN_SESSIONS = 15.0, 4
Samples = tuple[float, ...]


def compare(compiler: Compiler, old: Candidate, new: Candidate) -> tuple[Samples, Samples, Decision]:
    """Time a candidate beside the last accepted model, session after session, until the samples decide.

    The tests share ``LEVEL`` (Bonferroni). They assume that the runs of one model differ by chance only. How
    a library happens to be placed in memory can change its latency in all sessions, which no test reveals.

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
    started = time.monotonic()
    for session in range(1, TESTS[-1] + 1):
        latencies = compiler.time({"old": old, "new": new})
        # An even number: the order of the models alternates, and units of two runs cancel a drift.
        count = len(latencies["old"].samples) // 2 * 2 or 1
        before, after = before + latencies["old"].samples[:count], after + latencies["new"].samples[:count]
        late = session >= MIN_SESSIONS and time.monotonic() - started >= MAX_SECONDS
        if (late or session in TESTS) and len(before) >= 2:
            decision = decide_latency(before, after, beta, LEVEL / (len(TESTS) + 1))
            if decision is not None:
                return before, after, decision
        if late:
            break
    return before, after, undecided(before, after, beta)


def measured_speedup(compiler: Compiler, baseline: Candidate, candidate: Candidate) -> float:
    """Return the unpruned model's latency over a candidate's, both timed in one session."""
    latencies = compiler.time({"unpruned": baseline, "new": candidate})
    return latencies["unpruned"].median / latencies["new"].median
