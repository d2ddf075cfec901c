# SPDX-License-Identifier: Apache-2.0
"""Channel groups: channels that must be removed together.

The coupling comes from Torch-Pruning's dependency graph (DepGraph, Fang et al., CVPR 2023).
"""

import math
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
import torch_pruning as tp

from tvm.contrib.cprune.types import ChannelGroup, CPruneError, GroupMember

PRUNABLE_LAYERS = (torch.nn.Conv2d, torch.nn.Linear)


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
        return Groups(self.layers, tuple(selected), unprunable)


def find_groups(
    model: torch.nn.Module,
    input_shape: tuple[int, ...],
    include: Collection[str] = (),
    exclude: Collection[str] = (),
) -> Groups:
    """Trace a model and return its channel groups (see ``Groups.select`` for the arguments)."""
    return groups_of_graph(dependency_graph(model, input_shape)).select(include, exclude)


def dependency_graph(model: torch.nn.Module, input_shape: tuple[int, ...]) -> tp.DependencyGraph:
    """Trace a model's dependency graph.

    The graph keeps the activations and weights of the traced run in memory. Use it and let it go.

    Raises
    ------
    CPruneError
        If Torch-Pruning cannot trace the model.
    """
    device = next(model.parameters()).device
    was_training = model.training
    try:
        return tp.DependencyGraph().build_dependency(model.eval(), torch.zeros(input_shape, device=device))
    except (RuntimeError, ValueError, KeyError, AttributeError, ZeroDivisionError) as error:
        raise CPruneError(
            f"Torch-Pruning cannot trace {type(model).__name__} with inputs of shape {input_shape}: {error}"
        ) from error
    finally:
        model.train(was_training)


def pruning_group(graph: tp.DependencyGraph, module: torch.nn.Module, channels: Iterable[int]) -> Any:
    """Return the Torch-Pruning group that removes output ``channels`` of a layer."""
    return graph.get_pruning_group(
        module, graph.get_pruner_of_module(module).prune_out_channels, list(channels)
    )


def is_depthwise(module: torch.nn.Module) -> bool:
    """Return whether a layer is a depthwise convolution."""
    return (
        isinstance(module, torch.nn.Conv2d) and module.groups == module.out_channels == module.in_channels > 1
    )


def groups_of_graph(graph: tp.DependencyGraph) -> Groups:
    """Return the channel groups of a traced model.

    A graph stays valid while its model is pruned through it, so that a pruned model needs no second trace.
    """
    names = {module: name for name, module in graph.model.named_modules()}
    layers = {name: module for module, name in names.items() if isinstance(module, PRUNABLE_LAYERS)}
    groups: list[ChannelGroup] = []
    unprunable: dict[str, str] = {}
    visited: set[str] = set()
    for name, module in layers.items():
        # A depthwise convolution is never a root: after a concatenation it belongs to several groups.
        if name in visited or is_depthwise(module) or module not in graph.module2node:
            continue
        width = int(module.weight.shape[0])
        items = pruning_group(graph, module, range(width))
        members = tuple(member for item in items for member in _members(item, names, graph, width))
        producers = _producers(members)
        visited.update(producers)
        reason = _reason_not_to_prune(members, width)
        if reason:
            unprunable.update(dict.fromkeys(producers, reason))
        else:
            groups.append(ChannelGroup(name, width, math.lcm(*(m.groups for m in members)), members))
    for name, module in layers.items():
        if name not in visited:
            traced = module in graph.module2node
            unprunable[name] = "it filters the model's inputs" if traced else "it is not in the traced graph"
    return Groups(tuple(layers), tuple(groups), unprunable)


def _producers(members: Iterable[GroupMember]) -> list[str]:
    """Return the layers whose outputs are a group's channels."""
    return [member.layer for member in members if member.side == "out"]


def _members(
    item: Any, names: Mapping[torch.nn.Module, str], graph: tp.DependencyGraph, width: int
) -> list[GroupMember]:
    """Return the member that an item of a full Torch-Pruning group describes, if it is a prunable layer."""
    module = item.dep.target.module
    if not isinstance(module, PRUNABLE_LAYERS):
        return []
    scale = len(item.idxs) // width
    name = names[module]
    outputs, inputs = module.weight.shape[:2]
    if is_depthwise(module):
        return [GroupMember(name, "out", outputs, scale)]
    conv_groups = module.groups if isinstance(module, torch.nn.Conv2d) else 1
    if graph.is_out_channel_pruning_fn(item.dep.handler):
        return [GroupMember(name, "out", outputs, scale, conv_groups)]
    return [GroupMember(name, "in", inputs * conv_groups, scale, conv_groups)]


def _reason_not_to_prune(members: tuple[GroupMember, ...], width: int) -> str:
    """Return why a group of ``width`` channels cannot be pruned, or an empty string if it can."""
    if not any(member.side == "in" for member in members):
        return "its outputs are the model's"
    for member in members:
        if member.scale < 1:
            return f"only some of its channels reach {member.layer}"
        if member.groups > 1 and member.width != member.scale * width:
            return f"{member.layer} convolves its channels in groups with channels of other layers"
    return ""
