# SPDX-License-Identifier: Apache-2.0
"""Relay passes: naming layers, folding constants, pinning the algorithm of convolutions, recording
subgraphs."""

from collections import Counter
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
from tvm.relay import transform as relay_transform
from tvm.relay.build_module import bind_params_by_name

import tvm
from tvm import relay
from tvm.contrib.cprune import _plugin
from tvm.contrib.cprune.transform.numpy_eval import evaluate
from tvm.contrib.cprune.types import CPruneError

WINOGRAD = "nn.contrib_conv2d_winograd_without_weight_transform"
ANCHORS = (
    "nn.conv2d",
    WINOGRAD,
    "nn.dense",
    "nn.conv1d",
    "nn.conv3d",
    "nn.conv2d_transpose",
    "nn.batch_matmul",
)
# What relay.build must not do again, or at all: `prepare` has simplified the module, these passes would lose
# the spans that name layers (FoldScaleAxis, ToBasicBlockNormalForm), choose another algorithm
# (AlterOpLayout), or spend time on finding nothing. With them off, the functions that a build fuses are those
# that extraction saw.
DISABLED_PASSES = (
    "AlterOpLayout",
    "BackwardFoldScaleAxis",
    "CanonicalizeCast",
    "CanonicalizeOps",
    "CombineParallelBatchMatmul",
    "CombineParallelConv2d",
    "CombineParallelDense",
    "EliminateCommonSubexpr",
    "FastMath",
    "FlattenAtrousConv",
    "FoldScaleAxis",
    "ForwardFoldScaleAxis",
    "Legalize",
    "SimplifyExpr",
    "SimplifyExprPostAlterOp",
    "SimplifyInference",
    "ToBasicBlockNormalForm",
    "qnn.Legalize",
)
PREPARED = "cprune.prepared"


def post_order(expr: relay.Expr) -> list[relay.Expr]:
    """Return the nodes below ``expr``, arguments before their calls."""
    nodes: list[relay.Expr] = []
    relay.analysis.post_order_visit(expr, nodes.append)
    return nodes


def _arguments(node: relay.Expr) -> list[relay.Expr]:
    if isinstance(node, relay.Call):
        return list(node.args)
    if isinstance(node, relay.Tuple):
        return list(node.fields)
    return [node.tuple_value] if isinstance(node, relay.TupleGetItem) else []


def rewrite(
    function: relay.Function, on_call: Callable[[relay.Call, relay.Call], relay.Expr]
) -> relay.Function:
    """Rebuild a function bottom-up, each call replaced by ``on_call(call with new arguments, old call)``.

    A loop instead of ``ExprMutator``: Python's recursion limit is too low for a deep network.

    Raises
    ------
    CPruneError
        If the function holds control flow or nested functions.
    """
    new: dict[relay.Expr, relay.Expr] = {}
    for node in post_order(function.body):
        if isinstance(node, relay.Call):
            args = [new[arg] for arg in node.args]
            if any(not a.same_as(b) for a, b in zip(args, node.args, strict=True)):
                new[node] = on_call(relay.Call(node.op, args, node.attrs, node.type_args, node.span), node)
            else:
                new[node] = on_call(node, node)
        elif isinstance(node, relay.Tuple):
            new[node] = relay.Tuple([new[field] for field in node.fields], node.span)
        elif isinstance(node, relay.TupleGetItem):
            new[node] = relay.TupleGetItem(new[node.tuple_value], node.index)
        elif isinstance(node, relay.Var | relay.Constant | tvm.ir.Op):
            new[node] = node
        else:
            raise CPruneError(f"the model holds a {type(node).__name__}; expected a graph of operator calls")
    return relay.Function(function.params, new[function.body], None, function.type_params, function.attrs)


def layer_of(call: relay.Call) -> str | None:
    """Return the layer that a call's span names, or None."""
    span = call.span
    if isinstance(span, relay.Span) and span.source_name is not None:
        return str(span.source_name.name) or None
    return None


def operator_name(call: relay.Call) -> str:
    """Return the name of the operator that is called, or "" for a function."""
    return call.op.name if isinstance(call.op, tvm.ir.Op) else ""


def _label(call: relay.Call, _: relay.Call) -> relay.Expr:
    """Put the name of the layer whose weight an anchor reads into the anchor's span."""
    if operator_name(call) not in ANCHORS:
        return call
    names = {str(variable.name_hint) for variable in _plugin.collect_vars(call.args[1])}
    if not names:
        return call
    if len(names) != 1:
        raise CPruneError(
            f"a {operator_name(call)} reads its weight from {sorted(names)[:4]}: expected one layer's weight"
        )
    span = relay.Span(relay.SourceName(names.pop().removesuffix(".weight")), 0, 0, 0, 0)
    return relay.Call(call.op, call.args, call.attrs, call.type_args, span)


def _fold(call: relay.Call, _: relay.Call) -> relay.Expr:
    if all(isinstance(arg, relay.Constant) for arg in call.args):
        value = evaluate(operator_name(call), call.attrs, [arg.data.numpy() for arg in call.args])
        if value is not None:
            return relay.const(np.ascontiguousarray(value))
    return call


@tvm.transform.module_pass(opt_level=0, name="LabelLayers", required=["InferType"])
class LabelLayers:
    """Name each anchor's layer in its span, by the weight it reads: exact, whatever the order and names of
    calls."""

    def transform_module(self, mod: tvm.IRModule, _: Any) -> tvm.IRModule:
        return tvm.IRModule({"main": rewrite(mod["main"], _label)})


@tvm.transform.module_pass(opt_level=0, name="FoldParameters")
class FoldParameters:
    """Evaluate calls of constants with NumPy; TVM's FoldConstant compiles each of them, which takes
    seconds."""

    def transform_module(self, mod: tvm.IRModule, _: Any) -> tvm.IRModule:
        return tvm.IRModule({"main": rewrite(mod["main"], _fold)})


def _along_weight(call: relay.Call, scale: npt.NDArray[Any]) -> npt.NDArray[Any] | None:
    """Return a per-channel ``scale`` of an anchor's output in the shape that multiplies its weight, or
    None."""
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
    weight = call.args[1].data.shape
    shape = [1] * rank
    # A depthwise kernel keeps its channels in "O", or in "I" beside a multiplier, depending on the layout.
    axis = kernel.index("O")
    if aligned.size not in (1, weight[axis]):
        return None
    shape[axis] = aligned.size
    return aligned.reshape(shape)


@tvm.transform.module_pass(opt_level=0, name="FoldScales", required=["InferType"])
class FoldScales:
    """Multiply the constant scale behind an anchor (a batch norm's) into its weight, and into a bias between
    them.

    TVM's FoldScaleAxis also folds scales that depend on the data (squeeze-and-excitation) and loses the
    layers' names.
    """

    def transform_module(self, mod: tvm.IRModule, _: Any) -> tvm.IRModule:
        uses = Counter(arg for node in post_order(mod["main"].body) for arg in _arguments(node))
        uses.update([mod["main"].body])
        # How often the old node behind a rewritten one is read.
        reads: dict[relay.Expr, int] = {}

        def scaled(call: relay.Expr, scale: npt.NDArray[Any]) -> relay.Expr | None:
            if not isinstance(call, relay.Call) or reads.get(call) != 1:
                return None
            if operator_name(call) == "add" and isinstance(call.args[1], relay.Constant):
                inner = scaled(call.args[0], scale)
                if inner is None:
                    return None
                bias = call.args[1].data.numpy() * scale
                return relay.Call(call.op, [inner, relay.const(bias)], call.attrs, call.type_args, call.span)
            if operator_name(call) not in ANCHORS or not isinstance(call.args[1], relay.Constant):
                return None
            factor = _along_weight(call, scale)
            if factor is None:
                return None
            weight = relay.const((call.args[1].data.numpy() * factor).astype(call.args[1].data.dtype))
            return relay.Call(call.op, [call.args[0], weight], call.attrs, call.type_args, call.span)

        def on_call(call: relay.Call, old: relay.Call) -> relay.Expr:
            new: relay.Expr = call
            if operator_name(call) == "multiply" and isinstance(call.args[1], relay.Constant):
                folded = scaled(call.args[0], call.args[1].data.numpy())
                new = call if folded is None else folded
            reads[new] = uses[old]
            return new

        return tvm.IRModule({"main": rewrite(mod["main"], on_call)})


def prepare(mod: tvm.IRModule, params: Mapping[str, Any] | None = None) -> tvm.IRModule:
    """Name layers, bind parameters, fold batch norms: the form that extraction and building start from.

    Preparing a prepared module changes nothing.
    """
    main = mod["main"]
    if main.attrs is not None and PREPARED in main.attrs:
        return mod
    with tvm.transform.PassContext(opt_level=3):
        simplify = [relay_transform.InferType(), relay_transform.SimplifyInference(), LabelLayers()]
        mod = tvm.transform.Sequential(simplify)(tvm.IRModule({"main": main}))
        mod = tvm.IRModule({"main": bind_params_by_name(mod["main"], dict(params or {}))})
        fold = [
            FoldParameters(),
            relay_transform.CanonicalizeOps(),
            FoldParameters(),
            relay_transform.EliminateCommonSubexpr(),
            relay_transform.InferType(),
            FoldScales(),
            relay_transform.InferType(),
        ]
        mod = tvm.transform.Sequential(fold)(mod)
    return tvm.IRModule({"main": mod["main"].with_attr(PREPARED, tvm.tir.IntImm("int32", 1))})


def fuse(mod: tvm.IRModule) -> tvm.IRModule:
    """Fuse a prepared module's operators into primitive functions, as a build of it does."""
    return tvm.transform.Sequential([relay_transform.InferType(), relay_transform.FuseOps()])(mod)


def anchor_layers(mod: tvm.IRModule) -> tuple[str, ...]:
    """Return the layers of a prepared module, in the order of their first call."""
    calls = [
        node
        for node in post_order(mod["main"].body)
        if isinstance(node, relay.Call) and operator_name(node) in ANCHORS
    ]
    return tuple(dict.fromkeys(layer for call in calls if (layer := layer_of(call))))


@tvm.transform.module_pass(opt_level=0, name="RecordSubgraphs", required=["InferType"])
class RecordSubgraphs:
    """Record every call of a primitive function, with the anchors inside it, into ``found``; changes nothing.

    Runs after ``FuseOps``. Each entry of ``found`` is ``(function, [anchor call, ...])``.
    """

    def __init__(self) -> None:
        self.found: list[tuple[relay.Function, list[relay.Call]]] = []

    def transform_module(self, mod: tvm.IRModule, _: Any) -> tvm.IRModule:
        for call, *anchors in _plugin.find_subgraphs(mod["main"].body, ANCHORS):
            self.found.append((call.op, anchors))
        return mod
