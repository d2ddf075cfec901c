# SPDX-License-Identifier: Apache-2.0
"""Folding of operators on parameters, and of the scales that batch norms leave behind anchors."""

from collections import Counter
from typing import Any

import numpy as np

import tvm
from tvm import relay
from tvm.contrib.cprune.transform.numpy_eval import Array, evaluate
from tvm.contrib.cprune.transform.relay_graph import arguments_of, operator_name, post_order, rewrite


@tvm.transform.module_pass(opt_level=0, name="FoldParameters")
class FoldParameters:
    """Evaluate calls on constants with NumPy. TVM's FoldConstant compiles every call, which takes seconds."""

    def transform_module(self, mod: tvm.IRModule, _: Any) -> tvm.IRModule:
        return tvm.IRModule({"main": rewrite(mod["main"], _fold)})


def _fold(call: relay.Call, _: relay.Call) -> relay.Expr:
    if all(isinstance(arg, relay.Constant) for arg in call.args):
        value = evaluate(operator_name(call), call.attrs, [arg.data.numpy() for arg in call.args])
        if value is not None:
            return relay.const(np.ascontiguousarray(value))
    return call


@tvm.transform.module_pass(opt_level=0, name="FoldScales", required=["InferType"])
class FoldScales:
    """Fold a constant scale behind an anchor, and behind a bias after it, into the anchor's weight.

    TVM's FoldScaleAxis also folds scales that depend on data (squeeze-and-excitation), and loses layer names.
    """

    def transform_module(self, mod: tvm.IRModule, _: Any) -> tvm.IRModule:
        return tvm.IRModule({"main": rewrite(mod["main"], _ScaleFolder(mod["main"]).on_call)})


class _ScaleFolder:
    """Folds the scales of one function during a rewrite."""

    def __init__(self, function: relay.Function) -> None:
        nodes = post_order(function.body)
        self._reads = Counter(argument for node in nodes for argument in arguments_of(node))
        self._reads.update([function.body])
        # Reads of the old node that a rewritten one replaces.
        self._reads_of_new: dict[relay.Expr, int] = {}

    def on_call(self, call: relay.Call, old: relay.Call) -> relay.Expr:
        new: relay.Expr = call
        if operator_name(call) == "multiply" and isinstance(call.args[1], relay.Constant):
            folded = self._scaled(call.args[0], call.args[1].data.numpy())
            new = call if folded is None else folded
        self._reads_of_new[new] = self._reads[old]
        return new

    def _scaled(self, call: relay.Expr, scale: Array) -> relay.Expr | None:
        """Return ``call * scale`` with the scale in the weight, or None if that is not possible."""
        if not isinstance(call, relay.Call) or self._reads_of_new.get(call) != 1:
            return None
        if len(call.args) != 2 or not isinstance(call.args[1], relay.Constant):
            return None
        constant = call.args[1].data.numpy()
        if operator_name(call) == "add":
            inner = self._scaled(call.args[0], scale)
            if inner is None:
                return None
            args = [inner, relay.const(constant * scale)]
        else:
            factor = _weight_factor(call, scale)
            if factor is None:
                return None
            args = [call.args[0], relay.const((constant * factor).astype(constant.dtype))]
        return relay.Call(call.op, args, call.attrs, call.type_args, call.span)


def _weight_factor(call: relay.Call, scale: Array) -> Array | None:
    """Return a scale of an anchor's output channels in the shape that multiplies the weight, or None."""
    if operator_name(call) == "nn.dense":
        rank, channel, kernel = 2, 1, "OI"
    elif operator_name(call) == "nn.conv2d":
        rank, channel, kernel = 4, str(call.attrs.data_layout).find("C"), str(call.attrs.kernel_layout)
        if len(kernel) != 4 or len(str(call.attrs.data_layout)) != 4:
            return None
    else:
        return None
    aligned = scale.reshape((1,) * (rank - scale.ndim) + scale.shape)
    if any(size != 1 for axis, size in enumerate(aligned.shape) if axis != channel):
        return None
    # A depthwise kernel has its channels along "O", or along "I" beside a multiplier, by layout.
    axis = kernel.index("O")
    if aligned.size not in (1, call.args[1].data.shape[axis]):
        return None
    shape = [1] * rank
    shape[axis] = aligned.size
    return aligned.reshape(shape)
