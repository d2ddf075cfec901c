# SPDX-License-Identifier: Apache-2.0
"""The decisions of Algorithm 1, as pure functions."""

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass

from scipy import stats

from tvm.contrib.cprune.config import HOPELESS, PruneConfig
from tvm.contrib.cprune.loop.interval import Interval

# A candidate that loses at most this fraction of what it may lose has accuracy to spare: twice its step stays
# within the limit even if the loss grows with the square of the step.
SPARE_FRACTION = 0.25


# Tolerance of predictions from programs that were measured at different times: the speed of a machine drifts,
# and single programs of small networks take microseconds.
DRIFT = 0.5


@dataclass(frozen=True)
class Decision:
    """Whether a candidate was accepted, and the reason shown in reports."""

    accepted: bool
    reason: str


def decide_prediction(old: float, new: float, beta: float) -> Decision | None:
    """Reject a candidate whose programs show that it is too slow to be built (line 8).

    Parameters
    ----------
    old, new
        Sums of the latencies of the programs of the last accepted model and of the candidate, in seconds.
    beta
        Fraction of the old latency that the candidate must reach.

    Returns
    -------
    decision
        None if the candidate must be built and timed.
    """
    if new <= old * beta * (1 + DRIFT):
        return None
    change = f"its programs take {new / old:.3f} times as long as the last accepted model's"
    return Decision(False, f"not built: {change}, far above the goal of {beta}")


def decide_latency(old: Sequence[float], new: Sequence[float], beta: float, level: float) -> Decision | None:
    """Compare a candidate with the last accepted model (line 9).

    The comparison is a one-sided Wilcoxon signed-rank test of the hypothesis that the candidate reaches the
    goal, and one that it misses it. Each unit of the test joins two consecutive runs of both models: they ran
    in the order old, new, new, old, so that a steady drift of the machine cancels.

    Parameters
    ----------
    old, new
        Paired latencies of the last accepted model and of the candidate, in seconds, in order of the runs.
    beta
        Fraction of the old latency that the candidate must reach.
    level
        Probability of a wrong decision that is tolerated in this comparison.

    Returns
    -------
    decision
        None if the samples do not decide.
    """
    ratios = _log_ratios(old, new)
    change = f"latency is {math.exp(statistics.median(ratios)):.3f} of the last accepted model's"
    excess = [ratio - math.log(beta) for ratio in ratios]
    # 1. The candidate reaches the goal.
    if _p_value(excess, "less") <= level:
        return Decision(True, f"{change}, which meets the goal of {beta}")
    # 2. It misses the goal.
    if _p_value(excess, "greater") <= level:
        return Decision(False, f"{change}, above the goal of {beta}")
    # 3. More samples are needed.
    return None


def undecided(old: Sequence[float], new: Sequence[float], beta: float) -> Decision:
    """Reject a candidate whose gain the largest number of samples does not prove."""
    change = math.exp(statistics.median(_log_ratios(old, new)))
    return Decision(
        False,
        f"latency is about {change:.3f} of the last accepted model's, but the spread of {len(old)} runs "
        f"does not prove the goal of {beta}",
    )


def _log_ratios(old: Sequence[float], new: Sequence[float]) -> list[float]:
    """Return the logarithm of new over old latency for every two consecutive runs of both models."""
    if len(old) != len(new) or len(old) < 2:
        raise ValueError(f"got {len(old)} and {len(new)} latencies, expected equally many, at least 2")
    single = [math.log(b / a) for a, b in zip(old, new, strict=True)]
    return [(single[i] + single[i + 1]) / 2 for i in range(0, len(single) - 1, 2)]


def _p_value(differences: Sequence[float], alternative: str) -> float:
    """Return the p-value of the Wilcoxon signed-rank test; 1 if all differences are zero."""
    if not any(differences):
        return 1.0
    return float(stats.wilcoxon(differences, alternative=alternative).pvalue)


def decide_accuracy(last: float, new: float, config: PruneConfig) -> Decision:
    """Judge a candidate's validation accuracy after the short training (line 13).

    Parameters
    ----------
    last, new
        Accuracies of the last accepted model and of the candidate, in [0, 1].
    """
    missed = _missed_limit(last, new, config)
    return Decision(not missed, f"accuracy {new:.4f} is {missed or 'sufficient'}")


def decide_estimate(last: float, new: Interval, config: PruneConfig) -> Decision | None:
    """Judge a candidate by the accuracies that a part of the validation split leaves possible (line 13).

    Parameters
    ----------
    last
        Accuracy of the last accepted model, in [0, 1].
    new
        Accuracies of the candidate that are possible.

    Returns
    -------
    decision
        None if the whole split must be read: the candidate may be accepted, and then the accuracy of the
        accepted model must be known exactly.
    """
    missed = _missed_limit(last, new.high, config)
    return Decision(False, f"accuracy is {new}, {missed}") if missed else None


def decide_untrained(accuracy: Interval, share: float, config: PruneConfig) -> Decision | None:
    """Reject a candidate that is so inaccurate before its training that the training cannot save it.

    Parameters
    ----------
    accuracy
        Accuracies before the training that an evaluation leaves possible.
    share
        Fraction of the accuracy requirement below which a candidate is rejected.

    Returns
    -------
    decision
        None if the candidate must be trained.
    """
    required = config.accuracy_requirement
    if accuracy.high >= share * required:
        return None
    limit = f"below {share} x the requirement of {required:.4f}"
    return Decision(False, f"not trained: accuracy before the training is {accuracy}, {limit}")


def hopeless_share(config: PruneConfig, recalibrated: bool) -> float:
    """Return the fraction of the accuracy requirement below which a candidate is not trained.

    It is 0 by default with the step rule "paper", because Algorithm 1 trains every faster candidate.

    Parameters
    ----------
    recalibrated
        Whether batch-norm statistics are re-estimated. With those of the wider model, the accuracy before the
        training says little: the default is 0.
    """
    if config.hopeless is not None:
        return config.hopeless
    return HOPELESS if recalibrated and config.step_rule != "paper" else 0.0


def _missed_limit(last: float, new: float, config: PruneConfig) -> str:
    """Return the limit that an accuracy after the short training misses, "" if it is sufficient."""
    # 1. The user's requirement.
    if new < config.accuracy_requirement:
        return f"below the requirement of {config.accuracy_requirement:.4f}"
    # 2. The largest loss in one step.
    if new < config.alpha * last:
        return f"below {config.alpha} x the last accepted {last:.4f}"
    return ""


def has_spare_accuracy(last: float, new: float, config: PruneConfig) -> bool:
    """Return whether an accepted candidate lost little of the accuracy that the next one may lose.

    Parameters
    ----------
    last, new
        Accuracies of the last accepted model and of the candidate, in [0, 1].
    """
    allowed = new - max(config.alpha * new, config.accuracy_requirement)
    return allowed > 0 and last - new <= SPARE_FRACTION * allowed


def stop_reason(speedup: float, iterations: int, seconds: float, config: PruneConfig) -> str:
    """Return why the loop must stop, "" if it may continue.

    Parameters
    ----------
    speedup
        Latency of the unpruned model over that of the last accepted one.
    iterations, seconds
        Number of candidates decided, or of choices between several candidates, and the time spent on them.
    """
    if iterations >= config.max_iterations:
        plural = "s" if config.max_iterations > 1 else ""
        return f"the limit of {config.max_iterations} iteration{plural} was reached"
    if speedup * config.latency_floor >= 1:
        return f"latency fell to {config.latency_floor} of the unpruned model's"
    if config.speedup_goal and speedup >= config.speedup_goal:
        return f"the speed-up goal of {config.speedup_goal} was reached"
    if config.max_seconds and seconds >= config.max_seconds:
        return f"the time budget of {config.max_seconds:.0f} s is used up"
    return ""
