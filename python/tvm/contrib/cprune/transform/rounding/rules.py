# SPDX-License-Identifier: Apache-2.0
"""What each operator makes of the channels it gets: a rule for every one that is known."""

import math
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any, Protocol

from tvm import relay
from tvm.contrib.cprune.transform.relay_graph import operator_name
from tvm.contrib.cprune.transform.rounding.channel_layout import (
    EXACT,
    ChannelLayout,
    Fill,
    Segment,
    Use,
    shape_of,
)

# Operators that parameters go through on their way to a layer and that keep their channels apart.
PARAMETER_SHAPES = ("broadcast_to", "expand_dims", "transpose")


class Known(Protocol):
    """What is known of the nodes that a call reads."""

    @property
    def layouts(self) -> Mapping[relay.Expr, ChannelLayout | None]:
        """Where the channels of each node lie, None where nothing is known."""

    def join(self, a: ChannelLayout, b: ChannelLayout) -> bool:
        """Make the channels of two layouts the same ones; return whether that is possible."""

    def is_parameter(self, node: relay.Expr) -> bool:
        """Whether a node depends on parameters and constants alone."""

    def is_adjustable(self, node: relay.Expr) -> bool:
        """Whether a node is a parameter whose channels the parameters below it have, too."""


Rule = Callable[[Known, relay.Call], Use]


def _axis(value: Any, rank: int) -> int:
    return int(value) % rank


def _same(call_fill: Callable[[relay.Call], Callable[[Fill], Fill]]) -> Rule:
    """Return the rule of an operator that leaves the tensor's dimensions alone."""

    def rule(channels: Known, call: relay.Call) -> Use:
        layout = channels.layouts[call.args[0]]
        result = layout.filled(call_fill(call)) if layout else None
        return Use(result) if result else EXACT

    return rule


def _unary(function: Callable[[float], float], bounded: bool = True) -> Rule:
    """Return the rule of an elementwise function; an unbounded one may overflow on numbers that are not
    known."""

    def fill(value: Fill) -> Fill:
        if value is None and not bounded:
            raise ValueError
        return None if value is None else function(value)

    return _same(lambda _: fill)


def _keep_zero(value: Fill) -> Fill:
    return 0.0 if value == 0 else None


def _spatial(channels: Known, call: relay.Call) -> Use:
    """The rule of an operator over the other dimensions, such as a pooling."""
    layout = channels.layouts[call.args[0]]
    if layout is None or str(call.attrs.layout).find("C") != layout.axis:
        return EXACT
    result = layout.filled(_keep_zero)
    return Use(result) if result else EXACT


def _clip(call: relay.Call) -> Callable[[Fill], Fill]:
    low, high = float(call.attrs.a_min), float(call.attrs.a_max)
    return lambda value: None if value is None else min(max(value, low), high)


def _leaky(call: relay.Call) -> Callable[[Fill], Fill]:
    alpha = float(call.attrs.alpha)
    return lambda value: None if value is None else (value if value > 0 else alpha * value)


def _bias_add(channels: Known, call: relay.Call) -> Use:
    layout = channels.layouts[call.args[0]]
    if layout is None or _axis(call.attrs.axis, len(shape_of(call))) != layout.axis:
        return EXACT
    return Use(layout, {1: {0: layout}}) if channels.is_adjustable(call.args[1]) else EXACT


def _batch_norm(channels: Known, call: relay.Call) -> Use:
    layout = channels.layouts[call.args[0]]
    if layout is None or _axis(call.attrs.axis, len(shape_of(call.args[0]))) != layout.axis:
        return EXACT
    if not all(channels.is_adjustable(arg) for arg in call.args[1:]):
        return EXACT
    # With a scale and a shift of zero; the variance gets zero, too, and an epsilon.
    return Use(layout.filled(lambda _: 0.0), {i: {0: layout} for i in range(1, 5)})


def _prelu(channels: Known, call: relay.Call) -> Use:
    layout = channels.layouts[call.args[0]]
    if layout is None or _axis(call.attrs.axis, len(shape_of(call))) != layout.axis:
        return EXACT
    if not channels.is_adjustable(call.args[1]) or any(s.fill != 0 for s in layout.segments):
        return EXACT
    return Use(layout, {1: {0: layout}})


ARITHMETIC: dict[str, Callable[[float, float], float]] = {
    "add": lambda a, b: a + b,
    "subtract": lambda a, b: a - b,
    "multiply": lambda a, b: a * b,
    "divide": lambda a, b: a / b,
    "maximum": max,
    "minimum": min,
}


def _combine(name: str, a: Fill, b: Fill) -> Fill:
    """Return what an operator makes of two paddings.

    Raises
    ------
    ArithmeticError, ValueError
        If that may not be finite.
    """
    if a is not None and b is not None:
        return ARITHMETIC[name](a, b)
    if name == "multiply" and 0 in (a, b):
        return 0.0
    if name == "divide" and not b:
        raise ValueError
    return None


def _binary(channels: Known, call: relay.Call) -> Use:
    """The rule of an elementwise function of two tensors or of a tensor and a parameter, with
    broadcasting."""
    name, rank = operator_name(call), len(shape_of(call))
    left, right = (channels.layouts[arg] for arg in call.args)
    shapes = [shape_of(arg) for arg in call.args]

    def shifted(layout: ChannelLayout, shape: list[int]) -> ChannelLayout:
        return layout.at(layout.axis + rank - len(shape))

    if left and right:
        left, right = shifted(left, shapes[0]), shifted(right, shapes[1])
        if not channels.join(left, right):
            return EXACT
        try:
            segments = [
                replace(a, fill=_combine(name, a.fill, b.fill))
                for a, b in zip(left.segments, right.segments, strict=True)
            ]
        except (ArithmeticError, ValueError):
            return EXACT
        return Use(ChannelLayout(left.axis, tuple(segments)))

    side = 0 if left else 1
    layout, other = shifted(left or right, shapes[side]), call.args[1 - side]  # type: ignore[arg-type]
    dim = layout.axis - (rank - len(shapes[1 - side]))
    size = shapes[1 - side][dim] if dim >= 0 else 1
    parameters: dict[int, dict[int, ChannelLayout]] = {}
    fill: Fill = None
    if size == 1 and shapes[side][layout.axis - (rank - len(shapes[side]))] == 1:
        return EXACT  # one channel, and broadcast: not to be told apart
    if size == 1:
        if isinstance(other, relay.Constant) and math.prod(shape_of(other)) == 1:
            fill = float(other.data.numpy().reshape(()))
    elif channels.is_adjustable(other):
        parameters[1 - side] = {dim: layout}
        try:
            fill = parameter_fill(other)
        except (ArithmeticError, ValueError):
            return EXACT
    else:
        return EXACT
    combined = layout.filled(lambda v: _combine(name, v, fill) if side == 0 else _combine(name, fill, v))
    return Use(combined, parameters) if combined else EXACT


def parameter_fill(node: relay.Expr) -> Fill:
    """Return what a parameter's expression is where all parameters in it are padded with zeros, None if not
    known.

    Raises
    ------
    ArithmeticError, ValueError
        If it is not finite there.
    """
    if isinstance(node, relay.Var):
        return 0.0
    if isinstance(node, relay.Constant):
        values = node.data.numpy()
        return float(values.reshape(())) if values.size == 1 else 0.0
    if isinstance(node, relay.Call):
        fills = [parameter_fill(arg) for arg in node.args]
        name = operator_name(node)
        if name in ARITHMETIC and None not in fills:
            return ARITHMETIC[name](*fills)  # type: ignore[arg-type]
        if name in SCALARS and None not in fills:
            return SCALARS[name](*fills)  # type: ignore[arg-type]
        if name in PARAMETER_SHAPES:
            return fills[0]
    return None


def _reduce(channels: Known, call: relay.Call) -> Use:
    layout, rank = channels.layouts[call.args[0]], len(shape_of(call.args[0]))
    if layout is None or call.attrs.axis is None or bool(call.attrs.exclude):
        return EXACT
    gone = {_axis(each, rank) for each in call.attrs.axis}
    if layout.axis in gone:
        return EXACT
    axis = layout.axis if bool(call.attrs.keepdims) else layout.axis - sum(1 for g in gone if g < layout.axis)
    result = layout.filled(_keep_zero)
    return Use(result.at(axis)) if result else EXACT


def _reshape(channels: Known, call: relay.Call) -> Use:
    """The rule of a reshape that keeps the channels in one dimension, alone or with what follows them."""
    layout = channels.layouts[call.args[0]]
    if layout is None:
        return EXACT
    old, new = shape_of(call.args[0]), shape_of(call)
    before, width = math.prod(old[: layout.axis]), old[layout.axis]
    done = 1
    for axis, size in enumerate(new):
        if done == before and size % width == 0 and size > 1:
            after = old[layout.axis + 1 :]
            scale = size // width
            if math.prod(new[axis + 1 :]) * scale != math.prod(after):
                return EXACT
            segments = tuple(replace(each, scale=each.scale * scale) for each in layout.segments)
            return Use(ChannelLayout(axis, segments))
        done *= size
    return EXACT


def _transpose(channels: Known, call: relay.Call) -> Use:
    layout, rank = channels.layouts[call.args[0]], len(shape_of(call))
    if layout is None:
        return EXACT
    axes = [_axis(a, rank) for a in call.attrs.axes] if call.attrs.axes else list(range(rank))[::-1]
    return Use(layout.at(axes.index(layout.axis)))


def _layout_transform(channels: Known, call: relay.Call) -> Use:
    layout, source, target = channels.layouts[call.args[0]], str(call.attrs.src_layout), call.attrs.dst_layout
    if layout is None or sorted(source) != sorted(str(target)) or not source.isupper():
        return EXACT
    return Use(layout.at(str(target).index(source[layout.axis])))


def _squeeze(channels: Known, call: relay.Call) -> Use:
    layout, shape = channels.layouts[call.args[0]], shape_of(call.args[0])
    if layout is None:
        return EXACT
    axes = call.attrs.axis
    gone = (
        {i for i, n in enumerate(shape) if n == 1} if axes is None else {_axis(a, len(shape)) for a in axes}
    )
    return EXACT if layout.axis in gone else Use(layout.at(layout.axis - sum(g < layout.axis for g in gone)))


def _expand_dims(channels: Known, call: relay.Call) -> Use:
    layout, rank, count = channels.layouts[call.args[0]], len(shape_of(call)), int(call.attrs.num_newaxis)
    if layout is None:
        return EXACT
    first = int(call.attrs.axis)
    first = first if first >= 0 else rank - count + 1 + first
    return Use(layout.at(layout.axis + (count if first <= layout.axis else 0)))


def _pad(channels: Known, call: relay.Call) -> Use:
    layout = channels.layouts[call.args[0]]
    if layout is None or any(int(n) for n in call.attrs.pad_width[layout.axis]):
        return EXACT
    result = layout.filled(_keep_zero) if parameter_fill(call.args[1]) == 0 else layout.filled(lambda _: None)
    return Use(result) if result and channels.is_parameter(call.args[1]) else EXACT


def _concatenate(channels: Known, call: relay.Call) -> Use:
    fields = call.args[0].fields if isinstance(call.args[0], relay.Tuple) else []
    layouts, rank = [channels.layouts[each] for each in fields], len(shape_of(call))
    known = [each for each in layouts if each]
    if not known:
        return Use()
    axis = _axis(call.attrs.axis, rank)
    if any(each.axis != known[0].axis for each in known):
        return EXACT
    if axis != known[0].axis:
        if len(known) < len(layouts) or not all(channels.join(known[0], each) for each in known[1:]):
            return EXACT
        fills = [{each.segments[i].fill for each in known} for i in range(len(known[0].segments))]
        same = [
            replace(segment, fill=segment.fill if len(found) == 1 else None)
            for segment, found in zip(known[0].segments, fills, strict=True)
        ]
        return Use(ChannelLayout(known[0].axis, tuple(same)))
    segments: list[Segment] = []
    for each, node in zip(layouts, fields, strict=True):
        segments += each.segments if each else [Segment(None, shape_of(node)[axis])]
    return Use(ChannelLayout(axis, tuple(segments)))


def _sigmoid(value: float) -> float:
    return 1 / (1 + math.exp(-value))


SCALARS: dict[str, Callable[[float], float]] = {
    "abs": abs,
    "erf": math.erf,
    "exp": math.exp,
    "negative": lambda v: -v,
    "nn.relu": lambda v: max(v, 0.0),
    "rsqrt": lambda v: 1 / math.sqrt(v),
    "sigmoid": _sigmoid,
    "sqrt": math.sqrt,
    "tanh": math.tanh,
}
_UNBOUNDED = {"exp", "rsqrt", "sqrt"}
RULES: dict[str, Rule] = {
    **{name: _unary(function, name not in _UNBOUNDED) for name, function in SCALARS.items()},
    **dict.fromkeys(ARITHMETIC, _binary),
    **dict.fromkeys(("mean", "sum", "max", "min"), _reduce),
    **dict.fromkeys(("nn.avg_pool2d", "nn.max_pool2d", "nn.global_avg_pool2d"), _spatial),
    **dict.fromkeys(("nn.global_max_pool2d", "nn.adaptive_avg_pool2d"), _spatial),
    **dict.fromkeys(("nn.adaptive_max_pool2d", "nn.upsampling", "image.resize2d"), _spatial),
    "clip": _same(_clip),
    "concatenate": _concatenate,
    "copy": _same(lambda _: lambda v: v),
    "expand_dims": _expand_dims,
    "layout_transform": _layout_transform,
    "nn.batch_flatten": _reshape,
    "nn.batch_norm": _batch_norm,
    "nn.bias_add": _bias_add,
    "nn.dropout": _same(lambda _: lambda v: v),
    "nn.leaky_relu": _same(_leaky),
    "nn.pad": _pad,
    "nn.prelu": _prelu,
    "reshape": _reshape,
    "squeeze": _squeeze,
    "transpose": _transpose,
}
