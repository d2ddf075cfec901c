# SPDX-License-Identifier: Apache-2.0
"""Masks of other pruners, in NNI's form, and the smaller model that they stand for.

NNI's pruners (v2) set weights to zero and say which: ``{layer: {"weight": mask, "bias": mask}}``, each mask a
tensor of zeros and ones in its weight's shape, in a file that ``torch.save`` wrote.
"""

from collections.abc import Mapping
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import torch
import torch_pruning as tp

from tvm.contrib.cprune._plugin import fitting_width
from tvm.contrib.cprune.constraints import constraints
from tvm.contrib.cprune.files import replaced
from tvm.contrib.cprune.models.groups import dependency_graph, find_groups, is_depthwise, pruning_group
from tvm.contrib.cprune.models.importance import score
from tvm.contrib.cprune.models.surgery import drop_channels
from tvm.contrib.cprune.table import TaskTable
from tvm.contrib.cprune.types import ChannelGroup, CPruneError

Masks = Mapping[str, Mapping[str, torch.Tensor]]


def load_masks(path: Path) -> dict[str, dict[str, torch.Tensor]]:
    """Read a mask file, as NNI's ``export_model`` and ``save_masks`` write it.

    Raises
    ------
    CPruneError
        If it is missing, damaged, or holds something else.
    """
    try:
        masks = torch.load(path, map_location="cpu", weights_only=True)
    except OSError as error:
        raise CPruneError(f"cannot read {path}: {error.strerror}") from None
    except (RuntimeError, EOFError, UnpicklingError, KeyError, ValueError) as error:
        raise CPruneError(f"{path} is not a mask file: {str(error).splitlines()[0]}") from None
    fine = isinstance(masks, dict) and all(
        isinstance(each, dict) and all(m is None or isinstance(m, torch.Tensor) for m in each.values())
        for each in masks.values()
    )
    if not fine:
        raise CPruneError(f"{path} is not a mask file: expected {{layer: {{'weight': tensor}}}}")
    return {
        layer: {name: mask for name, mask in each.items() if mask is not None}
        for layer, each in masks.items()
    }


def save_masks(masks: Masks, path: Path) -> None:
    """Write a mask file that NNI reads, whole or not at all."""
    with replaced(path) as aside:
        torch.save({layer: dict(each) for layer, each in masks.items()}, aside)


def apply_masks(model: torch.nn.Module, masks: Masks) -> None:
    """Set the masked weights of a model to zero, in place.

    Raises
    ------
    CPruneError
        If a mask belongs to no layer of the model, or has another shape.
    """
    _check(model, masks)
    modules = dict(model.named_modules())
    with torch.no_grad():
        for layer, each in masks.items():
            for name, mask in each.items():
                value = getattr(modules[layer], name)
                if value is not None:
                    value.mul_(mask.to(value))


def masked_channels(masks: Masks, layer: str) -> set[int]:
    """Return the output channels of a layer that are masked out as a whole."""
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
    """Return a smaller copy of ``model``, without the channels that are masked out.

    Channels that are coupled go together: those of a residual sum when every layer that adds to them has
    masked them, those of a depthwise convolution with those that it filters.

    Parameters
    ----------
    example_input
        An input of the model; its shape is what matters.
    round_to_structure
        Keep the most important ones of the masked channels until the widths fit the programs of ``table``.

    Raises
    ------
    CPruneError
        If a mask does not belong to the model, or a table is missing.
    """
    if round_to_structure and table is None:
        raise CPruneError("round_to_structure needs the task table of the tuned model")
    _check(model, masks)
    shape = tuple(example_input.shape)
    drops = {}
    graph = dependency_graph(model, shape)
    modules = dict(model.named_modules())
    names = {module: name for name, module in model.named_modules()}
    for group in find_groups(model, shape).groups:
        whole = pruning_group(graph, modules[group.root], range(group.width))
        drop = _masked_of_group(whole, names, masks, graph)
        if round_to_structure and table is not None:
            drop = _fitting(group, whole, drop, table)
        # A layer keeps at least a channel of each block.
        drop = (
            [each for each in drop if len(drop) < group.width] if group.round_to == 1 else _alike(group, drop)
        )
        if drop:
            drops[group.root] = drop
    return drop_channels(model, shape, drops)


def _check(model: torch.nn.Module, masks: Masks) -> None:
    modules = dict(model.named_modules())
    for layer, each in masks.items():
        if layer not in modules:
            raise CPruneError(f"a mask is for {layer!r}, and the model has no such layer")
        for name, mask in each.items():
            value = getattr(modules[layer], name, None)
            if value is not None and value.shape != mask.shape:
                raise CPruneError(
                    f"the mask of {layer}.{name} has shape {tuple(mask.shape)}, expected {tuple(value.shape)}"
                )


def _masked_of_group(
    whole: Any, names: Mapping[torch.nn.Module, str], masks: Masks, graph: tp.DependencyGraph
) -> list[int]:
    """Return the channels of a group that every layer which makes them has masked, or one that filters
    them."""
    makers: list[set[int]] = []
    filters: list[set[int]] = []
    for item in whole:
        module = item.dep.target.module
        if not isinstance(module, torch.nn.Conv2d | torch.nn.Linear):
            continue
        if not graph.is_out_channel_pruning_fn(item.dep.handler):
            continue
        masked = masked_channels(masks, names[module])
        positions = {k for k, channel in enumerate(item.idxs) if channel in masked}
        (filters if is_depthwise(module) else makers).append(positions)
    found = set.intersection(*makers) if makers else set()
    if len(makers) == 1:  # a chain: what a filter masks, nobody else sees
        found = found.union(*filters)
    return sorted(found)


def _fitting(group: ChannelGroup, whole: Any, drop: list[int], table: TaskTable) -> list[int]:
    """Return the part of ``drop`` that leaves a fitting width; the most important channels stay."""
    kept = group.width - len(drop)
    rules = constraints(group, table)
    width = fitting_width(group.width, max(kept, 1), group.width, group.round_to, rules) or group.width
    scores = score(whole, "l1", 0)
    return sorted(sorted(drop, key=lambda channel: float(scores[channel]))[: group.width - width])


def _alike(group: ChannelGroup, drop: list[int]) -> list[int]:
    """Return the part of ``drop`` that lies at the same positions in each of a group's blocks."""
    block, gone = group.width // group.round_to, set(drop)
    positions = [p for p in range(block) if all(p + i * block in gone for i in range(group.round_to))]
    return [p + i * block for i in range(group.round_to) for p in positions if len(positions) < block]
