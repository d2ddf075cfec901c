# SPDX-License-Identifier: Apache-2.0
"""Channel groups: channels that must be removed together (see ``tracing`` for the coupling)."""

import math
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from typing import Any

import torch

from tvm.contrib.cprune.models.layers import (
    PRUNABLE_LAYERS,
    Kind,
    channels,
    conv_groups,
    is_depthwise,
    reason_to_keep,
)
from tvm.contrib.cprune.models.tracing import (
    TORCH_ERRORS,
    ChannelGraph,
    dependency_graph,
    pruning_group,
    summary,
)
from tvm.contrib.cprune.types import ChannelGroup, CPruneError, GroupMember


@dataclass(frozen=True)
class Groups:
    """The channel groups of a model.

    Attributes
    ----------
    layers
        Names of the model's convolutions and linear layers.
    groups
        The groups that can be pruned.
    unprunable
        For each layer whose outputs cannot be pruned, the reason.
    """

    layers: tuple[str, ...]
    groups: tuple[ChannelGroup, ...]
    unprunable: dict[str, str]

    def of_layer(self, layer: str) -> ChannelGroup | None:
        """Return the group that contains a layer's output channels."""
        return next((group for group in self.groups if layer in _producers(group.members)), None)

    def select(self, include: Collection[str] = (), exclude: Collection[str] = ()) -> "Groups":
        """Return these groups without those that the user does not want to prune.

        Parameters
        ----------
        include
            Layers to prune; empty for all.
        exclude
            Layers whose output channels must not be pruned. This also protects the layers coupled to them.

        Raises
        ------
        CPruneError
            If ``include`` or ``exclude`` names a layer that the model does not have.
        """
        unknown = sorted({*include, *exclude} - set(self.layers))
        if unknown:
            raise CPruneError(
                f"no such layer: {', '.join(unknown)}; expected some of {', '.join(self.layers)}"
            )
        selected, unprunable = [], dict(self.unprunable)
        for group in self.groups:
            producers = _producers(group.members)
            excluded = [layer for layer in producers if layer in exclude]
            if excluded:
                unprunable.update(
                    dict.fromkeys(producers, f"its group contains the excluded layer {excluded[0]}")
                )
            elif include and not any(layer in include for layer in producers):
                unprunable.update(dict.fromkeys(producers, "it is not among the included layers"))
            else:
                selected.append(group)
        return Groups(self.layers, tuple(selected), _without_pruned(unprunable, selected))


def find_groups(
    model: torch.nn.Module,
    input_shape: tuple[int, ...],
    include: Collection[str] = (),
    exclude: Collection[str] = (),
) -> Groups:
    """Trace a model and return its channel groups (see ``Groups.select`` for the arguments)."""
    return groups_of_graph(dependency_graph(model, input_shape)).select(include, exclude)


def groups_of_graph(graph: ChannelGraph) -> Groups:
    """Return the channel groups of a traced model.

    A graph stays valid while its model is pruned through it, so that a pruned model needs no second trace.

    Raises
    ------
    CPruneError
        If Torch-Pruning cannot group any layer.
    """
    finder = _GroupFinder(graph)
    layers = {name: module for module, name in finder.names.items() if isinstance(module, PRUNABLE_LAYERS)}
    groups: list[ChannelGroup] = []
    unprunable: dict[str, str] = {}
    visited: set[str] = set()
    errors: list[str] = []
    for name, module in layers.items():
        # A depthwise convolution is never a root: after a concatenation it belongs to several groups.
        if name in visited or is_depthwise(module) or module not in graph.module2node:
            continue
        try:
            group, reason = finder.group(name, module)
        except TORCH_ERRORS as error:
            errors.append(summary(error))
            visited.add(name)
            unprunable[name] = f"Torch-Pruning cannot group its channels: {summary(error)}"
            continue
        producers = _producers(group.members)
        visited.update(producers)
        if reason:
            unprunable.update(dict.fromkeys(producers, reason))
        else:
            groups.append(group)
    if errors and len(errors) == len(unprunable) and not groups:
        raise CPruneError(f"cannot group the channels of {type(graph.model).__name__}: {errors[0]}")
    for name, module in layers.items():
        if name not in visited:
            unprunable[name] = (
                "it filters the model's inputs, or channels that are kept"
                if module in graph.module2node
                else "the model does not call it as a layer, as in attention"
            )
    return Groups(tuple(layers), tuple(groups), _without_pruned(unprunable, groups))


def _producers(members: Iterable[GroupMember]) -> list[str]:
    """Return the layers whose outputs are a group's channels."""
    return list(dict.fromkeys(member.layer for member in members if member.side == "out"))


def _without_pruned(unprunable: dict[str, str], groups: Iterable[ChannelGroup]) -> dict[str, str]:
    """Return the reasons without those of layers that still belong to a group.

    After a concatenation, a depthwise convolution belongs to the groups of all concatenated layers.
    """
    pruned = {layer for group in groups for layer in _producers(group.members)}
    return {layer: reason for layer, reason in unprunable.items() if layer not in pruned}


class _GroupFinder:
    """Translates Torch-Pruning's groups of one graph."""

    def __init__(self, graph: ChannelGraph) -> None:
        self._graph = graph
        self.names = {module: name for name, module in graph.model.named_modules()}

    def group(self, root: str, module: torch.nn.Module) -> tuple[ChannelGroup, str]:
        """Return the channel group of a layer's outputs, and why it cannot be pruned, if it cannot."""
        width = channels(module)[0]
        items = pruning_group(self._graph, module, range(width))
        members = tuple(member for item in items if (member := self._member(item, width)))
        norms = [item.dep.target.module for item in items if item.dep.target.type == Kind.GN]
        round_to = math.lcm(*(m.groups for m in members), *(norm.num_groups for norm in norms))
        reason = self._reason_not_to_prune(items, members, width)
        return ChannelGroup(root, width, round_to, members), reason

    def _member(self, item: Any, width: int) -> GroupMember | None:
        """Return the member that an item of a full Torch-Pruning group describes, if it is a prunable
        layer."""
        module = item.dep.target.module
        if not isinstance(module, PRUNABLE_LAYERS):
            return None
        name, scale = self.names[module], len(item.idxs) // width
        outputs, inputs = channels(module)
        if is_depthwise(module):
            return GroupMember(name, "out", outputs, scale)
        if self._graph.is_out_channel_pruning_fn(item.dep.handler):
            return GroupMember(name, "out", outputs, scale, conv_groups(module))
        return GroupMember(name, "in", inputs, scale, conv_groups(module))

    def _reason_not_to_prune(self, items: Any, members: tuple[GroupMember, ...], width: int) -> str:
        """Return why a group of ``width`` channels cannot be pruned, or an empty string if it can."""
        for item in items:
            node = item.dep.target
            if node in self._graph.cuts:
                return self._graph.cuts[node]
            if node.type == Kind.OUTPUT and node.module.shape[1:2] >= [width]:
                return "its outputs are the model's"
            if reason := reason_to_keep(node.module):
                return f"its channels reach {self.names[node.module]}, which {reason}"
            if node.type == Kind.GN and node.module.num_channels != width:
                return (
                    f"{self.names[node.module]} normalizes its channels in groups with those of other layers"
                )
        if not any(member.side == "in" for member in members):
            return "its outputs are the model's"
        for member in members:
            if member.scale < 1:
                return f"only some of its channels reach {member.layer}"
            if member.groups > 1 and member.width != member.scale * width:
                return f"{member.layer} convolves its channels in groups with channels of other layers"
        return ""
