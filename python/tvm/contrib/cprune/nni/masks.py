# SPDX-License-Identifier: Apache-2.0
"""NNI masks: read them, write them, and remove the channels that they mask.

NNI 2.x pruners set weights to zero and save what they masked with ``torch.save``, as
``{layer: {"weight": mask, "bias": mask}}``. A mask is a tensor of zeros (masked) and ones in the shape of its
weight.
"""

from collections.abc import Mapping
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import torch
import torch_pruning as tp

from tvm.contrib.cprune._plugin import fitting_width
from tvm.contrib.cprune.constraints import width_constraints
from tvm.contrib.cprune.files import replaced
from tvm.contrib.cprune.messages import first_line
from tvm.contrib.cprune.models.groups import groups_of_graph
from tvm.contrib.cprune.models.importance import score
from tvm.contrib.cprune.models.layers import PRUNABLE_LAYERS, Kind, is_depthwise
from tvm.contrib.cprune.models.prunable import PrunableModel
from tvm.contrib.cprune.models.tracing import dependency_graph, pruning_group
from tvm.contrib.cprune.table import TaskTable
from tvm.contrib.cprune.types import ChannelGroup, CPruneError

Masks = Mapping[str, Mapping[str, torch.Tensor]]


def load_masks(path: Path) -> dict[str, dict[str, torch.Tensor]]:
    """Read a mask file written by NNI's ``export_model`` or by ``save_masks``.

    Raises
    ------
    CPruneError
        If the file is missing, damaged, or not a mask file.
    """
    try:
        masks = torch.load(path, map_location="cpu", weights_only=True)
    except OSError as error:
        raise CPruneError(f"cannot read {path}: {error.strerror}") from None
    except (RuntimeError, EOFError, UnpicklingError, KeyError, ValueError) as error:
        raise CPruneError(f"{path} is not a mask file: {first_line(error)}") from None
    valid = isinstance(masks, dict) and all(
        isinstance(by_name, dict)
        and all(mask is None or isinstance(mask, torch.Tensor) for mask in by_name.values())
        for by_name in masks.values()
    )
    if not valid:
        raise CPruneError(f"{path} is not a mask file: expected {{layer: {{'weight': tensor}}}}")
    return {
        layer: {name: mask for name, mask in by_name.items() if mask is not None}
        for layer, by_name in masks.items()
    }


def save_masks(masks: Masks, path: Path) -> None:
    """Write a mask file that NNI can read. The file is replaced atomically."""
    with replaced(path) as aside:
        torch.save({layer: dict(by_name) for layer, by_name in masks.items()}, aside)


def apply_masks(model: torch.nn.Module, masks: Masks) -> None:
    """Set the masked weights of a model to zero, in place.

    Raises
    ------
    CPruneError
        If a mask does not match the model.
    """
    _check_masks(model, masks)
    modules = dict(model.named_modules())
    with torch.no_grad():
        for layer, by_name in masks.items():
            for name, mask in by_name.items():
                parameter = getattr(modules[layer], name)
                if parameter is not None:
                    parameter.mul_(mask.to(parameter))


def masked_channels(masks: Masks, layer: str) -> set[int]:
    """Return the output channels of a layer whose weights are all masked."""
    mask = masks.get(layer, {}).get("weight")
    if mask is None:
        return set()
    return {int(i) for i in (mask.flatten(1).abs().amax(1) == 0).nonzero().flatten()}


def speedup(
    model: torch.nn.Module,
    masks: Masks,
    example_input: torch.Tensor,
    round_to_structure: bool = False,
    table: TaskTable | None = None,
) -> torch.nn.Module:
    """Return a smaller copy of ``model`` without the masked channels.

    A channel is removed if every layer that reads it reads it masked: the channels of a residual sum must be
    masked in all layers that are added, those of a depthwise convolution in it or in the layer before it. A
    channel that another branch reads unmasked is kept. A layer that is masked completely keeps its channels.

    Parameters
    ----------
    example_input
        An input of the model; only its shape matters.
    round_to_structure
        Keep the most important masked channels so that the widths fit the programs in ``table``.

    Raises
    ------
    CPruneError
        If a mask does not match the model, or ``round_to_structure`` is set without a table.
    """
    if round_to_structure and table is None:
        raise CPruneError("round_to_structure needs the task table of the tuned model: give table")
    _check_masks(model, masks)
    shape = tuple(example_input.shape)
    graph = dependency_graph(model, shape)
    groups = groups_of_graph(graph)
    drops = {}
    for group in groups.groups:
        full_group = pruning_group(graph, model.get_submodule(group.root), range(group.width))
        drop = _masked_in_group(full_group, masks, graph)
        if round_to_structure and table is not None:
            drop = _round_to_fitting_width(group, full_group, drop, table)
        drop = _equal_in_blocks(group, drop)
        if drop:
            drops[group.root] = drop
    return PrunableModel(model, shape, groups).drop_channels(drops).model


def _check_masks(model: torch.nn.Module, masks: Masks) -> None:
    modules = dict(model.named_modules())
    for layer, by_name in masks.items():
        if layer not in modules:
            raise CPruneError(f"the masks contain {layer!r}, which is not a layer of the model")
        for name, mask in by_name.items():
            parameter = getattr(modules[layer], name, None)
            if parameter is not None and parameter.shape != mask.shape:
                raise CPruneError(
                    f"the mask of {layer}.{name} has shape {tuple(mask.shape)}, "
                    f"expected {tuple(parameter.shape)}"
                )


def _masked_in_group(full_group: Any, masks: Masks, graph: tp.DependencyGraph) -> list[int]:
    """Return the channels of a group that no layer reads unmasked.

    Channels flow forward from the layers that produce them. A depthwise convolution lets those pass that it
    does not mask.
    """
    names = {module: name for name, module in graph.model.named_modules()}
    live: dict[Any, set[int]] = {item.dep.target: set() for item in full_group}
    masked: dict[Any, set[int]] = {}
    readers, pending = set(), []
    for item in full_group:
        node, module = item.dep.target, item.dep.target.module
        if node.type == Kind.OUTPUT:
            readers.add(node)
        if not isinstance(module, PRUNABLE_LAYERS):
            continue
        if not is_depthwise(module) and not graph.is_out_channel_pruning_fn(item.dep.handler):
            readers.add(node)
            continue
        by_mask = masked_channels(masks, names[module])
        masked[node] = {r for r, channel in zip(item.root_idxs, item.idxs, strict=True) if channel in by_mask}
        if not is_depthwise(module):
            pending.append((node, set(item.root_idxs) - masked[node]))
    read: set[int] = set()
    while pending:
        source, channels = pending.pop()
        for node in source.outputs:
            if node in readers:
                read |= channels
            mixes = isinstance(node.module, PRUNABLE_LAYERS) and not is_depthwise(node.module)
            if mixes or node not in live:
                continue
            new = channels - masked.get(node, set()) - live[node]
            if new:
                live[node] |= new
                pending.append((node, new))
    return sorted(set(full_group[0].root_idxs) - read)


def _round_to_fitting_width(
    group: ChannelGroup, full_group: Any, drop: list[int], table: TaskTable
) -> list[int]:
    """Return the least important channels of ``drop``, as many as a fitting width allows."""
    kept = max(group.width - len(drop), 1)
    rules = width_constraints(group, table)
    width = fitting_width(group.width, kept, group.width, group.round_to, rules) or group.width
    scores = score(full_group, "l1", 0)
    return sorted(sorted(drop, key=lambda channel: float(scores[channel]))[: group.width - width])


def _equal_in_blocks(group: ChannelGroup, drop: list[int]) -> list[int]:
    """Return the channels of ``drop`` that can be removed with blocks of equal size, or none if no channel
    would be left.

    A group has ``round_to`` blocks, one per group of its grouped convolution. All blocks must lose the same
    positions.
    """
    block_size, dropped = group.width // group.round_to, set(drop)
    offsets = [block_size * block for block in range(group.round_to)]
    positions = [p for p in range(block_size) if all(offset + p in dropped for offset in offsets)]
    if len(positions) == block_size:
        return []
    return [offset + position for offset in offsets for position in positions]
