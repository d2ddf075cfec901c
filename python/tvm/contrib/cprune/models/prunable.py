# SPDX-License-Identifier: Apache-2.0
"""A model together with its channel groups."""

from collections.abc import Collection, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass

import torch

from tvm.contrib.cprune.models.groups import Groups, groups_of_graph
from tvm.contrib.cprune.models.layers import channels
from tvm.contrib.cprune.models.surgery import Chooser, Scorer, least_important, prune_copy
from tvm.contrib.cprune.models.tracing import ChannelGraph, dependency_graph, pruning_group
from tvm.contrib.cprune.types import CandidateError, ChannelGroup, ChannelStep


@dataclass(frozen=True)
class PrunableModel:
    """A model, the shape of its input, and its channel groups.

    Pruning returns a new ``PrunableModel``, whose groups come from the graph that pruned it: each model is
    traced once. The groups stay valid while the model is trained. Dependency graphs are not kept, because
    they hold the traced activations in memory.

    Attributes
    ----------
    all_groups
        Every group that can be pruned; ``groups`` selects those that the user wants to prune.
    """

    model: torch.nn.Module
    input_shape: tuple[int, ...]
    all_groups: Groups

    @classmethod
    def trace(cls, model: torch.nn.Module, input_shape: tuple[int, ...]) -> "PrunableModel":
        """Trace a model, which is not copied.

        Raises
        ------
        CPruneError
            If Torch-Pruning cannot trace the model or group its channels.
        """
        return cls._of_graph(dependency_graph(model, input_shape), input_shape)

    @classmethod
    def _of_graph(cls, graph: ChannelGraph, input_shape: tuple[int, ...]) -> "PrunableModel":
        return cls(graph.model, tuple(input_shape), groups_of_graph(graph))

    def groups(self, include: Collection[str] = (), exclude: Collection[str] = ()) -> Groups:
        """Return the channel groups to prune (see ``Groups.select``)."""
        return self.all_groups.select(include, exclude)

    def shrink(self, steps: Sequence[ChannelStep], scorer: Scorer) -> "PrunableModel":
        """Return a copy from which each step has removed its least important channels.

        Parameters
        ----------
        scorer
            Returns one score per channel of a full Torch-Pruning group (see ``importance.score``).

        Raises
        ------
        CandidateError
            If the model cannot be pruned this way (see ``prune_copy``).
        """
        return self._prune([step.group.root for step in steps], least_important(steps, scorer))

    def scores(self, groups: Iterable[ChannelGroup], scorer: Scorer) -> dict[str, torch.Tensor]:
        """Return the scores of every channel, by root of the group.

        A group that the importance cannot score is missing, such as one without a batch norm for "bn-scale".
        """
        graph = dependency_graph(self.model, self.input_shape)
        scores: dict[str, torch.Tensor] = {}
        for group in groups:
            module = self.model.get_submodule(group.root)
            full_group = pruning_group(graph, module, range(channels(module)[0]))
            with suppress(CandidateError):
                scores[group.root] = scorer(full_group)
        return scores

    def drop_channels(self, drops: Mapping[str, Sequence[int]]) -> "PrunableModel":
        """Return a copy without the given channels.

        Parameters
        ----------
        drops
            For the root of each group to prune, the channels to remove.

        Raises
        ------
        CandidateError
            If the model cannot be pruned this way (see ``prune_copy``).
        """
        return self._prune(list(drops), lambda root, _: drops[root])

    def _prune(self, roots: Sequence[str], choose: Chooser) -> "PrunableModel":
        return self._of_graph(prune_copy(self.model, self.input_shape, roots, choose), self.input_shape)
