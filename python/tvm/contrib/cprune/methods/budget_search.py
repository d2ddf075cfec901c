# SPDX-License-Identifier: Apache-2.0
"""The search for the widths that use up a latency budget.

The linear program limits the sum of the latencies of a model's layers, but the budget is for the whole model.
Their ratio is not constant: layers are timed with cold weights, but the weights of a small model stay in the
caches. The limit of the sum is therefore searched like the root of a function, with one model per evaluation.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from tvm.contrib.cprune.methods.solver import WidthChoice, fastest, most_important

# The part of the budget that may remain unused.
TOLERANCE = 0.05
# Ratio of two limits of the sum that are not worth telling apart.
RESOLUTION = 1.01


@dataclass(frozen=True)
class Measurement:
    """A model that was built and timed.

    Attributes
    ----------
    choice
        The index of each group's width by root.
    total
        Sum of the seconds of its layers.
    seconds
        Latency of the whole model.
    """

    choice: Mapping[str, int]
    total: float
    seconds: float


@dataclass(frozen=True)
class Bracket:
    """Two models on either side of the budget.

    Between them, latency is assumed to be a power of the sum of the layers; below them, in proportion to it.
    """

    within: Measurement
    over: Measurement

    def total_at(self, seconds: float) -> float:
        """Return the sum of the layers of a model of some latency."""
        return self.within.total * (seconds / self.within.seconds) ** (1 / self._exponent())

    def seconds_at(self, total: float) -> float:
        """Return the latency of a model, given the sum of its layers."""
        if total <= self.within.total:
            return self.within.seconds * total / self.within.total
        return self.within.seconds * (total / self.within.total) ** self._exponent()

    def _exponent(self) -> float:
        latency = math.log(self.over.seconds / self.within.seconds)
        return latency / math.log(self.over.total / self.within.total)


def meets(seconds: float, budget: float) -> bool:
    """Return whether a latency uses up the budget without exceeding it."""
    return budget * (1 - TOLERANCE) <= seconds <= budget


def next_choice(
    problem: WidthChoice,
    budget: float,
    measured: Sequence[Measurement],
    unbuilt: Sequence[Mapping[str, int]] = (),
) -> tuple[dict[str, int], float] | None:
    """Return the choice of widths to measure next, and the latency that is predicted for it.

    Parameters
    ----------
    problem
        Its latencies are those of the sum of the layers.
    budget
        Latency of the whole model in seconds.
    measured
        The unpruned model, which exceeds the budget, and all measured models in their order.
    unbuilt
        Choices that cannot be built.

    Returns
    -------
    None if a measured model meets the budget, or no other choice can come closer to it.
    """
    if any(meets(model.seconds, budget) for model in measured):
        return None
    within = [model for model in measured if model.seconds <= budget]
    bracket = _bracket(within, measured, budget)
    if bracket is None:
        return None
    # A choice that is too slow is not made again: the next best one is.
    excluded = [*unbuilt, *(model.choice for model in measured if model.seconds > budget)]
    limits = _limits(bracket, budget, measured)
    for limit in limits if within else [next(limits)]:
        choice = most_important(problem, limit, excluded)
        if choice is None and not within:
            choice = fastest(problem, unbuilt)
        if choice is not None and all(choice != model.choice for model in measured):
            return choice, bracket.seconds_at(problem.seconds(choice))
    return None


def _bracket(within: Sequence[Measurement], measured: Sequence[Measurement], budget: float) -> Bracket | None:
    """Return the models with the largest sum within the budget and the next larger one that exceeds it."""
    low = max(within, key=lambda model: model.total, default=None)
    over = [model for model in measured if model.seconds > budget]
    high = min(
        (model for model in over if low is None or model.total > low.total),
        key=lambda model: model.total,
        default=None,
    )
    if high is None:
        return None
    # Before any model is within the budget, latency is assumed to be in proportion to the sum.
    return Bracket(low or Measurement({}, high.total / 2, high.seconds / 2), high)


def _limits(bracket: Bracket, budget: float, measured: Sequence[Measurement]) -> Iterator[float]:
    """Return limits of the sum in ascending order, to be tried until one gives a new choice.

    The first one is interpolated. If the last two models were on the same side of the budget, it is the
    geometric mean of the bracket instead, which moves the other end, too.
    """
    limit = bracket.total_at(budget * (1 - TOLERANCE / 2))
    sides = [model.seconds <= budget for model in measured[1:]]
    if any(sides) and len(sides) > 1 and sides[-1] == sides[-2]:
        limit = math.sqrt(bracket.within.total * bracket.over.total)
    yield limit
    while limit * RESOLUTION < bracket.over.total:
        limit = math.sqrt(limit * bracket.over.total)
        yield limit
    yield bracket.over.total
