# SPDX-License-Identifier: Apache-2.0
"""Traversal of Relay functions, and the operators and layers of their calls."""

from collections.abc import Callable

import tvm
from tvm import relay
from tvm.contrib.cprune.types import CPruneError

WINOGRAD = "nn.contrib_conv2d_winograd_without_weight_transform"
# The operators that a subgraph is tuned for. TVM fuses at most one of them into a primitive function.
ANCHORS = (
    "nn.conv2d",
    WINOGRAD,
    "nn.dense",
    "nn.conv1d",
    "nn.conv3d",
    "nn.conv2d_transpose",
    "nn.batch_matmul",
)


def operator_name(call: relay.Call) -> str:
    """Return the name of the called operator, or "" if a function is called."""
    return call.op.name if isinstance(call.op, tvm.ir.Op) else ""


def layer_of(call: relay.Call) -> str | None:
    """Return the layer in a call's span, or None (see ``LabelLayers``)."""
    span = call.span
    if isinstance(span, relay.Span) and span.source_name is not None:
        return str(span.source_name.name) or None
    return None


def post_order(expr: relay.Expr) -> list[relay.Expr]:
    """Return the nodes of ``expr``, arguments before the calls that read them."""
    nodes: list[relay.Expr] = []
    relay.analysis.post_order_visit(expr, nodes.append)
    return nodes


def calls_of(expr: relay.Expr) -> list[relay.Call]:
    """Return the calls in ``expr`` in post order."""
    return [node for node in post_order(expr) if isinstance(node, relay.Call)]


def arguments_of(node: relay.Expr) -> list[relay.Expr]:
    """Return the nodes that a node reads."""
    if isinstance(node, relay.Call):
        return list(node.args)
    if isinstance(node, relay.Tuple):
        return list(node.fields)
    return [node.tuple_value] if isinstance(node, relay.TupleGetItem) else []


def rewrite(
    function: relay.Function, on_call: Callable[[relay.Call, relay.Call], relay.Expr]
) -> relay.Function:
    """Rebuild a function bottom-up, replacing each call by ``on_call(call with new arguments, old call)``.

    This is a loop because ``ExprMutator`` exceeds Python's recursion limit on deep networks.

    Raises
    ------
    CPruneError
        If the function contains control flow or nested functions.
    """
    new: dict[relay.Expr, relay.Expr] = {}
    for node in post_order(function.body):
        if isinstance(node, relay.Call):
            args = [new[arg] for arg in node.args]
            changed = any(not a.same_as(b) for a, b in zip(args, node.args, strict=True))
            call = relay.Call(node.op, args, node.attrs, node.type_args, node.span) if changed else node
            new[node] = on_call(call, node)
        elif isinstance(node, relay.Tuple):
            new[node] = relay.Tuple([new[field] for field in node.fields], node.span)
        elif isinstance(node, relay.TupleGetItem):
            new[node] = relay.TupleGetItem(new[node.tuple_value], node.index)
        elif isinstance(node, relay.Var | relay.Constant | tvm.ir.Op):
            new[node] = node
        else:
            raise CPruneError(
                f"the model contains a {type(node).__name__}; expected a graph of operator calls"
            )
    return relay.Function(function.params, new[function.body], None, function.type_params, function.attrs)
