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
from tvm.contrib.cprune.constraints import Constraint, constraints, layer_splits
from tvm.contrib.cprune.table import TaskTable
from tvm.contrib.cprune.types import ChannelGroup, ChannelStep


def floor_width(group: ChannelGroup, original_width: int, config: PruneConfig) -> int:
    """Return the smallest width that a group that had ``original_width`` channels may be pruned to."""
    makers = [member.layer for member in group.members if member.side == "out"]
    sparsity = min((config.sparsity_of(layer) for layer in makers), default=config.max_sparsity)
    kept = math.ceil(original_width * (1 - sparsity) - 1e-9)
    return math.ceil(max(kept, config.min_width) / group.round_to) * group.round_to


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
    for split in (s for member in members for s in layer_splits(member.layer, member.side, table)):
        factors = sorted([max(1, split.extent // split.product), *split.lengths])
        sizes.append(math.prod(factors[:-1]))
    step = math.ceil(max(sizes) / group.round_to) * group.round_to
    return ChannelStep(group, width - step, f"the paper's step of {step}") if step < width else None


def _next(group: ChannelGroup, width: int, every: tuple[Constraint, ...]) -> int:
    gone = group.width - width
    shifted = [(extent - gone * scale, scale, product) for extent, scale, product in every]
    return fitting_width(width, width - 1, 1, group.round_to, shifted)


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
