# SPDX-License-Identifier: Apache-2.0
"""Global pruning: one ranking of the channels of all layers."""

from bisect import bisect_left
from collections import Counter
from collections.abc import Mapping

import torch

from tvm.contrib.cprune.methods.one_shot import OneShot, Problem
from tvm.contrib.cprune.methods.widths import check_macs_goal, smallest_widths
from tvm.contrib.cprune.types import ChannelGroup


class GlobalRanking(OneShot):
    """Removes the least important channels of the whole model until the goal is met.

    Scores of different groups become comparable when each is divided by the mean of its group, as in the
    global pruning of Torch-Pruning (``BasePruner`` with ``global_pruning`` and the normalizer "mean").
    """

    def widths(self, problem: Problem) -> dict[str, int]:
        groups, counter, config = problem.groups, problem.counter, problem.config
        order = ranking(groups, problem.scores, smallest_widths(groups, config))
        goal = config.macs_goal * counter.count({})

        def after(removed: int) -> dict[str, int]:
            units = Counter(order[:removed])
            return {group.root: group.width - units[group.root] * group.round_to for group in groups}

        check_macs_goal(counter, after(len(order)), config)
        fewest = bisect_left(range(len(order)), True, key=lambda n: counter.count(after(n)) <= goal)
        return after(fewest)


def ranking(
    groups: tuple[ChannelGroup, ...], scores: Mapping[str, torch.Tensor], smallest: Mapping[str, int]
) -> list[str]:
    """Return the root of the group that loses channels, for each removal in ascending order of importance.

    A removal takes one channel from every block of the group (see ``channels_to_drop``). Its importance is
    the mean score of these channels over the mean score of the group.

    Parameters
    ----------
    scores
        Importance of every channel by root of the group.
    smallest
        The smallest allowed width by root of the group.
    """
    removals: list[tuple[float, str]] = []
    for group in groups:
        by_position = normalized(scores[group.root], group).sort().values.tolist()
        count = (group.width - smallest[group.root]) // group.round_to
        removals += [(importance, group.root) for importance in by_position[:count]]
    return [root for _, root in sorted(removals, key=lambda removal: removal[0])]


def normalized(scores: torch.Tensor, group: ChannelGroup) -> torch.Tensor:
    """Return the mean score of each position in the blocks of a group, over the mean of the group.

    Parameters
    ----------
    scores
        One score per channel, ``(group.width,)``.

    Returns
    -------
    One value per position, ``(group.width / group.round_to,)``; zeros if all scores are zero.
    """
    by_position = scores.reshape(group.round_to, -1).double().mean(0)
    mean = by_position.mean()
    return by_position / mean if mean > 0 else torch.zeros_like(by_position)
