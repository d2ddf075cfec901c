# SPDX-License-Identifier: Apache-2.0
"""The width that a channel variable is rounded to."""

from dataclasses import dataclass, replace
from typing import Literal

import numpy as np

from tvm.contrib.cprune._plugin import fitting_width
from tvm.contrib.cprune.constraints import Constraint, required_multiples
from tvm.contrib.cprune.table import TaskTable
from tvm.contrib.cprune.transform.rounding.channel_layout import Reader
from tvm.contrib.cprune.transform.rounding.channels import Channels
from tvm.contrib.cprune.types import CPruneError

Mode = Literal["up", "down", "nearest"]
MODES: tuple[Mode, ...] = ("up", "down", "nearest")


@dataclass(frozen=True)
class RoundingOptions:
    """How far and in which direction to round.

    Attributes
    ----------
    mode
        "up" adds channels, "down" drops channels, "nearest" does what changes fewer channels.
    max_growth
        Maximum fraction of a layer's channels to add, None for no limit.
    cut
        Whether padding may be cut off in front of an operator that requires the original channels.
    """

    mode: Mode = "up"
    max_growth: float | None = None
    cut: bool = True

    def __post_init__(self) -> None:
        if self.mode not in MODES:
            raise CPruneError(f"mode is {self.mode!r}, expected one of {', '.join(MODES)}")
        if self.max_growth is not None and self.max_growth < 0:
            raise CPruneError(f"max_growth is {self.max_growth}, expected 0 or more")


class WidthChooser:
    """Chooses the widths of variables, in the order in which the function creates them.

    A layer that reads several variables side by side constrains the last of them, whose width makes the total
    fit.
    """

    def __init__(self, channels: Channels, table: TaskTable, options: RoundingOptions) -> None:
        self._channels, self._table, self._options = channels, table, options
        self._widths = {root: channels.variables[root].width for root in channels.roots()}

    def choose(self, root: int) -> tuple[int, str]:
        """Return the new width of a variable, and the reason."""
        reason = self._reason_to_keep(root)
        if not reason:
            self._widths[root], reason = self._fitting_width(root)
        return self._widths[root], reason

    def _reason_to_keep(self, root: int) -> str:
        variable = self._channels.variables[root]
        if variable.frozen:
            return variable.frozen
        for layer in variable.layers:
            if not self._table.of_layer(layer):
                return f"the table has no program of {layer}"
        if variable.exact_uses and not self._options.cut:
            return f"{variable.exact_uses[0]} requires the original channel count"
        return ""

    def _fitting_width(self, root: int) -> tuple[int, str]:
        variable = self._channels.variables[root]
        # Fit all programs. Failing that, ignore consumers, then let one inner length shrink, then both.
        for own, relax in ((False, False), (True, False), (False, True), (True, True)):
            new_width = self._closest_fit(root, own, relax)
            if new_width:
                programs = "its own program" if own else "every program"
                changed = " with one inner length changed" if relax else ""
                already = " already" if new_width == variable.width else ""
                return new_width, f"fits {programs}{changed}{already}"
        if self._options.mode == "down" and variable.exact_uses:
            return variable.width, f"{variable.exact_uses[0]} requires the original channel count"
        return variable.width, "no width within the limit fits"

    def _closest_fit(self, root: int, own: bool, relax: bool) -> int:
        """Return the closest width that fits, the larger of two, or 0.

        Parameters
        ----------
        own
            Consider only the programs that create the channels.
        relax
            Allow one inner length of each split to shrink.
        """
        variable, options = self._channels.variables[root], self._options
        width, round_to = variable.width, variable.round_to
        constraints = [
            constraint
            for reader in self._constraining_readers(root)
            if reader.side == "out" or not own
            for constraint in self._constraints(reader, root, relax)
        ]
        candidates = []
        if options.mode != "down":
            # Within the least common multiple of all products there is a width that fits, if any does.
            highest = width + round_to * int(np.lcm.reduce([1, *(product for _, _, product in constraints)]))
            if options.max_growth is not None:
                highest = min(highest, int(width * (1 + options.max_growth) + 1e-9))
            candidates.append(fitting_width(width, width, highest, round_to, constraints))
        if options.mode != "up" and not variable.exact_uses:
            candidates.append(fitting_width(width, width, 1, round_to, constraints))
        fits = [candidate for candidate in candidates if candidate]
        return min(fits, key=lambda candidate: (abs(candidate - width), -candidate), default=0)

    def _constraining_readers(self, root: int) -> list[Reader]:
        """Return the layers that constrain ``root``: those that read it as their last variable.

        A depthwise convolution constrains each variable that it reads on its own. Otherwise the last variable
        could not compensate for the others and fit its own layer, too.
        """
        readers = []
        for reader in self._channels.readers:
            roots = [self._channels.find(s.variable) for s in reader.segments if s.variable is not None]
            if roots and max(roots) == root:
                readers.append(reader)
            elif root in roots and reader.side == "out":
                own = [s for s in reader.segments if self._root_of(s.variable) == root]
                readers.append(replace(reader, segments=tuple(own)))
        return readers

    def _constraints(self, reader: Reader, root: int, relax: bool) -> list[Constraint]:
        extent = scale = 0
        for segment in reader.segments:
            other = self._root_of(segment.variable)
            extent += segment.scale * (segment.channels if other is None else self._widths[other])
            scale += segment.scale if other == root else 0
        multiples = required_multiples(reader.layer, reader.side, reader.groups, self._table, relax)
        return [Constraint(extent, scale, multiple) for multiple in sorted(multiples)]

    def _root_of(self, variable: int | None) -> int | None:
        return None if variable is None else self._channels.find(variable)
