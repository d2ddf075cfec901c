# SPDX-License-Identifier: Apache-2.0
"""The choice of widths under a latency budget, as an integer linear program."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
from scipy.optimize import Bounds, LinearConstraint, milp
from scipy.sparse import coo_array

from tvm.contrib.cprune.numerics import Array
from tvm.contrib.cprune.types import CPruneError

# Limit of one solution, in nodes of the search tree: unlike one in seconds, it gives the same choice again.
NODE_LIMIT = 1000
# Status of a solution of ``scipy.optimize.milp``.
INFEASIBLE = 2


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
    widest
        Index of the widest width that may be chosen, by root; 0 for the groups that are missing.
    """

    values: Mapping[str, Array]
    costs: tuple[Cost, ...]
    constant: float
    widest: Mapping[str, int] = field(default_factory=dict)

    def seconds(self, choice: Mapping[str, int]) -> float:
        """Return the latency of a choice, given the index of each group's width."""
        varying = (cost.seconds[tuple(choice[root] for root in cost.roots)] for cost in self.costs)
        return self.constant + float(sum(varying))


def most_important(
    problem: WidthChoice, budget: float, excluded: Sequence[Mapping[str, int]] = ()
) -> dict[str, int] | None:
    """Return the choice of greatest importance whose latency is within a budget.

    Parameters
    ----------
    budget
        Latency in seconds.
    excluded
        Choices that must not be returned.

    Returns
    -------
    The index of each group's width by root, None if no choice meets the budget.

    Raises
    ------
    CPruneError
        If the solver finds no choice within its limit.
    """
    # Where all channels have no importance, every choice is as good.
    total = sum(float(values.max()) for values in problem.values.values()) or 1.0
    gains = {root: values / total for root, values in problem.values.items()}
    return _solve(problem, gains, budget, excluded)


def fastest(problem: WidthChoice, excluded: Sequence[Mapping[str, int]] = ()) -> dict[str, int] | None:
    """Return the choice of lowest latency, None if all are excluded (see ``most_important``)."""
    return _solve(problem, {}, None, excluded)


def _solve(
    problem: WidthChoice,
    gains: Mapping[str, Array],
    budget: float | None,
    excluded: Sequence[Mapping[str, int]],
) -> dict[str, int] | None:
    """Maximize the gains within the budget; without a budget, minimize the latency."""
    first, prices, constraints = _formulate(problem)
    for choice in excluded:  # at least one group has another width
        row = np.zeros((1, len(prices)))
        row[0, [first[root] + i for root, i in choice.items()]] = 1
        constraints.append(LinearConstraint(row, -np.inf, len(choice) - 1))
    # The tolerances of HiGHS are absolute, for values of about 1.
    unit = problem.seconds(dict.fromkeys(problem.values, 0))
    objective = prices / unit if budget is None else np.zeros(len(prices))
    for root, gain in gains.items():
        objective[first[root] : first[root] + len(gain)] -= gain
    if budget is not None:
        limit = (budget - problem.constant) / unit
        constraints.append(LinearConstraint(prices[None] / unit, -np.inf, limit))
    integrality = np.zeros(len(prices), int)
    integrality[: sum(len(values) for values in problem.values.values())] = 1
    upper = np.ones(len(prices))
    for root, index in problem.widest.items():
        upper[first[root] : first[root] + index] = 0
    options = {"node_limit": NODE_LIMIT}
    solution = milp(
        objective, constraints=constraints, integrality=integrality, bounds=Bounds(0, upper), options=options
    )
    if solution.status == INFEASIBLE:
        return None
    if solution.x is None:
        raise CPruneError(f"the solver found no widths for the budget: {solution.message}")
    chosen = {root: solution.x[first[root] :][: len(values)] for root, values in problem.values.items()}
    return {root: int(np.argmax(values)) for root, values in chosen.items()}


def _formulate(problem: WidthChoice) -> tuple[dict[str, int], Array, list[LinearConstraint]]:
    """Return the variables of a linear program for a choice, and the equations that they meet.

    A binary variable stands for each width of a group; those of a group add up to 1. A continuous variable
    stands for each pair of widths in a cost of two groups. The pairs with one width add up to the variable of
    that width, so that a pair is 1 exactly if both of its widths are chosen.

    Returns
    -------
    first
        The column of the first width of each group; the columns of all pairs follow.
    prices
        Latency of each variable in seconds, ``(columns,)``.
    constraints
        The equations.
    """
    starts = np.cumsum([0, *(len(values) for values in problem.values.values())]).tolist()
    first = dict(zip(problem.values, starts, strict=False))
    prices, rows = [0.0] * starts[-1], list[_Row]()
    for root, values in problem.values.items():
        columns = range(first[root], first[root] + len(values))
        rows.append(_Row(dict.fromkeys(columns, 1.0), 1.0))
    for cost in problem.costs:
        if len(cost.roots) == 1:
            for i, seconds in enumerate(cost.seconds.tolist()):
                prices[first[cost.roots[0]] + i] += seconds
            continue
        pairs = np.arange(cost.seconds.size).reshape(cost.seconds.shape) + len(prices)
        prices += cost.seconds.ravel().tolist()
        for root, by_width in zip(cost.roots, (pairs, pairs.T), strict=True):
            for i, columns in enumerate(by_width.tolist(), first[root]):
                rows.append(_Row({**dict.fromkeys(columns, 1.0), i: -1.0}, 0.0))
    return first, np.array(prices), [_equations(rows, len(prices))]


class _Row(NamedTuple):
    """An equation: its coefficients by column, and its right-hand side."""

    coefficients: dict[int, float]
    right: float


def _equations(rows: Sequence[_Row], columns: int) -> LinearConstraint:
    entries = [(i, j, value) for i, row in enumerate(rows) for j, value in row.coefficients.items()]
    numbers, places, values = zip(*entries, strict=True)
    matrix = coo_array((values, (numbers, places)), shape=(len(rows), columns)).tocsr()
    right = [row.right for row in rows]
    return LinearConstraint(matrix, right, right)
