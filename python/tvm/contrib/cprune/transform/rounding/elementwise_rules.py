# SPDX-License-Identifier: Apache-2.0
"""Rules of operators that compute each element from the elements at the same position."""

import math
from collections.abc import Callable
from dataclasses import replace

from tvm import relay
from tvm.contrib.cprune.transform.relay_graph import operator_name
from tvm.contrib.cprune.transform.rounding.channel_layout import (
    EXACT,
    ChannelLayout,
    Fill,
    Use,
    positive_axis,
    shape_of,
)
from tvm.contrib.cprune.transform.rounding.padding import combine, parameter_fill, unchanged
from tvm.contrib.cprune.transform.rounding.rule import Rule, RuleContext


def _elementwise(fill_of: Callable[[relay.Call], Callable[[Fill], Fill]]) -> Rule:
    """Return the rule of an operator that maps the fill by ``fill_of(call)``."""

    def rule(context: RuleContext, call: relay.Call) -> Use:
        layout = context.layouts[call.args[0]]
        result = layout.filled(fill_of(call)) if layout else None
        return Use(result) if result else EXACT

    return rule


def scalar_function(function: Callable[[float], float], bounded: bool) -> Rule:
    """Return the rule of a function of one number.

    An unbounded function may be infinite or undefined on a fill that depends on the data.
    """

    def fill(value: Fill) -> Fill:
        if value is None and not bounded:
            raise ValueError("the function may be infinite")
        return None if value is None else function(value)

    return _elementwise(lambda _: fill)


def _clip(call: relay.Call) -> Callable[[Fill], Fill]:
    low, high = float(call.attrs.a_min), float(call.attrs.a_max)
    return lambda value: None if value is None else min(max(value, low), high)


def _leaky_relu(call: relay.Call) -> Callable[[Fill], Fill]:
    alpha = float(call.attrs.alpha)
    return lambda value: None if value is None else (value if value > 0 else alpha * value)


def _channel_argument(context: RuleContext, call: relay.Call) -> ChannelLayout | None:
    """Return the layout of the first argument if the axis of the call is its channel axis."""
    layout = context.layouts[call.args[0]]
    if layout is None or positive_axis(call.attrs.axis, len(shape_of(call.args[0]))) != layout.axis:
        return None
    return layout


def bias_add(context: RuleContext, call: relay.Call) -> Use:
    layout = _channel_argument(context, call)
    if layout is None or not context.is_adjustable(call.args[1]):
        return EXACT
    return Use(layout, {1: {0: layout}})


def batch_norm(context: RuleContext, call: relay.Call) -> Use:
    layout = _channel_argument(context, call)
    if layout is None or not all(context.is_adjustable(arg) for arg in call.args[1:]):
        return EXACT
    # The padded scale and shift are zero. The padded variance is zero, too, but epsilon is added to it.
    return Use(layout.filled(lambda _: 0.0), {position: {0: layout} for position in range(1, 5)})


def prelu(context: RuleContext, call: relay.Call) -> Use:
    layout = _channel_argument(context, call)
    if layout is None or not context.is_adjustable(call.args[1]):
        return EXACT
    if any(segment.fill != 0 for segment in layout.segments):
        return EXACT
    return Use(layout, {1: {0: layout}})


def binary(context: RuleContext, call: relay.Call) -> Use:
    """The rule of arithmetic on two tensors, or on a tensor and a parameter, with broadcasting."""
    left, right = _broadcast_layout(context, call, 0), _broadcast_layout(context, call, 1)
    if left and right:
        return _binary_of_tensors(context, operator_name(call), left, right)
    if left:
        return _binary_with_operand(context, call, 0, left)
    return _binary_with_operand(context, call, 1, right) if right else EXACT


def _broadcast_layout(context: RuleContext, call: relay.Call, position: int) -> ChannelLayout | None:
    """Return the layout of an argument relative to the dimensions of the result."""
    arg = call.args[position]
    layout = context.layouts[arg]
    return layout.at(layout.axis + len(shape_of(call)) - len(shape_of(arg))) if layout else None


def _binary_of_tensors(context: RuleContext, name: str, left: ChannelLayout, right: ChannelLayout) -> Use:
    if not context.join(left, right):
        return EXACT
    try:
        segments = [
            replace(a, fill=combine(name, a.fill, b.fill))
            for a, b in zip(left.segments, right.segments, strict=True)
        ]
    except (ArithmeticError, ValueError):
        return EXACT
    return Use(ChannelLayout(left.axis, tuple(segments)))


def _binary_with_operand(context: RuleContext, call: relay.Call, side: int, layout: ChannelLayout) -> Use:
    """The rule if only argument ``side`` has channels. ``layout`` is relative to the result."""
    name, rank, operand = operator_name(call), len(shape_of(call)), call.args[1 - side]
    own, other = shape_of(call.args[side]), shape_of(operand)
    dim = layout.axis - (rank - len(other))
    size = other[dim] if dim >= 0 else 1
    if size == 1 and own[layout.axis - (rank - len(own))] == 1:
        return EXACT  # A single channel cannot be told from a broadcast dimension.
    parameters: dict[int, dict[int, ChannelLayout]] = {}
    fill: Fill = None
    if size == 1:
        if isinstance(operand, relay.Constant) and math.prod(other) == 1:
            fill = float(operand.data.numpy().reshape(()))
    elif context.is_adjustable(operand):
        parameters[1 - side] = {dim: layout}
        try:
            fill = parameter_fill(operand)
        except (ArithmeticError, ValueError):
            return EXACT
    else:
        return EXACT
    result = layout.filled(lambda own: combine(name, own, fill) if side == 0 else combine(name, fill, own))
    return Use(result, parameters) if result else EXACT


clip, leaky_relu = _elementwise(_clip), _elementwise(_leaky_relu)
identity = _elementwise(lambda _: unchanged)
