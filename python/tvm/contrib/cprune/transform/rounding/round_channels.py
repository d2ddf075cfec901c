# SPDX-License-Identifier: Apache-2.0
"""Rounding the channels of a model to widths that its tuned programs fit.

A model that was pruned without its compiler has widths that no tile factor divides. Up, zero channels are
added: they pass through everything between two anchors and meet weights of zero. Down, the channels that
matter least go.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np

import tvm
from tvm import relay
from tvm.contrib.cprune._plugin import fitting_width
from tvm.contrib.cprune.constraints import products_of
from tvm.contrib.cprune.table import TaskTable
from tvm.contrib.cprune.transform.relay_graph import operator_name, post_order
from tvm.contrib.cprune.transform.rounding.channel_layout import Reader
from tvm.contrib.cprune.transform.rounding.channels import Channels
from tvm.contrib.cprune.transform.rounding.rewriter import Array, Index, Rewriter
from tvm.contrib.cprune.types import CPruneError

Mode = Literal["up", "down", "nearest"]
MODES: tuple[Mode, ...] = ("up", "down", "nearest")


@dataclass(frozen=True)
class Rounding:
    """What became of the channels that some layers share, and why."""

    layers: tuple[str, ...]
    width: int
    new_width: int
    reason: str

    @property
    def changed(self) -> bool:
        return self.width != self.new_width


@dataclass(frozen=True)
class Rounded:
    """A rounded function, with the new values of those of its parameters that are variables."""

    function: relay.Function
    parameters: dict[str, Array]
    roundings: tuple[Rounding, ...]


def round_function(
    function: relay.Function,
    table: TaskTable,
    mode: Mode = "up",
    max_growth: float | None = None,
    scores: Mapping[str, Array] | None = None,
    parameters: Mapping[str, Array] | None = None,
    cut: bool = True,
) -> Rounded:
    """Round the channels of a typed Relay function; see ``RoundChannels``.

    Parameters
    ----------
    parameters
        Values of the variables of the function that are weights.
    cut
        Whether padding may be cut off, by an operator, in front of what cannot take it. Otherwise channels
        that reach such a place are left.
    """
    _require_known(mode, max_growth)
    known = {name: np.asarray(value) for name, value in (parameters or {}).items()}
    channels = Channels(function, known)
    layers = {reader.layer for reader in channels.readers}
    if layers and not any(table.of_layer(layer) for layer in layers):
        tuned = sorted({layer for row in table.rows for layer in row.task.layers})
        raise CPruneError(
            f"the table is of another model: it has {', '.join(tuned[:3]) or 'no layer'} ..., "
            f"this one {', '.join(sorted(layers)[:3])} ..."
        )
    weigh = _Scores(function, channels, known, scores or {})
    indices, roundings = _decide(channels, table, mode, max_growth, cut, weigh)
    new_function, values = Rewriter(channels, indices, known).run(function)
    return Rounded(new_function, values, roundings)


@tvm.transform.module_pass(opt_level=0, name="RoundChannels", required=["InferType"])
class RoundChannels:
    """Snap the channels of every convolution and dense layer to widths that fit the layers' tuned programs.

    Takes and returns a module whose weights are constants and whose layers are named, as ``from_torch``,
    ``from_onnx`` and ``prepare`` return it. Inputs and outputs stay what they are.

    Parameters
    ----------
    table
        Programs by layer, tuned at whatever widths.
    mode
        "up" adds channels of zeros: outputs stay the same. "down" drops channels. "nearest" does what changes
        less. Channels that an operator such as a softmax looks across, or that are outputs of the model, are
        never dropped.
    max_growth
        Most channels to add, as a share of a layer's; None for any number.
    scores
        How much each output channel of a layer matters, by layer; by default the l1 norm of its weights.

    Attributes
    ----------
    roundings
        What was changed and what was left, and why, after the pass ran.

    Raises
    ------
    CPruneError
        If the mode is unknown or the growth negative.
    """

    def __init__(
        self,
        table: TaskTable,
        mode: Mode = "up",
        max_growth: float | None = None,
        scores: Mapping[str, Array] | None = None,
    ) -> None:
        _require_known(mode, max_growth)
        self.table, self.mode, self.max_growth, self.scores = table, mode, max_growth, scores
        self.roundings: tuple[Rounding, ...] = ()

    def transform_module(self, mod: tvm.IRModule, _: Any) -> tvm.IRModule:
        rounded = round_function(mod["main"], self.table, self.mode, self.max_growth, self.scores)
        self.roundings = rounded.roundings
        return relay.transform.InferType()(tvm.IRModule({"main": rounded.function}))


def _require_known(mode: str, max_growth: float | None) -> None:
    if mode not in MODES:
        raise CPruneError(f"mode is {mode!r}, expected one of {', '.join(MODES)}")
    if max_growth is not None and max_growth < 0:
        raise CPruneError(f"max_growth is {max_growth}, expected 0 or more")


class _Scores:
    """How much the channels of a variable matter: the sum over the layers that make them."""

    def __init__(
        self,
        function: relay.Function,
        channels: Channels,
        parameters: Mapping[str, Array],
        given: Mapping[str, Array],
    ) -> None:
        self._found: dict[int, Array] = {}
        for call in post_order(function.body):
            if not isinstance(call, relay.Call) or operator_name(call) not in ("nn.conv2d", "nn.dense"):
                continue
            use = channels.uses.get(call)
            made = use.result.segments[0].variable if use and use.result else None
            if use is None or made is None:
                continue
            layer, root = str(call.span.source_name.name), channels.find(made)
            for dim, layout in use.parameters.get(1, {}).items():
                if [segment.variable for segment in layout.segments] != [made]:
                    continue
                value = given.get(layer)
                if value is None:
                    leaf, axis = _leaf(call.args[1], dim)
                    weight = (
                        leaf.data.numpy()
                        if isinstance(leaf, relay.Constant)
                        else parameters[str(leaf.name_hint)]
                    )
                    value = np.abs(weight).sum(tuple(i for i in range(weight.ndim) if i != axis))
                width = channels.variables[root].width
                if len(value) != width:
                    raise CPruneError(f"{len(value)} scores for {layer}, expected {width}")
                self._found[root] = self._found.get(root, 0) + np.asarray(value, dtype="float64")

    def of(self, root: int) -> Array:
        return self._found[root]


def _leaf(node: relay.Expr, dim: int) -> tuple[relay.Expr, int]:
    """Return the parameter that a weight's expression reads, and which of its dimensions ``dim`` is."""
    while isinstance(node, relay.Call):
        if operator_name(node) == "transpose":
            rank = len(node.checked_type.shape)
            dim = int(node.attrs.axes[dim]) % rank if node.attrs.axes else rank - 1 - dim
        node = node.args[0]
    return node, dim


def _decide(
    channels: Channels, table: TaskTable, mode: Mode, max_growth: float | None, cut: bool, scores: _Scores
) -> tuple[dict[int, Index], tuple[Rounding, ...]]:
    """Choose a width for each variable, in the order in which the function makes them.

    Where several sets are read side by side, the last of them makes the sum fit.
    """
    indices: dict[int, Index] = {}
    widths = {root: channels.variables[root].width for root in channels.roots()}
    roundings = []
    for root in channels.roots():
        variable = channels.variables[root]
        new, reason = _new_width(channels, table, mode, max_growth, cut, root, widths)
        if new != variable.width:
            scored = scores.of(root) if new < variable.width else None
            indices[root] = _index(variable.width, new, variable.round_to, scored)
        widths[root] = new
        roundings.append(Rounding(tuple(dict.fromkeys(variable.layers)), variable.width, new, reason))
    return indices, tuple(roundings)


def _new_width(
    channels: Channels,
    table: TaskTable,
    mode: Mode,
    max_growth: float | None,
    cut: bool,
    root: int,
    widths: Mapping[int, int],
) -> tuple[int, str]:
    variable = channels.variables[root]
    width, stop = variable.width, next(iter(variable.stops), "")
    if variable.frozen:
        return width, variable.frozen
    missing = [layer for layer in variable.layers if not table.of_layer(layer)]
    if missing:
        return width, f"the table has no program of {missing[0]}"
    if stop and not cut:
        return width, f"{stop} takes them as they are"
    highest = 2**31 if max_growth is None else int(width * (1 + max_growth) + 1e-9)
    readers = _readers(channels, root)
    for own, relax in ((False, False), (True, False), (False, True), (True, True)):
        chosen = [reader for reader in readers if reader.side == "out" or not own]
        every = [c for r in chosen for c in _constraints(channels, r, table, root, widths, relax)]
        # No further than to where every product fits at once.
        top = min(highest, width + variable.round_to * int(np.lcm.reduce([1, *(c[2] for c in every)])))
        up = fitting_width(width, width, top, variable.round_to, every) if mode != "down" else 0
        down = fitting_width(width, width, 1, variable.round_to, every) if mode != "up" and not stop else 0
        found = [each for each in (up, down) if each]
        if found:
            new = min(found, key=lambda each: (abs(each - width), -each))
            what = "its own program" if own else "every program"
            with_change = " with one inner length changed" if relax else ""
            return new, f"fits {what}{with_change}" + (" already" if new == width else "")
    if mode == "down" and stop:
        return width, f"{stop} takes them as they are"
    return width, "no width within the limit fits"


def _readers(channels: Channels, root: int) -> list[Reader]:
    """Return the anchors that constrain ``root``: those of whose channels it is the last.

    The others were decided before. A depthwise convolution makes as many channels as it reads; it wants each
    set to fit by itself, or the last one could not make up for the others and fit its own layer, too.
    """
    found = []
    for reader in channels.readers:
        roots = [channels.find(s.variable) for s in reader.segments if s.variable is not None]
        if roots and max(roots) == root:
            found.append(reader)
        elif root in roots and reader.side == "out":
            own = tuple(s for s in reader.segments if s.variable is not None)
            alone = tuple(s for s in own if channels.find(s.variable) == root)  # type: ignore[arg-type]
            found.append(replace(reader, segments=alone))
    return found


def _constraints(
    channels: Channels, reader: Reader, table: TaskTable, root: int, widths: Mapping[int, int], relax: bool
) -> list[tuple[int, int, int]]:
    """Return what a width must fulfil for an anchor's programs, as ``fitting_width`` takes it."""
    extent = scale = 0
    for segment in reader.segments:
        at = None if segment.variable is None else channels.find(segment.variable)
        extent += segment.scale * (segment.channels if at is None else widths[at])
        scale += segment.scale if at == root else 0
    products = products_of(reader.layer, reader.side, reader.groups, table, relax)
    return [(extent, scale, product) for product in sorted(products)]


def _index(width: int, new: int, round_to: int, scores: Array | None) -> Index:
    """Return which old channel stands at each new position. Each of ``round_to`` blocks changes alike."""
    block, new_block = width // round_to, new // round_to
    if scores is None:
        inside = np.concatenate([np.arange(block), np.full(new_block - block, -1)])
    else:
        by_position = np.asarray(scores).reshape(round_to, block).sum(0)
        inside = np.sort(np.argsort(-by_position, kind="stable")[:new_block])
    blocks = [np.where(inside < 0, -1, inside + i * block) for i in range(round_to)]
    return np.concatenate(blocks).astype("int64")
