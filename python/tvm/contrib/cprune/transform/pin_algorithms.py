# SPDX-License-Identifier: Apache-2.0
"""Selection between direct and Winograd convolution, per layer."""

from collections.abc import Mapping

import numpy as np

import tvm
from tvm import relay
from tvm.contrib.cprune.transform.numpy_eval import evaluate
from tvm.contrib.cprune.transform.relay_graph import calls_of, layer_of, operator_name, rewrite
from tvm.contrib.cprune.types import Algorithm

# The tile size of TVM's NHWC Winograd convolution for CPUs (topi/x86/conv2d_alter_op.py).
WINOGRAD_TILE = 4


def _winograd_legal(call: relay.Call) -> bool:
    """Return whether a convolution can run as TVM's NHWC Winograd.

    These are the conditions in relay/op/strategy/x86.py, without its limits on the number of channels.
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


def winograd_layers(mod: tvm.IRModule) -> tuple[str, ...]:
    """Return the layers of a prepared module whose convolutions can run as Winograd."""
    calls = [call for call in calls_of(mod["main"].body) if _winograd_legal(call)]
    return tuple(dict.fromkeys(layer for call in calls if (layer := layer_of(call))))


def _to_winograd(call: relay.Call) -> relay.Expr:
    attrs = call.attrs
    kernel = np.transpose(call.args[1].data.numpy(), (3, 2, 0, 1))
    transform_attrs = relay.nn.contrib_conv2d_winograd_weight_transform(
        relay.var("kernel", shape=kernel.shape), tile_size=WINOGRAD_TILE
    ).attrs
    weight = evaluate("nn.contrib_conv2d_winograd_weight_transform", transform_attrs, [kernel])
    new = relay.nn.contrib_conv2d_winograd_without_weight_transform(
        call.args[0],
        relay.const(weight),
        tile_size=WINOGRAD_TILE,
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
    """Rewrite the convolutions of the layers that ``algorithms`` maps to "winograd". All others stay direct.

    TOPI selects the algorithm by the number of channels. A tuned program belongs to one algorithm, so it
    could not be transplanted across TOPI's limit. ``pinned_target`` keeps TOPI from making the selection for
    the direct convolutions.
    """

    def on_call(call: relay.Call, _: relay.Call) -> relay.Expr:
        if algorithms.get(layer_of(call) or "") == "winograd" and _winograd_legal(call):
            return _to_winograd(call)
        return call

    return tvm.IRModule({"main": rewrite(mod["main"], on_call)}) if algorithms else mod
