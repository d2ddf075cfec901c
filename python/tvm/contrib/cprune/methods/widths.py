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
# Widths of a group to measure.
MAX_WIDTHS = 8


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
    return tuple(rungs) if len(rungs) > 1 else (group.width, *_multiples(group, lowest))


def widths_to_measure(group: ChannelGroup, table: TaskTable, config: PruneConfig) -> tuple[int, ...]:
    """Return widths of a group of the unpruned model whose latencies show what each width costs.

    They are about equal ratios apart. Each is the nearest fitting width (see ``fitting_widths``) if one is
    closer than half the way to the next, or else the nearest multiple of ``MULTIPLE``: programs with large
    tiles fit few of the small widths, but transplants with smaller tiles may be fast there, too.

    Returns
    -------
    At most ``MAX_WIDTHS`` widths in descending order, from the group's own to the smallest allowed one.
    """
    lowest = min(group.width, minimum_width(group, group.width, config))
    fitting = fitting_widths(group, table, group.width, config)
    every = sorted({*fitting, *_multiples(group, lowest)}, reverse=True)
    if len(every) <= MAX_WIDTHS:
        return tuple(every)
    ratio = (every[-1] / every[0]) ** (1 / (MAX_WIDTHS - 1))
    chosen = {every[0], every[-1]}
    for number in range(1, MAX_WIDTHS - 1):
        wanted = group.width * ratio**number
        width, distance = _nearest(fitting, wanted)
        chosen.add(width if distance < -math.log(ratio) / 2 else _nearest(every, wanted)[0])
    return tuple(sorted(chosen, reverse=True))


def _nearest(widths: Iterable[int], wanted: float) -> tuple[int, float]:
    """Return the width whose ratio to a wanted one is closest to 1, and the distance of their logarithms."""
    distance, width = min((abs(math.log(width / wanted)), width) for width in widths)
    return width, distance


def _multiples(group: ChannelGroup, lowest: int) -> range:
    """Return the multiples of ``MULTIPLE`` from a group's width, excluded, to the lowest one."""
    unit = math.ceil(MULTIPLE / group.round_to) * group.round_to
    return range((group.width - 1) // unit * unit, lowest - 1, -unit)


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
