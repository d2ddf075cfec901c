# SPDX-License-Identifier: Apache-2.0
"""Step rules: how many channels of a group one pruning step removes.

The paper (section 3.3) derives the number of filters to prune from the loop structure of the fastest program,
so that the pruned layer keeps that structure. Two rules implement this idea:

``paper``
    The paper's rule. It considers only the programs of the layers being pruned, and removes a number of
    channels computed from their tile factors. The remaining width may not fit the programs of the layers
    that consume the channels.
``joint``
    The default. It chooses a width instead of a number to remove: the largest that fits the programs of all
    producers and consumers of the group.
"""

import math
from collections.abc import Iterable
from dataclasses import replace

from tvm.contrib.cprune._plugin import fitting_width
from tvm.contrib.cprune.config import PruneConfig
from tvm.contrib.cprune.constraints import Constraint, constrained_work, layer_splits, width_constraints
from tvm.contrib.cprune.table import TaskTable
from tvm.contrib.cprune.types import ChannelGroup, ChannelStep

# Where no width fits every program, choose from this many that fit at least this fraction of the work.
MAX_CHOICES, MIN_FITTING = 3, 0.5


def minimum_width(group: ChannelGroup, original_width: int, config: PruneConfig) -> int:
    """Return the smallest width that a group may be pruned to.

    Parameters
    ----------
    original_width
        Number of channels before the first step. ``max_sparsity`` is a fraction of this.
    """
    producers = [member.layer for member in group.members if member.side == "out"]
    sparsity = min((config.sparsity_of(layer) for layer in producers), default=config.max_sparsity)
    # Without the tolerance, 10 * (1 - 0.7) would round up to 4.
    kept = math.ceil(original_width * (1 - sparsity) - 1e-9)
    return math.ceil(max(kept, config.min_width) / group.round_to) * group.round_to


def joint_step(group: ChannelGroup, table: TaskTable, start: int | None = None) -> ChannelStep | None:
    """Step to the largest width below ``start`` that fits the programs of all producers and consumers.

    The paper only considers the layers being pruned (see ``paper_step``). If the largest fitting width would
    remove more than half of the channels, one inner length of each split may shrink, and the transplant
    measures variants.

    Parameters
    ----------
    start
        Width to step down from; the group's current width by default.

    Returns
    -------
    The step, or None if no width fits.
    """
    width = start or group.width
    exact = _next_fitting_width(group, width, width_constraints(group, table))
    if exact >= width / 2:
        return ChannelStep(group, exact, "fits every program")
    relaxed = _next_fitting_width(group, width, width_constraints(group, table, relax=True))
    best = max(exact, relaxed)
    if not best:
        return None
    reason = "fits every program" if best == exact else "fits with one inner length changed"
    return ChannelStep(group, best, reason)


def paper_step(
    group: ChannelGroup, table: TaskTable, layers: Iterable[str], start: int | None = None
) -> ChannelStep | None:
    """Step down by the paper's rule (section 3.3).

    For each stage over the output channels of ``layers``, multiply all tile factors except the largest. The
    step is the largest product. Unlike the paper's, it is rounded up to a multiple of ``group.round_to``,
    because other layers may share the channels.

    Parameters
    ----------
    layers
        Layers of the task being pruned.
    start
        Width to step down from; the group's current width by default.

    Returns
    -------
    The step, or None if it would remove every channel.
    """
    width = start or group.width
    pruned = set(layers)
    producers = [member for member in group.members if member.side == "out" and member.layer in pruned]
    products = [1]
    for split in (s for member in producers for s in layer_splits(member.layer, "out", table)):
        outermost = max(1, split.extent // split.product)
        factors = sorted([outermost, *split.lengths])
        products.append(math.prod(factors[:-1]))
    step = math.ceil(max(products) / group.round_to) * group.round_to
    return ChannelStep(group, width - step, f"the paper's step of {step}") if step < width else None


def _next_fitting_width(group: ChannelGroup, width: int, constraints: tuple[Constraint, ...]) -> int:
    """Return the largest width below ``width`` that meets the constraints, or 0."""
    if width == 1:  # fitting_width would take the range from 0 to 1 as an ascending one
        return 0
    removed = group.width - width
    at_width = [Constraint(c.extent - removed * c.scale, c.scale, c.divisor) for c in constraints]
    return fitting_width(width, width - 1, 1, group.round_to, at_width)


def partial_steps(
    group: ChannelGroup, table: TaskTable, floor: int, start: int | None = None
) -> tuple[ChannelStep, ...]:
    """Return steps to widths that fit most of the work, for a group without a useful joint step.

    The work of a program is its latency times the number of its subgraphs that use the channels. The widths
    that fit the most work come first, exactly or with one inner length changed. Among equal ones, those that
    fit more work exactly come first, and then the wider ones.

    Parameters
    ----------
    floor
        Smallest width to consider. No step removes more than half of the channels.
    start
        Width to step down from; the group's current width by default.

    Returns
    -------
    At most ``MAX_CHOICES`` steps.
    """
    width, work = start or group.width, constrained_work(group, table)
    if not work:
        return ()
    total = sum(item.seconds for item in work)

    def shares(next_width: int) -> tuple[float, float]:
        relaxed = sum(item.seconds for item in work if _fits(group, next_width, item.relaxed))
        exact = sum(item.seconds for item in work if _fits(group, next_width, item.exact))
        return relaxed / total, exact / total

    possible = range(max(floor, math.ceil(width / 2)), width)
    fitting = {candidate: shares(candidate) for candidate in possible if candidate % group.round_to == 0}
    enough = [w for w in fitting if fitting[w][0] >= MIN_FITTING]
    ordered = sorted(enough, key=lambda w: (*fitting[w], w), reverse=True)
    return tuple(
        ChannelStep(group, w, f"fits programs that do {fitting[w][0]:.0%} of the work")
        for w in ordered[:MAX_CHOICES]
    )


def _fits(group: ChannelGroup, width: int, constraints: tuple[Constraint, ...]) -> bool:
    return fitting_width(group.width, width, width, group.round_to, constraints) == width


def plan_step(
    group: ChannelGroup,
    table: TaskTable,
    layers: Iterable[str],
    original_width: int,
    config: PruneConfig,
    start: int | None = None,
    stride: int = 1,
) -> ChannelStep | None:
    """Return the next step of a group by the configured rule.

    Parameters
    ----------
    layers
        Layers of the task being pruned; only the paper's rule uses them.
    original_width
        Number of channels before the first step, for the limit on sparsity.
    start
        Width to step down from, if it was already tried; the group's current width by default.
    stride
        Number of fitting widths to move down if possible; the paper's rule ignores it.

    Returns
    -------
    The step, or None if no further step is possible or it would exceed the limit on sparsity.
    """
    floor = minimum_width(group, original_width, config)
    paper = config.step_rule == "paper"
    step = paper_step(group, table, layers, start) if paper else joint_step(group, table, start)
    if step is None or step.next_width < floor:
        return None
    return step if paper else _lengthen(step, table, stride, max(floor, group.width / 2))


def _lengthen(step: ChannelStep, table: TaskTable, stride: int, floor: float) -> ChannelStep:
    """Return a step that moves down ``stride`` fitting widths, or as many as keep ``floor`` channels."""
    for count in range(2, stride + 1):
        further = joint_step(step.group, table, step.next_width)
        if further is None or further.next_width < floor:
            break
        step = replace(further, reason=f"{further.reason}, {count} fitting widths down", stride=count)
    return step
