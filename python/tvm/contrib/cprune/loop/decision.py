# SPDX-License-Identifier: Apache-2.0
"""The decisions of Algorithm 1, as pure functions."""

from tvm.contrib.cprune.config import PruneConfig
from tvm.contrib.cprune.types import Decision, Latency


def decide_latency(old: Latency, new: Latency, goal: float) -> Decision:
    """Compare a candidate with the last accepted model, both timed in one session (line 9).

    Parameters
    ----------
    old, new
        Latencies of the last accepted model and of the candidate, in seconds.
    goal
        Latency that the candidate must reach, in seconds: ``beta`` times the old one.
    """
    # 1. Too slow.
    if new.median > goal:
        return Decision(False, f"latency {new.median * 1e3:.3f} ms is above the goal of {goal * 1e3:.3f} ms")
    # 2. Faster, but by less than the standard error of the measurements.
    if old.median - new.median <= max(old.spread, new.spread) / len(old.samples) ** 0.5:
        return Decision(
            False, f"latency {new.median * 1e3:.3f} ms: the gain is within the spread of the measurements"
        )
    # 3. Fast enough.
    return Decision(True, f"latency {new.median * 1e3:.3f} ms meets the goal of {goal * 1e3:.3f} ms")


def decide_accuracy(last: float, new: float, config: PruneConfig) -> Decision:
    """Judge a candidate's validation accuracy after the short training (line 13).

    Parameters
    ----------
    last, new
        Accuracies of the last accepted model and of the candidate, in [0, 1].
    """
    # 1. Below the user's requirement.
    if new < config.accuracy_requirement:
        return Decision(
            False, f"accuracy {new:.4f} is below the requirement of {config.accuracy_requirement:.4f}"
        )
    # 2. Too large a loss in one step.
    if new < config.alpha * last:
        return Decision(False, f"accuracy {new:.4f} is below {config.alpha} x the last accepted {last:.4f}")
    # 3. Good enough.
    return Decision(True, f"accuracy {new:.4f} is sufficient")


def stop_reason(speedup: float, iterations: int, seconds: float, config: PruneConfig) -> str:
    """Return why the loop must stop, "" if it may continue.

    Parameters
    ----------
    speedup
        Latency of the unpruned model over that of the last accepted one.
    iterations, seconds
        Number of candidates decided, and the time spent on them.
    """
    if iterations >= config.max_iterations:
        return f"the limit of {config.max_iterations} iterations was reached"
    if speedup * config.latency_floor >= 1:
        return f"latency fell to {config.latency_floor} of the unpruned model's"
    if config.speedup_goal and speedup >= config.speedup_goal:
        return f"the speed-up goal of {config.speedup_goal} was reached"
    if config.max_seconds and seconds >= config.max_seconds:
        return f"the time budget of {config.max_seconds:.0f} s is used up"
    return ""
