# SPDX-License-Identifier: Apache-2.0
"""Rules of operators that move, reduce or join dimensions."""

import math
from dataclasses import replace

from tvm import relay
from tvm.contrib.cprune.transform.rounding.channel_layout import (
    EXACT,
    ChannelLayout,
    Segment,
    Use,
    first_new_axis,
    positive_axis,
    shape_of,
    transposed_axes,
)
from tvm.contrib.cprune.transform.rounding.padding import keep_zero, parameter_fill
from tvm.contrib.cprune.transform.rounding.rule import RuleContext


def spatial(context: RuleContext, call: relay.Call) -> Use:
    """The rule of an operator on the spatial dimensions, such as pooling."""
    layout = context.layouts[call.args[0]]
    if layout is None or str(call.attrs.layout).find("C") != layout.axis:
        return EXACT
    result = layout.filled(keep_zero)
    return Use(result) if result else EXACT


def reduce(context: RuleContext, call: relay.Call) -> Use:
    layout, rank = context.layouts[call.args[0]], len(shape_of(call.args[0]))
    if layout is None or call.attrs.axis is None or bool(call.attrs.exclude):
        return EXACT
    removed = {positive_axis(axis, rank) for axis in call.attrs.axis}
    if layout.axis in removed:
        return EXACT
    result = layout.filled(keep_zero)
    if result is None:
        return EXACT
    return Use(result if bool(call.attrs.keepdims) else result.at(_axis_without(layout.axis, removed)))


def _axis_without(axis: int, removed: set[int]) -> int:
    return axis - sum(other < axis for other in removed)


def reshape(context: RuleContext, call: relay.Call) -> Use:
    """The rule of a reshape that keeps the channels in one dimension, alone or with the dimensions after."""
    layout = context.layouts[call.args[0]]
    if layout is None:
        return EXACT
    old, new = shape_of(call.args[0]), shape_of(call)
    before, width = math.prod(old[: layout.axis]), old[layout.axis]
    passed = 1
    for axis, size in enumerate(new):
        if passed == before and size % width == 0 and size > 1:
            scale = size // width
            if math.prod(new[axis + 1 :]) * scale != math.prod(old[layout.axis + 1 :]):
                return EXACT
            segments = tuple(replace(segment, scale=segment.scale * scale) for segment in layout.segments)
            return Use(ChannelLayout(axis, segments))
        passed *= size
    return EXACT


def transpose(context: RuleContext, call: relay.Call) -> Use:
    layout = context.layouts[call.args[0]]
    return Use(layout.at(transposed_axes(call).index(layout.axis))) if layout else EXACT


def layout_transform(context: RuleContext, call: relay.Call) -> Use:
    layout = context.layouts[call.args[0]]
    source, target = str(call.attrs.src_layout), str(call.attrs.dst_layout)
    if layout is None or sorted(source) != sorted(target) or not source.isupper():
        return EXACT
    return Use(layout.at(target.index(source[layout.axis])))


def squeeze(context: RuleContext, call: relay.Call) -> Use:
    layout, shape = context.layouts[call.args[0]], shape_of(call.args[0])
    if layout is None:
        return EXACT
    if call.attrs.axis is None:
        removed = {axis for axis, size in enumerate(shape) if size == 1}
    else:
        removed = {positive_axis(axis, len(shape)) for axis in call.attrs.axis}
    return EXACT if layout.axis in removed else Use(layout.at(_axis_without(layout.axis, removed)))


def expand_dims(context: RuleContext, call: relay.Call) -> Use:
    layout = context.layouts[call.args[0]]
    if layout is None:
        return EXACT
    added = int(call.attrs.num_newaxis) if first_new_axis(call) <= layout.axis else 0
    return Use(layout.at(layout.axis + added))


def pad(context: RuleContext, call: relay.Call) -> Use:
    """The rule of padding that leaves the channel axis alone."""
    layout, value = context.layouts[call.args[0]], call.args[1]
    if layout is None or any(int(size) for size in call.attrs.pad_width[layout.axis]):
        return EXACT
    result = layout.filled(keep_zero if parameter_fill(value) == 0 else lambda _: None)
    return Use(result) if result and context.is_parameter(value) else EXACT


def concatenate(context: RuleContext, call: relay.Call) -> Use:
    fields = call.args[0].fields if isinstance(call.args[0], relay.Tuple) else []
    layouts = [context.layouts[field] for field in fields]
    present = [layout for layout in layouts if layout]
    if not present:
        return Use()
    axis = positive_axis(call.attrs.axis, len(shape_of(call)))
    if any(layout.axis != present[0].axis for layout in present):
        return EXACT
    if axis != present[0].axis:
        return _concatenate_beside(context, present) if len(present) == len(layouts) else EXACT
    segments: list[Segment] = []
    for layout, field in zip(layouts, fields, strict=True):
        segments += layout.segments if layout else [Segment(None, shape_of(field)[axis])]
    return Use(ChannelLayout(axis, tuple(segments)))


def _concatenate_beside(context: RuleContext, layouts: list[ChannelLayout]) -> Use:
    """The rule of a concatenation along another axis: all tensors share their channels."""
    first = layouts[0]
    if not all(context.join(first, layout) for layout in layouts[1:]):
        return EXACT
    segments = []
    for position, segment in enumerate(first.segments):
        fills = {layout.segments[position].fill for layout in layouts}
        segments.append(replace(segment, fill=segment.fill if len(fills) == 1 else None))
    return Use(ChannelLayout(first.axis, tuple(segments)))
