# SPDX-License-Identifier: Apache-2.0
"""Choosing what to prune next."""

import math
from collections.abc import Collection, Mapping
from dataclasses import dataclass

from tvm.contrib.cprune.config import PruneConfig
from tvm.contrib.cprune.loop.run import AcceptedModel
from tvm.contrib.cprune.loop.state import LoopState
from tvm.contrib.cprune.step import minimum_width, partial_steps, plan_step
from tvm.contrib.cprune.table import Row, TaskTable
from tvm.contrib.cprune.targets.target import vector_lanes
from tvm.contrib.cprune.types import ChannelGroup, ChannelStep

# A width halfway is rounded up to a multiple of this, even if vectors are shorter.
MIN_MULTIPLE = 8


@dataclass(frozen=True)
class Proposal:
    """A task to prune, and the step of each of its channel groups.

    Attributes
    ----------
    choices
        Steps of a single group whose programs must be measured to choose one, if there are no ``steps``.
    """

    row: Row
    steps: tuple[ChannelStep, ...]
    choices: tuple[ChannelStep, ...] = ()


def propose(
    current: AcceptedModel, state: LoopState, original_widths: Mapping[str, int], config: PruneConfig
) -> Proposal | None:
    """Return the task of greatest impact that can still be pruned, None if there is none (lines 5 and 6).

    Parameters
    ----------
    original_widths
        Output channels of each layer in the unpruned model.
    """
    table = current.candidate.table
    groups = current.prunable.groups(config.include, config.exclude)
    for row in table.by_impact():
        steps: dict[str, ChannelStep] = {}
        choices: tuple[ChannelStep, ...] = ()
        for layer in row.task.layers:
            group = groups.of_layer(layer)
            if group is None or group.root in state.dropped:
                continue
            original, start = original_widths[group.root], state.reached.get(group.root)
            stride = 1 if group.root in state.limits else state.stride
            step = plan_step(group, table, row.task.layers, original, config, start, stride)
            limit = state.limits.get(group.root, state.missed.get(group.root))
            if limit is not None:
                step = stay_above(step, group, limit, start, vector_lanes(table.target))
            elif partial := _partial_steps(group, table, step, start, original, config):
                choices = choices or partial
                continue
            if step is not None:
                steps[group.root] = step
        if steps:
            return Proposal(row, separate(tuple(steps.values()), state.separated, state.limits))
        if choices:
            return Proposal(row, (), choices)
    return None


def _partial_steps(
    group: ChannelGroup,
    table: TaskTable,
    step: ChannelStep | None,
    start: int | None,
    original_width: int,
    config: PruneConfig,
) -> tuple[ChannelStep, ...]:
    """Return the steps to choose from instead of ``step``, if that is None or removes more than half."""
    useful = step is not None and step.next_width >= (start or group.width) / 2
    if useful or not config.partial_fit:
        return ()
    return partial_steps(group, table, minimum_width(group, original_width, config), start)


def separate(
    steps: tuple[ChannelStep, ...], separated: Collection[str], limits: Collection[str]
) -> tuple[ChannelStep, ...]:
    """Return the steps to take together: those of groups that are not separated, or else a single one.

    Parameters
    ----------
    separated
        Roots of the groups whose steps together cost too much accuracy.
    limits
        Roots of the groups whose step alone cost too much accuracy; their turn comes last.
    """
    joint = tuple(step for step in steps if step.group.root not in separated)
    return joint or (min(steps, key=lambda step: step.group.root in limits),)


def stay_above(
    step: ChannelStep | None, group: ChannelGroup, limit: int, start: int | None, lanes: int
) -> ChannelStep | None:
    """Return a step to a width above one that cost too much accuracy, None if there is no such width.

    Parameters
    ----------
    step
        The step to a width that fits the programs, None if there is none.
    limit
        The width that cost too much accuracy.
    start
        Width above which candidates were too slow; the group's current width by default.
    lanes
        Elements in a vector register. A width halfway to the limit is rounded up to whole vectors.
    """
    if step is not None and step.next_width > limit:
        return step
    width, multiple = start or group.width, math.lcm(group.round_to, max(lanes, MIN_MULTIPLE))
    middle = math.ceil((width + limit) / 2 / multiple) * multiple
    if not limit < middle < width:
        return None
    return ChannelStep(group, middle, f"halfway to {limit}, which cost too much accuracy")
