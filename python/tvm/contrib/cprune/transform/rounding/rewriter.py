# SPDX-License-Identifier: Apache-2.0
"""Rebuilding a Relay function with other channels."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

import tvm
from tvm import relay
from tvm.contrib.cprune.transform.relay_graph import operator_name, post_order
from tvm.contrib.cprune.transform.rounding.channel_layout import ChannelLayout
from tvm.contrib.cprune.transform.rounding.channels import Channels
from tvm.contrib.cprune.types import CPruneError

Array = npt.NDArray[Any]
# New position -> old channel; -1 is a channel of zeros.
Index = npt.NDArray[np.int64]


class Rewriter:
    """Rebuilds a function with new channels."""

    def __init__(
        self, channels: Channels, indices: Mapping[int, Index], parameters: Mapping[str, Array]
    ) -> None:
        self._channels, self._indices, self._values = channels, indices, parameters
        self._new: dict[relay.Expr, relay.Expr] = {}
        self._vars: dict[relay.Var, tuple[relay.Var, dict[int, Index]]] = {}
        self._cuts: dict[relay.Expr, relay.Expr] = {}

    def run(self, function: relay.Function) -> tuple[relay.Function, dict[str, Array]]:
        for node in post_order(function.body):
            self._new[node] = self._rebuild(node)
        params = [self._vars[p][0] if p in self._vars else p for p in function.params]
        values = {
            str(old.name_hint): _take(self._values[str(old.name_hint)], dims)
            for old, (_, dims) in self._vars.items()
        }
        body = self._exact(function.body)
        return relay.Function(params, body, None, function.type_params, function.attrs), values

    def _index(self, layout: ChannelLayout | None) -> Index | None:
        """Return the new positions along a layout's axis, None where nothing changes."""
        changed, offset, parts = False, 0, []
        for segment in layout.segments if layout else ():
            root = None if segment.variable is None else self._channels.find(segment.variable)
            index = self._indices.get(root) if root is not None else None
            changed = changed or index is not None
            index = np.arange(segment.channels) if index is None else index
            inner = np.arange(segment.scale)
            spread = np.where(index[:, None] < 0, -1, offset + index[:, None] * segment.scale + inner)
            parts.append(spread.reshape(-1))
            offset += segment.size
        return np.concatenate(parts).astype("int64") if changed else None

    def _rebuild(self, node: relay.Expr) -> relay.Expr:
        if isinstance(node, relay.Call):
            use = self._channels.uses.get(node)
            if use is None:
                args = [self._new[arg] for arg in node.args]
                return _call(node, args) if _differ(args, node.args) else node
            return self._rebuild_call(node)
        if isinstance(node, relay.Tuple):
            return relay.Tuple([self._exact(each) for each in node.fields], node.span)
        if isinstance(node, relay.TupleGetItem):
            return relay.TupleGetItem(self._new[node.tuple_value], node.index)
        return node

    def _rebuild_call(self, call: relay.Call) -> relay.Expr:
        use, args = self._channels.uses[call], []
        for position, arg in enumerate(call.args):
            dims = {
                dim: index
                for dim, layout in use.parameters.get(position, {}).items()
                if (index := self._index(layout)) is not None
            }
            if self._channels.is_parameter(arg):
                args.append(self._parameter(arg, self._per_group(call, dims)))
            elif use.exact:
                args.append(self._exact(arg))
            elif isinstance(arg, relay.Tuple):
                args.append(relay.Tuple([self._new[each] for each in arg.fields], arg.span))
            else:
                args.append(self._new[arg])
        if not _differ(args, call.args):
            return call
        return _call(call, args, self._attributes(call))

    def _per_group(self, call: relay.Call, dims: dict[int, Index]) -> dict[int, Index]:
        """Return the index of a grouped convolution's inputs within one group; all groups are alike."""
        if operator_name(call) != "nn.conv2d" or int(call.attrs.groups) == 1:
            return dims
        shape = [int(n) for n in call.args[1].checked_type.shape]
        inputs = str(call.attrs.kernel_layout).index("I")
        groups = int(call.attrs.groups)
        if inputs in dims and len(dims[inputs]) and shape[inputs] * groups == self._inputs(call):
            first = dims[inputs][: len(dims[inputs]) // groups]
            return {**dims, inputs: first}
        return dims

    def _inputs(self, call: relay.Call) -> int:
        layout = self._channels.layouts[call.args[0]]
        return sum(segment.size for segment in layout.segments) if layout else 0

    def _attributes(self, call: relay.Call) -> dict[str, Any]:
        """Return the attributes of a call that hold a number of channels, with the new one."""
        index = self._index(self._channels.layouts[call])
        if index is None:
            return {}
        name, size = operator_name(call), len(index)
        if name == "nn.conv2d":
            depthwise = int(call.attrs.groups) > 1 and int(call.attrs.groups) == self._inputs(call)
            return {"channels": size, **({"groups": size} if depthwise else {})}
        if name == "nn.dense":
            return {"units": size}
        if name == "reshape":
            shape = [int(n) for n in call.checked_type.shape]
            shape[self._channels.layouts[call].axis] = size  # type: ignore[union-attr]
            return {"newshape": shape}
        return {}

    def _exact(self, node: relay.Expr) -> relay.Expr:
        """Return a node's value without padding."""
        if isinstance(node, relay.Tuple):
            return self._new[node]
        layout = self._channels.layouts[node]
        index = self._index(layout)
        if index is None or layout is None:
            return self._new[node]
        if node not in self._cuts:
            positions = np.flatnonzero(index >= 0)
            order = positions[np.argsort(index[positions])]
            if (order == np.arange(len(order))).all():
                begin, end = [0], [len(order)]
                cut = relay.strided_slice(self._new[node], begin, end, axes=[layout.axis])
            else:
                cut = relay.take(self._new[node], relay.const(order.astype("int32")), axis=layout.axis)
            self._cuts[node] = cut
        return self._cuts[node]

    def _parameter(self, node: relay.Expr, dims: Mapping[int, Index]) -> relay.Expr:
        """Return a parameter's expression with new channels along ``dims``."""
        if not dims:
            return self._new[node]
        if isinstance(node, relay.Constant):
            return relay.const(_take(node.data.numpy(), dims))
        if isinstance(node, relay.Var):
            return self._variable(node, dims)
        name, rank = operator_name(node), len(node.checked_type.shape)
        if name == "transpose":
            axes = [int(a) % rank for a in node.attrs.axes] if node.attrs.axes else [*range(rank)][::-1]
            inner = {axes[dim]: index for dim, index in dims.items()}
            return _call(node, [self._parameter(node.args[0], inner)])
        if name == "expand_dims":
            count, first = int(node.attrs.num_newaxis), int(node.attrs.axis)
            first = first if first >= 0 else rank - count + 1 + first
            inner = {dim - (count if dim >= first else 0): index for dim, index in dims.items()}
            return _call(node, [self._parameter(node.args[0], inner)])
        if name == "broadcast_to":  # to its own shape
            return self._parameter(node.args[0], dims)
        args = []
        for arg in node.args:
            shape = [int(n) for n in arg.checked_type.shape]
            lacks = rank - len(shape)
            inner = {d - lacks: i for d, i in dims.items() if d >= lacks and shape[d - lacks] > 1}
            args.append(self._parameter(arg, inner))
        return _call(node, args)

    def _variable(self, var: relay.Var, dims: Mapping[int, Index]) -> relay.Var:
        if var in self._vars:
            known = self._vars[var][1]
            if known.keys() != dims.keys() or any((known[d] != dims[d]).any() for d in dims):
                raise CPruneError(f"{var.name_hint} is used with different channels")
            return self._vars[var][0]
        shape = [int(n) for n in var.checked_type.shape]
        for dim, index in dims.items():
            shape[dim] = len(index)
        new = relay.Var(var.name_hint, relay.TensorType(shape, var.checked_type.dtype))
        self._vars[var] = new, dict(dims)
        return new


def _take(value: Array, dims: Mapping[int, Index]) -> Array:
    """Return ``value`` with the channels of ``dims``, zeros where an index is -1."""
    for dim, index in dims.items():
        value = np.take(value, np.maximum(index, 0), axis=dim)
        shape = [1] * value.ndim
        shape[dim] = len(index)
        value = np.where((index >= 0).reshape(shape), value, 0).astype(value.dtype)
    return np.ascontiguousarray(value)


def _differ(new: list[relay.Expr], old: Any) -> bool:
    return any(not a.same_as(b) for a, b in zip(new, old, strict=True))


def _call(call: relay.Call, args: list[relay.Expr], changes: Mapping[str, Any] | None = None) -> relay.Call:
    attrs = call.attrs
    if changes:
        known = {str(name): attrs[name] for name in attrs.keys()}  # noqa: SIM118
        attrs = tvm.ir.make_node(attrs.type_key, **{**known, **changes})
    return relay.Call(call.op, args, attrs, call.type_args, call.span)
