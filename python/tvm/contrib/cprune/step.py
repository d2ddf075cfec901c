# SPDX-License-Identifier: Apache-2.0
"""How far one step prunes a channel group: to the next width that keeps the structure of the programs it
touches.

A program keeps its inner loops at a width that the product of a split's inner lengths divides; only the
outermost loop gets shorter.
"""

import math
from collections.abc import Iterable

from tvm.contrib.cprune._plugin import fitting_width
from tvm.contrib.cprune.config import PruneConfig
from tvm.contrib.cprune.table import TaskTable
from tvm.contrib.cprune.types import ChannelGroup, ChannelStep, Side, Split

# Elements of the widest vectors, which an innermost loop should fill.
VECTOR = 16
Constraint = tuple[int, int, int]


def splits_of(layer: str, side: Side, table: TaskTable) -> list[Split]:
    """Return the splits along a layer's output or input channels in all of its programs."""
    programs = [row.program for row in table.of_layer(layer)]
    return [split for p in programs for split in (p.out_splits if side == "out" else p.in_splits)]


def products_of(layer: str, side: Side, groups: int, table: TaskTable, relax: bool) -> set[int]:
    """Return what a layer's channels must be multiples of to fit its programs, 1 left out.

    A grouped convolution's reduction axis runs over one of its groups, and its inner loops must not reach
    over the border of two.
    """
    splits = splits_of(layer, side, table)
    return {(relaxed_product(s) if relax else s.product) * groups for s in splits} - {1}


def relaxed_product(split: Split) -> int:
    """Return the split's product with one length free to shrink: the largest but for the innermost, or that
    one where it is the only loop, down to a vector."""
    largest = max(split.lengths[:-1], default=1)
    if largest > 1:
        return split.product // largest
    inner = split.product
    while inner > VECTOR and inner % 2 == 0:
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


def floor_width(group: ChannelGroup, original_width: int, config: PruneConfig) -> int:
    """Return the smallest width that a group that had ``original_width`` channels may be pruned to."""
    makers = [member.layer for member in group.members if member.side == "out"]
    sparsity = min((config.sparsity_of(layer) for layer in makers), default=config.max_sparsity)
    kept = math.ceil(original_width * (1 - sparsity) - 1e-9)
    return math.ceil(max(kept, config.min_width) / group.unit) * group.unit


def joint_step(group: ChannelGroup, table: TaskTable, start: int | None = None) -> ChannelStep | None:
    """Return the step to the widest width below ``start`` that fits producers and consumers alike, or None.

    Where that would take more than half of the layer, one inner length of each split may shrink: the
    transplant then measures variants.
    """
    width = start or group.width
    exact = _next(group, width, constraints(group, table))
    if exact >= width / 2:
        return ChannelStep(group, exact, "fits every program")
    relaxed = _next(group, width, constraints(group, table, relax=True))
    best = max(exact, relaxed)
    if not best:
        return None
    return ChannelStep(
        group, best, "fits every program" if best == exact else "fits with one inner length changed"
    )


def paper_step(
    group: ChannelGroup, table: TaskTable, layers: Iterable[str], start: int | None = None
) -> ChannelStep | None:
    """Return the step of the paper's rule (section 3.3): for each stage over the output channels of
    ``layers``, drop the largest split factor and multiply the others; the largest product is the number of
    channels to prune."""
    width = start or group.width
    members = [m for m in group.members if m.side == "out" and m.layer in set(layers)]
    sizes = [1]
    for split in (s for member in members for s in splits_of(member.layer, member.side, table)):
        factors = sorted([max(1, split.extent // split.product), *split.lengths])
        sizes.append(math.prod(factors[:-1]))
    step = math.ceil(max(sizes) / group.unit) * group.unit
    return ChannelStep(group, width - step, f"the paper's step of {step}") if step < width else None


def _next(group: ChannelGroup, width: int, every: tuple[Constraint, ...]) -> int:
    gone = group.width - width
    shifted = [(extent - gone * scale, scale, product) for extent, scale, product in every]
    return fitting_width(width, width - 1, 1, group.unit, shifted)


def plan_step(
    group: ChannelGroup,
    table: TaskTable,
    layers: Iterable[str],
    original_width: int,
    config: PruneConfig,
    start: int | None = None,
) -> ChannelStep | None:
    """Return the next step of a group by the configured rule, or None where no further step is allowed.

    Parameters
    ----------
    start
        A width to step down from that the group was tried at already; by default its present one.
    """
    if config.step_rule == "paper":
        step = paper_step(group, table, layers, start)
    else:
        step = joint_step(group, table, start)
    if step is None or step.next_width < floor_width(group, original_width, config):
        return None
    return step
