# SPDX-License-Identifier: Apache-2.0
"""Values that say where a tensor's channels lie, and what an operator makes of them."""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace

from tvm import relay
from tvm.contrib.cprune.types import Side

# What stands where channels were added: a number, or None for some finite number that depends on the data.
Fill = float | None


@dataclass(frozen=True)
class Segment:
    """``channels * scale`` neighbouring positions: ``scale`` of them belong to each channel of a variable.

    ``variable`` is None for channels that nobody may change.
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
    """The channels of a tensor: the dimension they lie along, and the segments along it."""

    axis: int
    segments: tuple[Segment, ...]

    def filled(self, fill: Callable[[Fill], Fill]) -> "ChannelLayout | None":
        """Return the layout behind an elementwise function of the padding, None where that is not finite."""
        try:
            segments = tuple(replace(each, fill=fill(each.fill)) for each in self.segments)
        except (ArithmeticError, ValueError):
            return None
        fine = all(each.fill is None or math.isfinite(each.fill) for each in segments)
        return ChannelLayout(self.axis, segments) if fine else None

    def at(self, axis: int) -> "ChannelLayout":
        return ChannelLayout(axis, self.segments)


@dataclass(frozen=True)
class Use:
    """What becomes of one call: the layout of its result and, by argument, of its parameters' dimensions.

    ``exact`` calls get their arguments without padding.
    """

    result: ChannelLayout | None = None
    parameters: Mapping[int, Mapping[int, ChannelLayout]] = field(default_factory=dict)
    exact: bool = False


EXACT = Use(exact=True)


@dataclass(frozen=True)
class Reader:
    """An anchor that reads channels: their sum of sizes must suit its program along ``side``."""

    layer: str
    side: Side
    segments: tuple[Segment, ...]
    groups: int = 1


def shape_of(node: relay.Expr) -> list[int]:
    """Return a typed node's shape."""
    return [int(size) for size in node.checked_type.shape]
