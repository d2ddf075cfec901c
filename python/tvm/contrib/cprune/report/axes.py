# SPDX-License-Identifier: Apache-2.0
"""Axes with round ticks, and the Pareto front."""

import math
from collections.abc import Iterable
from dataclasses import dataclass

Point = tuple[float, float]


@dataclass(frozen=True)
class Axis:
    """A linear axis.

    Attributes
    ----------
    title : str
        Quantity and unit.
    low, high : float
        Its ends.
    step : float
        Distance of two ticks.
    """

    title: str
    low: float
    high: float
    step: float

    def place(self, value: float) -> float:
        """Return where a value lies, from 0 at the low end to 1 at the high end and beyond it."""
        return (min(value, self.high) - self.low) / (self.high - self.low)

    def ticks(self) -> list[tuple[float, str]]:
        """Return the multiples of the step on the axis, with their labels."""
        first, last = math.ceil(self.low / self.step - 1e-9), math.floor(self.high / self.step + 1e-9)
        decimals = next((n for n in range(12) if math.isclose(round(self.step, n), self.step)), 12)
        return [(n * self.step, f"{n * self.step:.{decimals}f}") for n in range(first, last + 1)]


def make_axis(title: str, values: Iterable[float], zero: bool = False, count: int = 6) -> Axis:
    """Return an axis that shows all values, with a margin. Others may lie beyond its high end.

    Parameters
    ----------
    zero
        Whether the axis starts at zero.
    count
        The largest number of ticks.
    """
    values = [*values, *([0.0] if zero else [])]
    low, high = min(values), max(values)
    margin = 0.06 * (high - low) or 0.05 * abs(high) or 1.0
    low, high = low if zero else low - margin, high + margin
    return Axis(title, low, high, _step((high - low) / count))


def _step(least: float) -> float:
    """Return the smallest of 1, 2, 2.5 and 5 times a power of ten that is at least ``least``."""
    power = 10.0 ** math.floor(math.log10(least))
    return next(factor * power for factor in (1, 2, 2.5, 5, 10) if factor * power >= least * (1 - 1e-9))


def pareto_front(points: Iterable[Point]) -> list[Point]:
    """Return the points that no other point beats, by ascending latency.

    Parameters
    ----------
    points
        Latency (less is better) and accuracy (more is better).
    """
    front: list[Point] = []
    for latency, accuracy in sorted(points, key=lambda point: (point[0], -point[1])):
        if not front or accuracy > front[-1][1]:
            front.append((latency, accuracy))
    return front


def staircase(points: Iterable[Point]) -> tuple[Point, ...]:
    """Return the corners of the line that keeps each point's second value until the next point."""
    corners: list[Point] = []
    for x, y in points:
        if corners:
            corners.append((x, corners[-1][1]))
        corners.append((x, y))
    return tuple(corners)
