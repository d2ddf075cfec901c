# SPDX-License-Identifier: Apache-2.0
"""The choice of widths under a latency budget, as an integer linear program."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from scipy.optimize import Bounds, LinearConstraint, milp
from scipy.sparse import coo_array

from tvm.contrib.cprune.numerics import Array

# Limit of one solution, in seconds.
TIME_LIMIT = 60


@dataclass(frozen=True)
class Cost:
    """Latency that depends on the widths of one or two groups.

    Attributes
    ----------
    roots
        The groups.
    seconds
        Latency at each choice of their widths, ``(len(widths),)`` or one axis for each of two groups.
    """

    roots: tuple[str, ...]
    seconds: Array


@dataclass(frozen=True)
class WidthChoice:
    """A knapsack problem: one width for every group.

    Attributes
    ----------
    values
        Importance that remains at each of a group's widths, by root of the group.
    costs
        Latencies that depend on the choice.
    constant
        Latency in seconds that does not.
    """

    values: Mapping[str, Array]
    costs: tuple[Cost, ...]
    constant: float

    def seconds(self, choice: Mapping[str, int]) -> float:
        """Return the latency of a choice, given the index of each group's width."""
        varying = (cost.seconds[tuple(choice[root] for root in cost.roots)] for cost in self.costs)
        return self.constant + float(sum(varying))


def most_important(problem: WidthChoice, budget: float) -> dict[str, int] | None:
    """Return the choice of greatest importance whose latency is within a budget.

    Parameters
    ----------
    budget
        Latency in seconds.

    Returns
    -------
    The index of each group's width by root, None if no choice meets the budget.
    """
    total = sum(float(values.max()) for values in problem.values.values())
    gains = {root: values / total for root, values in problem.values.items()}
    return _solve(problem, gains, budget)


def fastest(problem: WidthChoice) -> dict[str, int]:
    """Return the choice of lowest latency."""
    choice = _solve(problem, {}, None)
    assert choice is not None  # without a budget, every choice is feasible
    return choice


def _solve(problem: WidthChoice, gains: Mapping[str, Array], budget: float | None) -> dict[str, int] | None:
    """Maximize the gains within the budget; without a budget, minimize the latency.

    A binary variable stands for each width of a group, and a continuous one for each pair of widths of a cost
    of two groups. The sums of the pairs over one axis equal the variables of the other group, so that a pair
    is 1 exactly if both of its widths are chosen.
    """
    first: dict[str, int] = {}
    count = 0
    for root, values in problem.values.items():
        first[root], count = count, count + len(values)
    binaries = count
    unit = budget or 1.0
    rows: list[tuple[list[int], list[float], float]] = []  # columns, coefficients, right-hand side
    for root, values in problem.values.items():
        columns = list(range(first[root], first[root] + len(values)))
        rows.append((columns, [1.0] * len(columns), 1.0))
    latency: dict[int, float] = dict.fromkeys(range(binaries), 0.0)
    for cost in problem.costs:
        if len(cost.roots) == 1:
            for i, seconds in enumerate(cost.seconds):
                latency[first[cost.roots[0]] + i] += seconds / unit
            continue
        pairs = np.arange(count, count + cost.seconds.size).reshape(cost.seconds.shape)
        count += cost.seconds.size
        latency.update(zip(pairs.ravel().tolist(), (cost.seconds / unit).ravel().tolist(), strict=True))
        for root, by_width in zip(cost.roots, (pairs, pairs.T), strict=True):
            for i, pair in enumerate(by_width.tolist()):
                rows.append(([*pair, first[root] + i], [1.0] * len(pair) + [-1.0], 0.0))
    prices = np.array([latency[column] for column in range(count)])
    objective = prices if budget is None else np.zeros(count)
    for root, gain in gains.items():
        objective[first[root] : first[root] + len(gain)] -= gain
    constraints = [_equalities(rows, count)]
    if budget is not None:
        constraints.append(LinearConstraint(prices[None], -np.inf, (budget - problem.constant) / unit))
    integrality = np.arange(count) < binaries
    solution = milp(
        objective,
        constraints=constraints,
        integrality=integrality.astype(int),
        bounds=Bounds(0, 1),
        options={"time_limit": TIME_LIMIT},
    )
    if solution.x is None:
        return None
    chosen = {root: solution.x[start : start + len(problem.values[root])] for root, start in first.items()}
    return {root: int(np.argmax(values)) for root, values in chosen.items()}


def _equalities(rows: list[tuple[list[int], list[float], float]], count: int) -> LinearConstraint:
    """Return the equations with the given columns and coefficients, over ``count`` variables."""
    numbers = [number for number, (columns, *_) in enumerate(rows) for _ in columns]
    columns = [column for row in rows for column in row[0]]
    coefficients = [coefficient for row in rows for coefficient in row[1]]
    matrix = coo_array((coefficients, (numbers, columns)), shape=(len(rows), count)).tocsr()
    right = [row[2] for row in rows]
    return LinearConstraint(matrix, right, right)
