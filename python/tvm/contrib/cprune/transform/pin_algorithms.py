# SPDX-License-Identifier: Apache-2.0
"""Selection between direct and Winograd convolution, per layer."""

from collections.abc import Mapping

import numpy as np
from tvm.topi.nn.utils import get_pad_tuple

import tvm
from tvm import relay
from tvm.contrib.cprune.targets.winograd import KERNEL, best_tile
from tvm.contrib.cprune.transform.numpy_eval import evaluate
from tvm.contrib.cprune.transform.relay_graph import calls_of, layer_of, operator_name, rewrite
from tvm.contrib.cprune.types import Algorithm

_WINOGRAD = "winograd-"


def _winograd_legal(call: relay.Call) -> bool:
    """Return whether a convolution can run as NHWC Winograd.

    These are TVM's conditions in relay/op/strategy/x86.py, without its limits on the number of channels.
    """
    if operator_name(call) != "nn.conv2d" or not isinstance(call.args[1], relay.Constant):
        return False
    attrs = call.attrs
    return (
        attrs.data_layout == "NHWC"
        and attrs.kernel_layout == "HWIO"
        and attrs.groups == 1
        and [int(n) for n in attrs.kernel_size] == [3, 3]
        and [int(n) for n in attrs.strides] == [1, 1]
        and [int(n) for n in attrs.dilation] == [1, 1]
        and call.args[1].data.dtype == "float32"
    )


def winograd_algorithms(mod: tvm.IRModule) -> dict[str, Algorithm]:
    """Return the layers of a prepared module whose convolutions can run as Winograd.

    Returns
    -------
    The algorithm of each layer, with the tile size that suits its shape (see ``targets.winograd.best_tile``).
    """
    algorithms: dict[str, Algorithm] = {}
    for call in calls_of(mod["main"].body):
        layer = layer_of(call)
        if layer and layer not in algorithms and _winograd_legal(call):
            algorithms[layer] = winograd(_best_tile(call))
    return algorithms


def winograd(tile: int) -> Algorithm:
    """Return the name of Winograd's algorithm with a tile size."""
    return f"{_WINOGRAD}{tile}"


def tile_size(algorithm: Algorithm) -> int | None:
    """Return the tile size of an algorithm, None if it is not Winograd's."""
    return int(algorithm.removeprefix(_WINOGRAD)) if algorithm.startswith(_WINOGRAD) else None


def _best_tile(call: relay.Call) -> int:
    attrs = call.attrs
    _, _, inputs, outputs = call.args[1].data.shape
    _, height, width, _ = (int(size) for size in call.args[0].checked_type.shape)
    top, left, bottom, right = get_pad_tuple(tuple(attrs.padding), (KERNEL, KERNEL))
    rows, columns = int(height + top + bottom) - KERNEL + 1, int(width + left + right) - KERNEL + 1
    return best_tile(rows, columns, inputs, outputs)


def _to_winograd(call: relay.Call, tile: int) -> relay.Expr:
    attrs = call.attrs
    kernel = np.transpose(call.args[1].data.numpy(), (3, 2, 0, 1))
    transform_attrs = relay.nn.contrib_conv2d_winograd_weight_transform(
        relay.var("kernel", shape=kernel.shape), tile_size=tile
    ).attrs
    weight = evaluate("nn.contrib_conv2d_winograd_weight_transform", transform_attrs, [kernel])
    new = relay.nn.contrib_conv2d_winograd_without_weight_transform(
        call.args[0],
        relay.const(weight),
        tile_size=tile,
        strides=attrs.strides,
        padding=attrs.padding,
        dilation=attrs.dilation,
        groups=attrs.groups,
        channels=kernel.shape[0],
        kernel_size=attrs.kernel_size,
        data_layout=attrs.data_layout,
        kernel_layout=attrs.kernel_layout,
        out_layout=attrs.out_layout,
        out_dtype=attrs.out_dtype,
    )
    return relay.Call(new.op, new.args, new.attrs, new.type_args, call.span)


def pin_algorithms(mod: tvm.IRModule, algorithms: Mapping[str, Algorithm]) -> tvm.IRModule:
    """Rewrite the convolutions of the layers that ``algorithms`` maps to Winograd; others stay direct.

    TOPI selects the algorithm by the number of channels. A tuned program belongs to one algorithm, so it
    could not be transplanted across TOPI's limit. ``pinned_target`` keeps TOPI from making the selection for
    the direct convolutions.
    """

    def on_call(call: relay.Call, _: relay.Call) -> relay.Expr:
        tile = tile_size(algorithms.get(layer_of(call) or "", ""))
        return _to_winograd(call, tile) if tile and _winograd_legal(call) else call

    return tvm.IRModule({"main": rewrite(mod["main"], on_call)}) if algorithms else mod
