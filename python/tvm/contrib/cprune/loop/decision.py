# SPDX-License-Identifier: Apache-2.0
"""The decisions of Algorithm 1, as pure functions."""

from tvm.contrib.cprune.config import PruneConfig
from tvm.contrib.cprune.types import Decision, Latency


def decide_latency(old: Latency, new: Latency, goal: float) -> Decision:
    """Compare a candidate with the last accepted model, both measured in one session (Algorithm 1, line 9).

    Parameters
    ----------
    old, new
        Latencies of the last accepted model and of the candidate, in seconds.
    goal
        The latency that the candidate must reach, in seconds: ``beta`` times the old one.
    """
    # 1. Not fast enough.
    if new.median > goal:
        return Decision(False, f"latency {new.median * 1e3:.3f} ms is above the goal of {goal * 1e3:.3f} ms")
    # 2. Faster, but by less than the measurements scatter.
    if old.median - new.median <= max(old.spread, new.spread) / len(old.samples) ** 0.5:
        return Decision(
            False, f"latency {new.median * 1e3:.3f} ms: the gain is within the spread of the measurements"
        )
    # 3. Fast enough.
    return Decision(True, f"latency {new.median * 1e3:.3f} ms meets the goal of {goal * 1e3:.3f} ms")


def decide_accuracy(last: float, new: float, config: PruneConfig) -> Decision:
    """Decide on a candidate's validation accuracy after the short training (Algorithm 1, line 13)."""
    # 1. Below what the user asked for.
    if new < config.accuracy_requirement:
        return Decision(
            False, f"accuracy {new:.4f} is below the requirement of {config.accuracy_requirement:.4f}"
        )
    # 2. Too much lost in one step.
    if new < config.alpha * last:
        return Decision(False, f"accuracy {new:.4f} is below {config.alpha} x the last accepted {last:.4f}")
    # 3. Good.
    return Decision(True, f"accuracy {new:.4f} holds")


def stop_reason(speedup: float, iterations: int, seconds: float, config: PruneConfig) -> str:
    """Return why the loop must end here, or "" where it goes on.

    Parameters
    ----------
    speedup
        How many times as fast as the unpruned model the last accepted one is.
    iterations, seconds
        Candidates that were decided, and how long that took.
    """
    if iterations >= config.max_iterations:
        return f"{config.max_iterations} iterations were made"
    if speedup * config.latency_floor >= 1:
        return f"latency fell to {config.latency_floor} of the first one"
    if config.speedup_goal and speedup >= config.speedup_goal:
        return f"the speed-up of {config.speedup_goal} was reached"
    if config.max_seconds and seconds >= config.max_seconds:
        return f"the time budget of {config.max_seconds:.0f} s is used up"
    return ""
