# SPDX-License-Identifier: Apache-2.0
"""The kinds of layers that pruning changes, and their numbers of channels."""

from collections.abc import Callable
from typing import Any

import torch
import torch_pruning as tp

PRUNABLE_LAYERS = (torch.nn.modules.conv._ConvNd, torch.nn.Linear)
Kind = tp.ops.OPTYPE


def channels(module: torch.nn.Module) -> tuple[int, int]:
    """Return the numbers of output and input channels of a convolution or linear layer."""
    if isinstance(module, torch.nn.Linear):
        return module.out_features, module.in_features
    assert isinstance(module, torch.nn.modules.conv._ConvNd)
    return module.out_channels, module.in_channels


def conv_groups(module: torch.nn.Module) -> int:
    """Return the number of groups of a convolution, and 1 for other layers."""
    return module.groups if isinstance(module, torch.nn.modules.conv._ConvNd) else 1


def is_depthwise(module: torch.nn.Module) -> bool:
    """Return whether a layer is a depthwise convolution."""
    return (
        isinstance(module, torch.nn.modules.conv._ConvNd)
        and module.groups == module.out_channels == module.in_channels > 1
    )


def _resize_conv(layer: Any) -> None:
    first, second = layer.weight.shape[:2]
    if is_depthwise(layer):
        layer.groups = first
    elif layer.groups == layer.in_channels > 1 and not layer.transposed:  # several outputs per input
        layer.groups = first * layer.in_channels // layer.out_channels
    elif second == 1 and first < layer.groups:
        # A grouped convolution that pruning has turned into a depthwise one loses groups, too.
        layer.groups = first
    if layer.transposed:
        layer.in_channels, layer.out_channels = first, second * layer.groups
    else:
        layer.out_channels, layer.in_channels = first, second * layer.groups


def _resize_linear(layer: Any) -> None:
    layer.out_features, layer.in_features = layer.weight.shape


def _resize_batch_norm(layer: Any) -> None:
    tensor = layer.weight if layer.weight is not None else layer.running_mean
    if tensor is not None:
        layer.num_features = tensor.shape[0]


def _resize_layer_norm(layer: Any) -> None:
    if layer.weight is not None:
        layer.normalized_shape = tuple(layer.weight.shape)


def _resize_group_norm(layer: Any) -> None:
    if layer.weight is not None:
        layer.num_channels = layer.weight.shape[0]


def _resize_prelu(layer: Any) -> None:
    layer.num_parameters = layer.weight.shape[0]


def _keep(_: Any) -> None:
    """Leave a layer without channel counts unchanged."""


# How to set the channel counts of a layer to the shapes of its weights, for every kind that is pruned.
_RESIZE: dict[Any, Callable[[Any], None]] = {
    Kind.CONV: _resize_conv,
    Kind.DEPTHWISE_CONV: _resize_conv,
    Kind.LINEAR: _resize_linear,
    Kind.BN: _resize_batch_norm,
    Kind.IN: _resize_batch_norm,
    Kind.LN: _resize_layer_norm,
    Kind.GN: _resize_group_norm,
    Kind.PRELU: _resize_prelu,
    Kind.PARAMETER: _keep,
}
# Kinds that Torch-Pruning can prune, but CPrune does not. Channels that reach them are kept.
NEVER_PRUNED = frozenset({Kind.MHA, Kind.LSTM, Kind.EMBED})


def set_channels(module: torch.nn.Module) -> None:
    """Set a layer's channel counts to the shapes of its weights."""
    _RESIZE.get(tp.ops.module2type(module), _keep)(module)


def reason_to_keep(module: Any) -> str:
    """Return why the channels that reach a layer cannot be pruned, or an empty string if they can."""
    if tp.ops.module2type(module) in NEVER_PRUNED:
        return f"is a {type(module).__name__}, which is never pruned"
    if isinstance(module, torch.nn.LayerNorm) and len(module.normalized_shape) > 1:
        return "normalizes over more dimensions than the channels"
    if isinstance(module, torch.nn.LayerNorm | torch.nn.GroupNorm) and module.weight is None:
        return f"is a {type(module).__name__} without weights, so that a checkpoint cannot record its width"
    if isinstance(module, torch.nn.modules.conv._ConvNd) and module.groups > 1 and not is_depthwise(module):
        if module.transposed:
            return "is a transposed convolution with groups"
        if module.groups == module.out_channels:
            return "is a convolution with several inputs and one output per group"
    return ""
