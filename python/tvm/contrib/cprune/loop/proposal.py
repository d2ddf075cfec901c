# SPDX-License-Identifier: Apache-2.0
"""Choosing what to prune next."""

from collections.abc import Mapping
from dataclasses import dataclass

from tvm.contrib.cprune.config import PruneConfig
from tvm.contrib.cprune.loop.run import AcceptedModel
from tvm.contrib.cprune.loop.state import LoopState
from tvm.contrib.cprune.step import plan_step
from tvm.contrib.cprune.table import Row
from tvm.contrib.cprune.types import ChannelStep


@dataclass(frozen=True)
class Proposal:
    """A task to prune, and the step of each of its channel groups."""

    row: Row
    steps: tuple[ChannelStep, ...]


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
        for layer in row.task.layers:
            group = groups.of_layer(layer)
            if group is None or group.root in state.dropped:
                continue
            original, start = original_widths[group.root], state.reached.get(group.root)
            step = plan_step(group, table, row.task.layers, original, config, start)
            if step is not None:
                steps[group.root] = step
        if steps:
            return Proposal(row, tuple(steps.values()))
    return None
