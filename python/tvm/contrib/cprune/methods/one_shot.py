# SPDX-License-Identifier: Apache-2.0
"""Methods that choose all widths at once, from a goal of multiply-accumulates."""

from abc import abstractmethod
from dataclasses import dataclass

import torch

from tvm.contrib.cprune.config import PruneConfig
from tvm.contrib.cprune.loop.run import AcceptedModel, Run
from tvm.contrib.cprune.methods.actions import Action, Stop, Try
from tvm.contrib.cprune.methods.planned import PlannedMethod, candidates, groups_of, scores_of
from tvm.contrib.cprune.methods.widths import check_macs_goal, smallest_widths
from tvm.contrib.cprune.models.macs import MacCounter
from tvm.contrib.cprune.models.prunable import PrunableModel
from tvm.contrib.cprune.table import TaskTable
from tvm.contrib.cprune.types import ChannelGroup, CPruneError


@dataclass(frozen=True)
class Problem:
    """What the choice of widths depends on.

    Attributes
    ----------
    groups
        The channel groups of the unpruned model that can be pruned.
    scores
        Importance of every channel by root of the group.
    """

    groups: tuple[ChannelGroup, ...]
    scores: dict[str, torch.Tensor]
    counter: MacCounter
    table: TaskTable
    config: PruneConfig


class OneShot(PlannedMethod):
    """Chooses the widths of one candidate, which is accepted if it can be compiled."""

    @abstractmethod
    def widths(self, problem: Problem) -> dict[str, int]:
        """Return the new width of each group by its root.

        Raises
        ------
        CPruneError
            If no widths meet the goal.
        """

    def check(self, prunable: PrunableModel, config: PruneConfig) -> None:
        """Check the goal against the smallest allowed widths of all groups.

        Which widths fit the programs and which groups have scores is only known after the tuning: then
        ``widths`` checks the goal again.
        """
        counter = _counter(prunable, config)
        check_macs_goal(counter, smallest_widths(counter.groups.groups, config), config)

    def next(self, run: Run, baseline: AcceptedModel, current: AcceptedModel) -> Action:
        done, config = candidates(run), run.config
        if not done:
            scores, counter = scores_of(run, baseline), _counter(baseline.prunable, config)
            groups = tuple(group for group in groups_of(run, baseline) if group.root in scores)
            widths = self.widths(Problem(groups, scores, counter, baseline.candidate.table, config))
            share = counter.count(widths) / counter.count({})
            title = f"{share:.3f} of the multiply-accumulates remain; the goal is {config.macs_goal:g}"
            return Try(title, widths, accept=True)
        if not done[-1]["accepted"]:
            raise CPruneError(f"the pruned model cannot be built: {done[-1]['reason']}")
        return Stop(done[-1]["reason"])


def _counter(prunable: PrunableModel, config: PruneConfig) -> MacCounter:
    groups = prunable.groups(config.include, config.exclude)
    return MacCounter.of(prunable.model, prunable.input_shape, groups)
