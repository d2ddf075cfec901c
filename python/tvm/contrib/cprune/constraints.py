# SPDX-License-Identifier: Apache-2.0
"""Constraints that tuned programs impose on the number of channels.

A program keeps its inner loops at every width that is a multiple of the product of the split's inner lengths.
Only the outermost loop becomes shorter.
"""

from dataclasses import replace
from typing import NamedTuple

from tvm.contrib.cprune.table import TaskTable
from tvm.contrib.cprune.targets.target import vector_lanes
from tvm.contrib.cprune.types import ChannelGroup, Side, Split


class Constraint(NamedTuple):
    """A constraint on the width of a channel group, in the form that ``_plugin.fitting_width`` takes.

    With ``k`` channels added to the group, ``extent + k * scale`` must be a positive multiple of ``divisor``.

    Attributes
    ----------
    extent : int
        The layer's number of channels at the group's current width.
    scale : int
        Channels that the layer gains per channel of the group.
    divisor : int
        Product of a split's inner lengths, times the number of groups of a grouped convolution.
    """

    extent: int
    scale: int
    divisor: int


class Work(NamedTuple):
    """The work that one program does on the channels of a group.

    Attributes
    ----------
    seconds : float
        Latency of the program times the number of its subgraphs that use the channels.
    exact, relaxed : tuple of Constraint
        Constraints of the program; see ``width_constraints``.
    """

    seconds: float
    exact: tuple[Constraint, ...]
    relaxed: tuple[Constraint, ...]


def layer_splits(layer: str, side: Side, table: TaskTable) -> list[Split]:
    """Return the splits along a layer's output or input channels in all of its programs."""
    programs = [row.program for row in table.of_layer(layer)]
    return [split for p in programs for split in (p.out_splits if side == "out" else p.in_splits)]


def required_multiples(layer: str, side: Side, groups: int, table: TaskTable, relax: bool) -> set[int]:
    """Return the numbers that a layer's channel count must be a multiple of to fit its programs.

    The inner loops of a grouped convolution must not cross the boundary between two groups, so the channels
    of one group must be a multiple of the product, and all channels of ``groups`` times that. 1 is omitted.

    Parameters
    ----------
    layer, side
        The layer, and whether its output or input channels are counted.
    groups
        Groups of the layer, if it is a grouped convolution.
    relax
        Allow one inner length of each split to shrink; see ``relaxed_multiple``.
    """
    splits = layer_splits(layer, side, table)
    lanes = vector_lanes(table.target) if relax else 1
    return {(relaxed_multiple(s, lanes) if relax else s.product) * groups for s in splits} - {1}


def relaxed_multiple(split: Split, lanes: int) -> int:
    """Return the required multiple if one inner length of the split may shrink.

    The largest length except the innermost may shrink to 1. If all of those are 1, the innermost may shrink:
    to one vector of ``lanes`` float32 values if it consists of whole vectors, or else by halving it until it
    is odd or no longer than a vector.
    """
    largest = max(split.lengths[:-1], default=1)
    if largest > 1:
        return split.product // largest
    innermost = split.product
    if lanes > 1 and innermost % lanes == 0:
        return lanes
    while innermost > lanes and innermost % 2 == 0:
        innermost //= 2
    return innermost


def width_constraints(group: ChannelGroup, table: TaskTable, relax: bool = False) -> tuple[Constraint, ...]:
    """Return the constraints under which a width fits every program that uses the group's channels.

    Producers are constrained along their output axes, consumers along their reduction axes.
    """
    constraints = {
        Constraint(member.width, member.scale, multiple)
        for member in group.members
        for multiple in required_multiples(member.layer, member.side, member.groups, table, relax)
    }
    return tuple(sorted(constraints))


def constrained_work(group: ChannelGroup, table: TaskTable) -> tuple[Work, ...]:
    """Return the work on a group's channels of each program that does not fit every width."""
    layers, work = {member.layer for member in group.members}, []
    for row in table.rows:
        count = sum(not layers.isdisjoint(subgraph.layers) for subgraph in row.task.subgraphs)
        alone = replace(table, rows=(row,))
        exact, relaxed = width_constraints(group, alone), width_constraints(group, alone, relax=True)
        if exact:
            work.append(Work(row.program.latency.median * count, exact, relaxed))
    return tuple(work)
