# SPDX-License-Identifier: Apache-2.0
"""Rebuilding of a Relay function with other channels."""

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

import tvm
from tvm import relay
from tvm.contrib.cprune.transform.numpy_eval import Array
from tvm.contrib.cprune.transform.relay_graph import operator_name, post_order
from tvm.contrib.cprune.transform.rounding.channel_layout import (
    ChannelLayout,
    SourceIndex,
    first_new_axis,
    shape_of,
    transposed_axes,
)
from tvm.contrib.cprune.transform.rounding.channels import CONVOLUTION, DENSE, Channels
from tvm.contrib.cprune.types import CPruneError


class ChannelRewriter:
    """Rebuilds a function with other channels.

    Parameters
    ----------
    channels
        The channel variables of the function.
    sources
        For each variable that changes, the old channel at each new position.
    parameters
        Values of the function's variables that are weights.
    """

    def __init__(
        self, channels: Channels, sources: Mapping[int, SourceIndex], parameters: Mapping[str, Array]
    ) -> None:
        self._channels, self._sources, self._parameters = channels, sources, parameters
        self._new: dict[relay.Expr, relay.Expr] = {}
        # New variables, and the source index along each dimension that changed.
        self._variables: dict[relay.Var, tuple[relay.Var, dict[int, SourceIndex]]] = {}
        self._exact_values: dict[relay.Expr, relay.Expr] = {}

    def run(self, function: relay.Function) -> tuple[relay.Function, dict[str, Array]]:
        """Return the new function, and the new values of the variables that changed."""
        for node in post_order(function.body):
            self._new[node] = self._rebuild(node)
        params = [self._variables[p][0] if p in self._variables else p for p in function.params]
        values = {
            str(old.name_hint): _take(self._parameters[str(old.name_hint)], dims)
            for old, (_, dims) in self._variables.items()
        }
        body = self._exact(function.body)
        return relay.Function(params, body, None, function.type_params, function.attrs), values

    def _source_index(self, layout: ChannelLayout | None) -> SourceIndex | None:
        """Return the old position of each new one along a layout's axis, None if nothing changes."""
        changed, offset, parts = False, 0, []
        for segment in layout.segments if layout else ():
            root = None if segment.variable is None else self._channels.find(segment.variable)
            source = self._sources.get(root) if root is not None else None
            changed = changed or source is not None
            source = np.arange(segment.channels) if source is None else source
            inner = np.arange(segment.scale)
            positions = np.where(source[:, None] < 0, -1, offset + source[:, None] * segment.scale + inner)
            parts.append(positions.reshape(-1))
            offset += segment.size
        return np.concatenate(parts).astype("int64") if changed else None

    def _rebuild(self, node: relay.Expr) -> relay.Expr:
        if isinstance(node, relay.Call):
            if node in self._channels.uses:
                return self._rebuild_call(node)
            args = [self._new[arg] for arg in node.args]
            return _call(node, args) if _differ(args, node.args) else node
        if isinstance(node, relay.Tuple):
            return relay.Tuple([self._exact(value) for value in node.fields], node.span)
        if isinstance(node, relay.TupleGetItem):
            return relay.TupleGetItem(self._new[node.tuple_value], node.index)
        return node

    def _rebuild_call(self, call: relay.Call) -> relay.Expr:
        use, args = self._channels.uses[call], []
        for position, arg in enumerate(call.args):
            if self._channels.is_parameter(arg):
                layouts = use.parameters.get(position, {})
                indices = {dim: self._source_index(layout) for dim, layout in layouts.items()}
                dims = {dim: index for dim, index in indices.items() if index is not None}
                args.append(self._parameter(arg, self._within_one_group(call, dims)))
            elif use.exact:
                args.append(self._exact(arg))
            elif isinstance(arg, relay.Tuple):
                args.append(relay.Tuple([self._new[value] for value in arg.fields], arg.span))
            else:
                args.append(self._new[arg])
        return _call(call, args, self._attributes(call)) if _differ(args, call.args) else call

    def _within_one_group(self, call: relay.Call, dims: dict[int, SourceIndex]) -> dict[int, SourceIndex]:
        """Limit the input channels of a grouped convolution's weight to one group. All groups are equal."""
        if operator_name(call) != CONVOLUTION or int(call.attrs.groups) == 1:
            return dims
        groups, axis = int(call.attrs.groups), str(call.attrs.kernel_layout).index("I")
        weight_inputs = shape_of(call.args[1])[axis]
        if axis in dims and len(dims[axis]) and weight_inputs * groups == self._input_channels(call):
            return {**dims, axis: dims[axis][: len(dims[axis]) // groups]}
        return dims

    def _input_channels(self, call: relay.Call) -> int:
        layout = self._channels.layouts[call.args[0]]
        return sum(segment.size for segment in layout.segments) if layout else 0

    def _attributes(self, call: relay.Call) -> dict[str, Any]:
        """Return new values of the attributes that hold a number of channels."""
        layout = self._channels.layouts[call]
        index = self._source_index(layout)
        if layout is None or index is None:
            return {}
        name, size = operator_name(call), len(index)
        if name == CONVOLUTION:
            depthwise = int(call.attrs.groups) > 1 and int(call.attrs.groups) == self._input_channels(call)
            return {"channels": size, **({"groups": size} if depthwise else {})}
        if name == DENSE:
            return {"units": size}
        if name == "reshape":
            shape = shape_of(call)
            shape[layout.axis] = size
            return {"newshape": shape}
        return {}

    def _exact(self, node: relay.Expr) -> relay.Expr:
        """Return a node's value with the original channels."""
        if isinstance(node, relay.Tuple):
            return self._new[node]
        layout = self._channels.layouts[node]
        index = self._source_index(layout)
        if index is None or layout is None:
            return self._new[node]
        if node not in self._exact_values:
            positions = np.flatnonzero(index >= 0)
            order = positions[np.argsort(index[positions])]
            new = self._new[node]
            if (order == np.arange(len(order))).all():
                exact = relay.strided_slice(new, [0], [len(order)], axes=[layout.axis])
            else:
                exact = relay.take(new, relay.const(order.astype("int32")), axis=layout.axis)
            self._exact_values[node] = exact
        return self._exact_values[node]

    def _parameter(self, node: relay.Expr, dims: Mapping[int, SourceIndex]) -> relay.Expr:
        """Return a parameter expression with new channels along ``dims``."""
        if not dims:
            return self._new[node]
        if isinstance(node, relay.Constant):
            return relay.const(_take(node.data.numpy(), dims))
        if isinstance(node, relay.Var):
            return self._variable(node, dims)
        name, rank = operator_name(node), len(shape_of(node))
        if name == "broadcast_to":  # to its own shape, see Channels.is_adjustable
            return self._parameter(node.args[0], dims)
        if name == "transpose":
            axes = transposed_axes(node)
            inner = {axes[dim]: index for dim, index in dims.items()}
            return _call(node, [self._parameter(node.args[0], inner)])
        if name == "expand_dims":
            count, first = int(node.attrs.num_newaxis), first_new_axis(node)
            inner = {dim - (count if dim >= first else 0): index for dim, index in dims.items()}
            return _call(node, [self._parameter(node.args[0], inner)])
        args = []
        for arg in node.args:
            shape = shape_of(arg)
            missing = rank - len(shape)
            changed = [dim for dim in dims if dim >= missing and shape[dim - missing] > 1]
            args.append(self._parameter(arg, {dim - missing: dims[dim] for dim in changed}))
        return _call(node, args)

    def _variable(self, variable: relay.Var, dims: Mapping[int, SourceIndex]) -> relay.Var:
        if variable in self._variables:
            new, others = self._variables[variable]
            if others.keys() != dims.keys() or any((others[dim] != dims[dim]).any() for dim in dims):
                raise CPruneError(
                    f"parameter {variable.name_hint} is shared by layers that round differently"
                )
            return new
        shape = shape_of(variable)
        for dim, index in dims.items():
            shape[dim] = len(index)
        new = relay.Var(variable.name_hint, relay.TensorType(shape, variable.checked_type.dtype))
        self._variables[variable] = new, dict(dims)
        return new


def _take(value: Array, dims: Mapping[int, SourceIndex]) -> Array:
    """Return ``value`` with the channels of ``dims``, zeros where an index is -1."""
    for dim, index in dims.items():
        value = np.take(value, np.maximum(index, 0), axis=dim)
        shape = [1] * value.ndim
        shape[dim] = len(index)
        value = np.where((index >= 0).reshape(shape), value, 0).astype(value.dtype)
    return np.ascontiguousarray(value)


def _differ(new: Iterable[relay.Expr], old: Iterable[relay.Expr]) -> bool:
    return any(not a.same_as(b) for a, b in zip(new, old, strict=True))


def _call(call: relay.Call, args: list[relay.Expr], changes: Mapping[str, Any] | None = None) -> relay.Call:
    """Return ``call`` with other arguments and with ``changes`` to its attributes."""
    attrs = call.attrs
    if changes:
        old = {str(name): attrs[name] for name in attrs.keys()}  # noqa: SIM118
        attrs = tvm.ir.make_node(attrs.type_key, **{**old, **changes})
    return relay.Call(call.op, args, attrs, call.type_args, call.span)
