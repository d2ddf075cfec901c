# SPDX-License-Identifier: Apache-2.0
"""Which channels must be removed together, from Torch-Pruning's dependency graph (Fang et al., CVPR 2023)."""

import math
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from typing import Any

import torch
import torch_pruning as tp

from tvm.contrib.cprune.types import ChannelGroup, CPruneError, GroupMember

_LAYERS = (torch.nn.Conv2d, torch.nn.Linear)


@dataclass(frozen=True)
class Groups:
    """The channel groups of a model, and the reason for each layer whose outputs are not pruned."""

    groups: tuple[ChannelGroup, ...]
    unprunable: dict[str, str]

    def of_layer(self, layer: str) -> ChannelGroup | None:
        """Return the group that holds a layer's output channels."""
        for group in self.groups:
            if any(member.layer == layer and member.side == "out" for member in group.members):
                return group
        return None


def dependency_graph(model: torch.nn.Module, input_shape: tuple[int, ...]) -> tp.DependencyGraph:
    """Trace a model's dependency graph.

    Raises
    ------
    CPruneError
        If Torch-Pruning cannot trace the model.
    """
    device = next(model.parameters()).device
    was_training = model.training
    try:
        return tp.DependencyGraph().build_dependency(model.eval(), torch.zeros(input_shape, device=device))
    except (RuntimeError, ValueError, KeyError, AttributeError) as error:
        raise CPruneError(f"cannot trace the channels of {type(model).__name__}: {error}") from error
    finally:
        model.train(was_training)


def pruning_group(graph: tp.DependencyGraph, module: torch.nn.Module, channels: Iterable[int]) -> Any:
    """Return what Torch-Pruning removes together with output channels of a layer."""
    return graph.get_pruning_group(
        module, graph.get_pruner_of_module(module).prune_out_channels, list(channels)
    )


def is_depthwise(module: torch.nn.Module) -> bool:
    """Whether a layer is a convolution that filters each channel by itself."""
    return (
        isinstance(module, torch.nn.Conv2d) and module.groups == module.out_channels == module.in_channels > 1
    )


def _member(item: Any, names: dict[torch.nn.Module, str], graph: Any, channels: int) -> list[GroupMember]:
    module = item.dep.target.module
    if not isinstance(module, torch.nn.Conv2d | torch.nn.Linear):
        return []
    scale = len(item.idxs) // channels
    name = names[module]
    outputs, inputs = module.weight.shape[:2]
    if is_depthwise(module):
        return [GroupMember(name, "out", outputs, scale)]
    grouped = module.groups if isinstance(module, torch.nn.Conv2d) else 1
    if graph.is_out_channel_pruning_fn(item.dep.handler):
        return [GroupMember(name, "out", outputs, scale, grouped)]
    return [GroupMember(name, "in", inputs * grouped, scale, grouped)]


def find_groups(
    model: torch.nn.Module,
    input_shape: tuple[int, ...],
    include: Collection[str] = (),
    exclude: Collection[str] = (),
) -> Groups:
    """Return a model's channel groups.

    Parameters
    ----------
    include
        Layers to prune; empty for all.
    exclude
        Layers whose output channels stay as they are, and with them all that are coupled to them.

    Raises
    ------
    CPruneError
        If a name in ``include`` or ``exclude`` is none of the model's convolutions and linear layers.
    """
    names = {module: name for name, module in model.named_modules()}
    layers = {name: module for module, name in names.items() if isinstance(module, _LAYERS)}
    unknown = sorted((set(include) | set(exclude)) - set(layers))
    if unknown:
        raise CPruneError(f"{', '.join(unknown)}: no such layer; the model has {', '.join(layers)}")
    graph = dependency_graph(model, input_shape)
    found: list[ChannelGroup] = []
    reasons: dict[str, str] = {}
    seen: set[str] = set()
    for name, module in layers.items():
        # Behind a concatenation a depthwise convolution holds the channels of several groups, and is no root.
        if name in seen or is_depthwise(module) or module not in graph.module2node:
            continue
        channels = int(module.weight.shape[0])
        items = pruning_group(graph, module, range(channels))
        members = tuple(member for item in items for member in _member(item, names, graph, channels))
        outs = [member.layer for member in members if member.side == "out"]
        seen.update(outs)
        reason = _refusal(members, channels, include, exclude)
        if reason:
            reasons.update(dict.fromkeys(outs, reason))
        else:
            found.append(ChannelGroup(name, channels, math.lcm(*(m.groups for m in members)), members))
    for name, module in layers.items():
        if name not in seen:
            reads_input = module in graph.module2node and is_depthwise(module)
            reasons[name] = (
                "it filters the model's inputs" if reads_input else "it is not in the traced graph"
            )
    return Groups(tuple(found), reasons)


def _refusal(
    members: tuple[GroupMember, ...], channels: int, include: Collection[str], exclude: Collection[str]
) -> str:
    """Return why a group is not pruned, or ""."""
    outs = [m.layer for m in members if m.side == "out"]
    if not any(m.side == "in" for m in members):
        return "its outputs are the model's"
    blocked = [layer for layer in outs if layer in exclude]
    if blocked:
        return f"{blocked[0]} is excluded, and its channels are coupled"
    if include and not any(layer in include for layer in outs):
        return "it is not among the included layers"
    for member in members:
        if member.scale < 1 or (member.groups > 1 and member.width != member.scale * channels):
            return f"{member.layer} reads them in groups, together with other channels"
    return ""
