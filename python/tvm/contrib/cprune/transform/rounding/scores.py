# SPDX-License-Identifier: Apache-2.0
"""How important the channels of a variable are, and which of them to keep."""

from collections.abc import Mapping

import numpy as np

from tvm import relay
from tvm.contrib.cprune.transform.numpy_eval import Array
from tvm.contrib.cprune.transform.relay_graph import calls_of, layer_of, operator_name
from tvm.contrib.cprune.transform.rounding.channel_layout import SourceIndex, transposed_axes
from tvm.contrib.cprune.transform.rounding.channels import CONVOLUTION, DENSE, Channels
from tvm.contrib.cprune.types import CPruneError


def channel_scores(
    function: relay.Function,
    channels: Channels,
    parameters: Mapping[str, Array],
    given: Mapping[str, Array],
) -> dict[int, Array]:
    """Return the importance of each channel of each variable: the sum over the layers that create it.

    Parameters
    ----------
    function
        The function that ``channels`` describes.
    channels
        Its channel variables.
    parameters
        Values of the function's variables that are weights.
    given
        Scores of output channels by layer. Other layers are scored by the l1 norm of their weights.

    Raises
    ------
    CPruneError
        If a layer has another number of channels than scores.
    """
    totals: dict[int, Array] = {}
    for call in calls_of(function.body):
        use, layer = channels.uses.get(call), layer_of(call)
        if operator_name(call) not in (CONVOLUTION, DENSE) or layer is None or not use or not use.result:
            continue
        created = use.result.segments[0].variable
        if created is None:
            continue
        root = channels.find(created)
        width = channels.variables[root].width
        for dim, layout in use.parameters.get(1, {}).items():
            if [segment.variable for segment in layout.segments] != [created]:
                continue
            scores = given[layer] if layer in given else _l1_norms(call.args[1], dim, parameters)
            if len(scores) != width:
                raise CPruneError(f"layer {layer} has {len(scores)} scores, expected {width}")
            totals[root] = totals.get(root, 0) + np.asarray(scores, dtype="float64")
    return totals


def _l1_norms(weight: relay.Expr, dim: int, parameters: Mapping[str, Array]) -> Array:
    """Return the l1 norm of each slice of a weight along ``dim``."""
    while isinstance(weight, relay.Call):
        if operator_name(weight) == "transpose":
            dim = transposed_axes(weight)[dim]
        weight = weight.args[0]
    is_constant = isinstance(weight, relay.Constant)
    value = weight.data.numpy() if is_constant else parameters[str(weight.name_hint)]
    return np.abs(value).sum(tuple(axis for axis in range(value.ndim) if axis != dim))


def source_index(width: int, new_width: int, round_to: int, scores: Array | None) -> SourceIndex:
    """Return the old channel at each new position.

    Each of ``round_to`` blocks changes by the same number of channels.

    Parameters
    ----------
    width, new_width
        Multiples of ``round_to``.
    scores
        Importance of each channel if channels are dropped, None if channels of zeros are added.
    """
    block, new_block = width // round_to, new_width // round_to
    if scores is None:
        inside = np.concatenate([np.arange(block), np.full(new_block - block, -1)])
    else:
        by_position = np.asarray(scores).reshape(round_to, block).sum(0)
        inside = np.sort(np.argsort(-by_position, kind="stable")[:new_block])
    blocks = [np.where(inside < 0, -1, inside + number * block) for number in range(round_to)]
    return np.concatenate(blocks).astype("int64")
