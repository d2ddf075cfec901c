# SPDX-License-Identifier: Apache-2.0
"""The widths that a method may choose from."""

import math
from collections.abc import Iterable, Mapping

from tvm.contrib.cprune.config import PruneConfig
from tvm.contrib.cprune.models.macs import MacCounter
from tvm.contrib.cprune.step import joint_step, minimum_width
from tvm.contrib.cprune.table import TaskTable
from tvm.contrib.cprune.types import ChannelGroup, CPruneError

# Widths are multiples of this many channels where the programs do not say what fits, as is usual for pruners.
MULTIPLE = 8


def fitting_widths(
    group: ChannelGroup, table: TaskTable, original_width: int, config: PruneConfig
) -> tuple[int, ...]:
    """Return the widths that CPrune's step rule ``joint`` visits, in descending order.

    If it has none for a group, these are multiples of ``MULTIPLE`` channels: the group's programs fit none of
    the allowed widths, and transplants change their tile factors.

    Parameters
    ----------
    original_width
        Number of channels of the unpruned model, for the limit on sparsity.

    Returns
    -------
    The group's own width and every smaller one that fits the programs, or is such a multiple, and is allowed.
    """
    lowest = minimum_width(group, original_width, config)
    rungs = [group.width]
    while (step := joint_step(group, table, rungs[-1])) and step.next_width >= lowest:
        rungs.append(step.next_width)
    if len(rungs) == 1:
        unit = math.ceil(MULTIPLE / group.round_to) * group.round_to
        largest = (group.width - 1) // unit * unit
        rungs += range(largest, lowest - 1, -unit)
    return tuple(rungs)


def smallest_widths(groups: Iterable[ChannelGroup], config: PruneConfig) -> dict[str, int]:
    """Return the smallest allowed width of each group of an unpruned model, by root."""
    return {group.root: min(group.width, minimum_width(group, group.width, config)) for group in groups}


def check_macs_goal(counter: MacCounter, widths: Mapping[str, int], config: PruneConfig) -> None:
    """Check that a goal of multiply-accumulates can be met.

    Parameters
    ----------
    widths
        The smallest widths that the method may choose.

    Raises
    ------
    CPruneError
        If more than the goal remain at these widths.
    """
    share = counter.count(widths) / counter.count({})
    if share > config.macs_goal:
        raise CPruneError(
            f"the goal is to keep {config.macs_goal:g} of the multiply-accumulates, but {share:.3f} remain "
            "at the smallest widths: raise the goal or the maximum sparsity, or lower the minimum width"
        )
