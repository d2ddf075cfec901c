# SPDX-License-Identifier: Apache-2.0
"""What tuned programs require of a number of channels.

A program keeps its inner loops at a width that the product of a split's inner lengths divides; only the
outermost loop gets shorter.
"""

from tvm.contrib.cprune.table import TaskTable
from tvm.contrib.cprune.targets.target import vector_lanes
from tvm.contrib.cprune.types import ChannelGroup, Side, Split

# Present extent of an axis, extent per channel of the group, product that must divide the new extent.
Constraint = tuple[int, int, int]


def layer_splits(layer: str, side: Side, table: TaskTable) -> list[Split]:
    """Return the splits along a layer's output or input channels in all of its programs."""
    programs = [row.program for row in table.of_layer(layer)]
    return [split for p in programs for split in (p.out_splits if side == "out" else p.in_splits)]


def products_of(layer: str, side: Side, groups: int, table: TaskTable, relax: bool) -> set[int]:
    """Return what a layer's channels must be multiples of to fit its programs, 1 left out.

    A grouped convolution's reduction axis runs over one of its groups, and its inner loops must not reach
    over the border of two.
    """
    splits = layer_splits(layer, side, table)
    lanes = vector_lanes(table.target) if relax else 1
    return {(relaxed_product(s, lanes) if relax else s.product) * groups for s in splits} - {1}


def relaxed_product(split: Split, lanes: int) -> int:
    """Return the split's product with one length free to shrink: the largest but for the innermost, or that
    one where it is the only loop, down to a vector."""
    largest = max(split.lengths[:-1], default=1)
    if largest > 1:
        return split.product // largest
    inner = split.product
    while inner > lanes and inner % 2 == 0:
        inner //= 2
    return inner


def constraints(group: ChannelGroup, table: TaskTable, relax: bool = False) -> tuple[Constraint, ...]:
    """Return what a width must fulfil to fit every program that sees the group's channels.

    Producers see them along their output axes, consumers along their reduction axes.
    """
    found = {
        (member.width, member.scale, product)
        for member in group.members
        for product in products_of(member.layer, member.side, member.groups, table, relax)
    }
    return tuple(sorted(found))
