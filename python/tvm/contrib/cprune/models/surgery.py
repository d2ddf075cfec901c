# SPDX-License-Identifier: Apache-2.0
"""A smaller copy of a model, its least important channels gone."""

import copy
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch

from tvm.contrib.cprune.models.groups import dependency_graph, pruning_group
from tvm.contrib.cprune.types import ChannelStep, CPruneError


def channels_to_drop(scores: torch.Tensor, step: ChannelStep) -> list[int]:
    """Return the channels that a step removes: those of the lowest score.

    A grouped convolution loses the same positions in each of its groups, so that its groups stay alike.
    """
    round_to = step.group.round_to
    per_block = (step.width - step.next_width) // round_to
    by_position = scores.reshape(round_to, -1).sum(0)
    positions = torch.argsort(by_position, stable=True)[:per_block].tolist()
    block = step.width // round_to
    return sorted(block * i + position for i in range(round_to) for position in positions)


def shrink(
    model: torch.nn.Module,
    input_shape: tuple[int, ...],
    steps: Sequence[ChannelStep],
    scorer: Callable[[Any], torch.Tensor],
) -> torch.nn.Module:
    """Return a copy of ``model`` pruned by ``steps``; the model itself stays as it is.

    Parameters
    ----------
    scorer
        Scores the channels of a Torch-Pruning group (see ``importance.score``).

    Raises
    ------
    CPruneError
        If pruning would change the shape of the model's outputs.
    """
    by_root = {step.group.root: step for step in steps}

    def choose(root: str, whole: Any) -> list[int]:
        return channels_to_drop(scorer(whole), by_root[root])

    return _prune(model, input_shape, list(by_root), choose)


def drop_channels(
    model: torch.nn.Module, input_shape: tuple[int, ...], drops: Mapping[str, Sequence[int]]
) -> torch.nn.Module:
    """Return a copy of ``model`` without some channels of some groups, by the name of a group's root.

    Raises
    ------
    CPruneError
        If pruning would change the shape of the model's outputs.
    """
    return _prune(model, input_shape, list(drops), lambda root, _: list(drops[root]))


def _prune(
    model: torch.nn.Module,
    input_shape: tuple[int, ...],
    roots: Sequence[str],
    choose: Callable[[str, Any], list[int]],
) -> torch.nn.Module:
    small = copy.deepcopy(model)
    for name, parameter in model.named_parameters():  # deepcopy leaves gradients behind
        small.get_parameter(name).grad = None if parameter.grad is None else parameter.grad.clone()
    graph = dependency_graph(small, input_shape)
    modules = dict(small.named_modules())
    for name in roots:
        root = modules[name]
        whole = pruning_group(graph, root, range(widths(small)[name]))
        pruning_group(graph, root, choose(name, whole)).prune()
    small.zero_grad(set_to_none=True)
    if output_shapes(small, input_shape) != output_shapes(model, input_shape):
        raise CPruneError(
            f"the channels of {', '.join(roots)} reach the model's outputs and cannot be pruned"
        )
    return small


def output_shapes(model: torch.nn.Module, input_shape: tuple[int, ...]) -> list[tuple[int, ...]]:
    """Return the shapes of a model's outputs for an input of ``input_shape``."""
    device = next(model.parameters()).device
    training = model.training
    with torch.no_grad():
        outputs = model.eval()(torch.zeros(input_shape, device=device))
    model.train(training)
    return [tuple(out.shape) for out in (outputs if isinstance(outputs, tuple | list) else [outputs])]


def widths(model: torch.nn.Module) -> dict[str, int]:
    """Return the output channels of each convolution and linear layer."""
    return {
        name: module.out_channels if isinstance(module, torch.nn.Conv2d) else module.out_features
        for name, module in model.named_modules()
        if isinstance(module, torch.nn.Conv2d | torch.nn.Linear)
    }


def macs_and_params(model: torch.nn.Module, input_shape: tuple[int, ...]) -> tuple[int, int]:
    """Return the multiply-accumulates of one inference in convolutions and linear layers, and the
    parameters."""
    total = 0

    def count(module: torch.nn.Module, _: Any, output: torch.Tensor) -> None:
        nonlocal total
        weight = module.get_parameter("weight")
        total += output.numel() * weight.numel() // weight.shape[0]

    layers = [m for m in model.modules() if isinstance(m, torch.nn.Conv2d | torch.nn.Linear)]
    hooks = [layer.register_forward_hook(count) for layer in layers]
    try:
        output_shapes(model, input_shape)
    finally:
        for hook in hooks:
            hook.remove()
    return total, sum(parameter.numel() for parameter in model.parameters())
