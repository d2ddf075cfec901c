# SPDX-License-Identifier: Apache-2.0
"""Remove channels from a copy of a model, and measure its widths, shapes and operations."""

import copy
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
import torch_pruning as tp

from tvm.contrib.cprune.models.layers import PRUNABLE_LAYERS, channels
from tvm.contrib.cprune.models.modes import evaluation_mode
from tvm.contrib.cprune.models.tracing import (
    TORCH_ERRORS,
    ChannelGraph,
    dependency_graph,
    pruning_group,
    summary,
)
from tvm.contrib.cprune.types import CandidateError, ChannelStep, CPruneError

# Returns one importance score per channel of a full Torch-Pruning group (see ``importance.score``).
Scorer = Callable[[Any], torch.Tensor]
# Returns the channels to remove, given the root of a group and the full Torch-Pruning group.
Chooser = Callable[[str, Any], Sequence[int]]


def copy_model(model: torch.nn.Module) -> torch.nn.Module:
    """Return a deep copy of a model, on the same device and in the same mode, without gradients."""
    duplicate = copy.deepcopy(model)
    duplicate.zero_grad(set_to_none=True)
    return duplicate


def shrink(
    model: torch.nn.Module, input_shape: tuple[int, ...], steps: Sequence[ChannelStep], scorer: Scorer
) -> torch.nn.Module:
    """Return a copy of ``model`` pruned by ``steps`` (see ``prune_copy``)."""
    roots = [step.group.root for step in steps]
    return prune_copy(model, input_shape, roots, least_important(steps, scorer)).model


def least_important(steps: Sequence[ChannelStep], scorer: Scorer) -> Chooser:
    """Return a chooser of the channels that each step removes."""
    by_root = {step.group.root: step for step in steps}
    return lambda root, full_group: channels_to_drop(scorer(full_group), by_root[root])


def channels_to_drop(scores: torch.Tensor, step: ChannelStep) -> list[int]:
    """Return the channels that a step removes: those with the lowest scores.

    If the group contains a grouped convolution, every block of channels loses the same positions, so that
    the convolution's groups keep equal sizes.
    """
    blocks = step.group.round_to
    block_size = step.width // blocks
    drop_per_block = (step.width - step.next_width) // blocks
    by_position = scores.reshape(blocks, -1).sum(0)
    positions = torch.argsort(by_position, stable=True)[:drop_per_block].tolist()
    return sorted(block_size * block + position for block in range(blocks) for position in positions)


def prune_copy(
    model: torch.nn.Module, input_shape: tuple[int, ...], roots: Sequence[str], choose: Chooser
) -> ChannelGraph:
    """Copy a model, trace the copy, and prune it. The model itself does not change.

    Parameters
    ----------
    roots
        Root layers of the groups to prune, in this order.
    choose
        Returns the channels of a group to remove. The group has the gradients of ``model``, which the Taylor
        importance reads.

    Returns
    -------
    The dependency graph after pruning; its attribute ``model`` is the pruned copy, without gradients.

    Raises
    ------
    CandidateError
        If a group cannot be pruned, or the pruned copy fails or returns outputs of another shape.
    """
    with _rejecting(roots):
        small = copy.deepcopy(model)
        for name, parameter in model.named_parameters():  # deepcopy does not copy gradients
            small.get_parameter(name).grad = None if parameter.grad is None else parameter.grad.clone()
        graph = dependency_graph(small, input_shape)
        for root in roots:
            module = small.get_submodule(root)
            full_group = pruning_group(graph, module, range(channels(module)[0]))
            pruning_group(graph, module, choose(root, full_group)).prune()
        for name, parameter in model.named_parameters():  # Torch-Pruning replaces frozen ones by trained ones
            small.get_parameter(name).requires_grad_(parameter.requires_grad)
        small.zero_grad(set_to_none=True)
        if output_shapes(small, input_shape) != output_shapes(model, input_shape):
            raise CandidateError(
                f"cannot prune {', '.join(roots)}: it would change the shape of the model's outputs"
            )
        if any(node.type != tp.ops.module2type(module) for module, node in _layers(graph)):
            # Torch-Pruning treats a grouped convolution with one output channel per group as depthwise, which
            # is another type of node.
            graph = dependency_graph(small, input_shape)
    return graph


@contextmanager
def _rejecting(roots: Sequence[str]) -> Iterator[None]:
    """Raise every failure to prune or run a copy as ``CandidateError``."""
    try:
        yield
    except CandidateError:
        raise
    except CPruneError as error:
        raise CandidateError(f"cannot prune {', '.join(roots)}: {error}") from error
    except TORCH_ERRORS as error:
        raise CandidateError(f"cannot prune {', '.join(roots)}: {summary(error)}") from error


def _layers(graph: ChannelGraph) -> list[tuple[torch.nn.Module, Any]]:
    """Return the model's layers in a graph, and their nodes."""
    return [(m, node) for m, node in graph.module2node.items() if isinstance(m, PRUNABLE_LAYERS)]


def output_shapes(model: torch.nn.Module, input_shape: tuple[int, ...]) -> list[tuple[int, ...]]:
    """Return the shapes of a model's outputs for an input of shape ``input_shape``."""
    device = next((parameter.device for parameter in model.parameters()), torch.device("cpu"))
    with evaluation_mode(model), torch.no_grad():
        outputs = model(torch.zeros(input_shape, device=device))
    return [tuple(out.shape) for out in (outputs if isinstance(outputs, tuple | list) else [outputs])]


def widths(model: torch.nn.Module) -> dict[str, int]:
    """Return the number of output channels of each convolution and linear layer, by layer name."""
    return {
        name: channels(module)[0]
        for name, module in model.named_modules()
        if isinstance(module, PRUNABLE_LAYERS)
    }


def layer_macs(model: torch.nn.Module, input_shape: tuple[int, ...]) -> dict[str, int]:
    """Return the multiply-accumulates of each convolution and linear layer in one inference, by name."""
    macs: dict[str, int] = {}

    def count(module: torch.nn.Module, inputs: tuple[torch.Tensor], output: torch.Tensor) -> None:
        weight = module.get_parameter("weight")
        positions = inputs[0] if getattr(module, "transposed", False) else output
        macs[names[module]] += positions.numel() * weight.numel() // weight.shape[0]

    names: dict[torch.nn.Module, str] = {
        m: name for name, m in model.named_modules() if isinstance(m, PRUNABLE_LAYERS)
    }
    macs.update(dict.fromkeys(names.values(), 0))
    hooks = [layer.register_forward_hook(count) for layer in names]
    try:
        output_shapes(model, input_shape)
    finally:
        for hook in hooks:
            hook.remove()
    return macs


def macs_and_params(model: torch.nn.Module, input_shape: tuple[int, ...]) -> tuple[int, int]:
    """Return the number of multiply-accumulates of one inference, and of parameters.

    Only convolutions and linear layers count as multiply-accumulates.
    """
    macs = sum(layer_macs(model, input_shape).values())
    return macs, sum(parameter.numel() for parameter in model.parameters())
