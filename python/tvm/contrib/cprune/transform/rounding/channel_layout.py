# SPDX-License-Identifier: Apache-2.0
"""Where the channels of a tensor are, and what an operator does with them."""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace

import numpy as np
import numpy.typing as npt

from tvm import relay
from tvm.contrib.cprune.types import Side

# The value of padded channels. None is some finite value that depends on the data.
Fill = float | None
# For each new position the old channel, or -1 for a channel of zeros.
SourceIndex = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Segment:
    """``channels * scale`` adjacent positions along the channel axis, ``scale`` for each channel.

    ``variable`` is the number of the channel variable, None for channels that must not change. ``fill`` is
    the value of padded channels.
    """

    variable: int | None
    channels: int
    scale: int = 1
    fill: Fill = 0.0

    @property
    def size(self) -> int:
        return self.channels * self.scale


@dataclass(frozen=True)
class ChannelLayout:
    """The channel axis of a tensor, and the segments along it."""

    axis: int
    segments: tuple[Segment, ...]

    def filled(self, fill: Callable[[Fill], Fill]) -> "ChannelLayout | None":
        """Return the layout after an elementwise function, None if its padding would not be finite."""
        try:
            segments = tuple(replace(segment, fill=fill(segment.fill)) for segment in self.segments)
        except (ArithmeticError, ValueError):
            return None
        finite = all(segment.fill is None or math.isfinite(segment.fill) for segment in segments)
        return ChannelLayout(self.axis, segments) if finite else None

    def at(self, axis: int) -> "ChannelLayout":
        return ChannelLayout(axis, self.segments)


@dataclass(frozen=True)
class Use:
    """The effect of a call on channels.

    Attributes
    ----------
    result
        Layout of the result, None if padding does not reach it.
    parameters
        For each parameter argument, the layout along each of its dimensions that has channels.
    exact
        Whether the call requires its arguments without padding.
    """

    result: ChannelLayout | None = None
    parameters: Mapping[int, Mapping[int, ChannelLayout]] = field(default_factory=dict)
    exact: bool = False


EXACT = Use(exact=True)


@dataclass(frozen=True)
class Reader:
    """A layer whose programs constrain the total size of ``segments`` along its output or input channels."""

    layer: str
    side: Side
    segments: tuple[Segment, ...]
    groups: int = 1


def shape_of(node: relay.Expr) -> list[int]:
    """Return the shape of a typed node."""
    return [int(size) for size in node.checked_type.shape]


def positive_axis(value: int, rank: int) -> int:
    """Return an axis counted from the front."""
    return int(value) % rank


def first_new_axis(call: relay.Call) -> int:
    """Return the position of the first axis that an ``expand_dims`` inserts."""
    rank, count, axis = len(shape_of(call)), int(call.attrs.num_newaxis), int(call.attrs.axis)
    return axis if axis >= 0 else rank - count + 1 + axis


def transposed_axes(call: relay.Call) -> list[int]:
    """Return the input axis of each output axis of a ``transpose``."""
    rank = len(shape_of(call))
    if not call.attrs.axes:
        return list(range(rank))[::-1]
    return [positive_axis(axis, rank) for axis in call.attrs.axes]
