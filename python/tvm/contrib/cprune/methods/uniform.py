# SPDX-License-Identifier: Apache-2.0
"""Uniform pruning: one factor for the widths of all layers."""

from collections.abc import Mapping

from tvm.contrib.cprune.methods.one_shot import OneShot, Problem
from tvm.contrib.cprune.methods.widths import check_macs_goal, fitting_widths, smallest_widths
from tvm.contrib.cprune.types import ChannelGroup

# Bisections of the factor: enough for widths of up to a million channels.
BISECTIONS = 20


class Uniform(OneShot):
    """Multiplies the widths of all layers by the largest factor that meets the goal.

    With ``PruneConfig.round_widths``, each width becomes the nearest one that fits the tuned programs.
    """

    def widths(self, problem: Problem) -> dict[str, int]:
        groups, counter, config = problem.groups, problem.counter, problem.config
        smallest, fitting = smallest_widths(groups, config), dict[str, tuple[int, ...]]()
        if config.round_widths:
            fitting = {g.root: fitting_widths(g, problem.table, g.width, config) for g in groups}

        def at_factor(factor: float) -> dict[str, int]:
            return {group.root: nearest(group, factor, smallest[group.root], fitting) for group in groups}

        check_macs_goal(counter, at_factor(0), config)
        goal, low, high = config.macs_goal * counter.count({}), 0.0, 1.0
        for _ in range(BISECTIONS):
            middle = (low + high) / 2
            if counter.count(at_factor(middle)) <= goal:
                low = middle
            else:
                high = middle
        return at_factor(low)


def nearest(group: ChannelGroup, factor: float, smallest: int, fitting: Mapping[str, tuple[int, ...]]) -> int:
    """Return the allowed width nearest to a fraction of a group's channels; the larger one of two.

    Parameters
    ----------
    smallest
        The smallest allowed width.
    fitting
        The widths to choose from by root of the group; empty for all multiples of ``group.round_to``.
    """
    wanted = group.width * factor
    if fitting:
        return min(fitting[group.root], key=lambda width: (abs(width - wanted), -width))
    return max(int(wanted / group.round_to + 0.5) * group.round_to, smallest)
