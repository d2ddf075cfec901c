# SPDX-License-Identifier: Apache-2.0
"""Rounding of a model's channels to widths that its tuned programs fit.

A model that was pruned without its compiler has widths that no tile factor divides. Rounding up adds channels
of zeros, which pass through the operators between two anchors and meet weights of zero. Rounding down drops
the least important channels.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

import tvm
from tvm import relay
from tvm.contrib.cprune.table import TaskTable
from tvm.contrib.cprune.transform.numpy_eval import Array
from tvm.contrib.cprune.transform.rounding.channel_layout import SourceIndex
from tvm.contrib.cprune.transform.rounding.channels import Channels
from tvm.contrib.cprune.transform.rounding.rewriter import ChannelRewriter
from tvm.contrib.cprune.transform.rounding.scores import channel_scores, source_index
from tvm.contrib.cprune.transform.rounding.widths import Mode, RoundingOptions, WidthChooser
from tvm.contrib.cprune.types import CPruneError


@dataclass(frozen=True)
class Rounding:
    """The old and new width of the channels that some layers share, and the reason."""

    layers: tuple[str, ...]
    width: int
    new_width: int
    reason: str

    @property
    def changed(self) -> bool:
        return self.width != self.new_width


@dataclass(frozen=True)
class Rounded:
    """A rounded function, and the new values of its parameters that are variables."""

    function: relay.Function
    parameters: dict[str, Array]
    roundings: tuple[Rounding, ...]


def round_function(
    function: relay.Function,
    table: TaskTable,
    options: RoundingOptions,
    scores: Mapping[str, Array] | None = None,
    parameters: Mapping[str, Array] | None = None,
) -> Rounded:
    """Round the channels of a typed Relay function (see ``RoundChannels``).

    Parameters
    ----------
    function
        A typed function with labeled layers.
    table
        Tuned programs by layer, at any widths.
    options
        How far and in which direction to round.
    scores
        Importance of each output channel by layer.
    parameters
        Values of the function's variables that are weights.

    Raises
    ------
    CPruneError
        If the table has none of the function's layers.
    """
    values = {name: np.asarray(value) for name, value in (parameters or {}).items()}
    channels = Channels(function, values)
    _require_layers(channels, table)
    importance = channel_scores(function, channels, values, scores or {})
    chooser = WidthChooser(channels, table, options)
    sources: dict[int, SourceIndex] = {}
    roundings = []
    for root in channels.roots():
        variable = channels.variables[root]
        new_width, reason = chooser.choose(root)
        if new_width != variable.width:
            dropped_by = importance[root] if new_width < variable.width else None
            sources[root] = source_index(variable.width, new_width, variable.round_to, dropped_by)
        roundings.append(Rounding(tuple(dict.fromkeys(variable.layers)), variable.width, new_width, reason))
    new_function, new_values = ChannelRewriter(channels, sources, values).run(function)
    return Rounded(new_function, new_values, tuple(roundings))


def _require_layers(channels: Channels, table: TaskTable) -> None:
    layers = {reader.layer for reader in channels.readers}
    if not layers or any(table.of_layer(layer) for layer in layers):
        return
    tuned = sorted({layer for row in table.rows for layer in row.task.layers})
    raise CPruneError(
        f"the table belongs to another model: its layers are {', '.join(tuned[:3]) or 'none'} ..., "
        f"those of this model are {', '.join(sorted(layers)[:3])} ..."
    )


@tvm.transform.module_pass(opt_level=0, name="RoundChannels", required=["InferType"])
class RoundChannels:
    """Round the channels of convolution and dense layers to widths that fit the layers' tuned programs.

    The module must have constant weights and labeled layers, as ``from_torch``, ``from_onnx`` and ``prepare``
    return it. The shapes of its inputs and outputs do not change.

    Parameters
    ----------
    table
        Tuned programs by layer, at any widths.
    mode
        "up" adds channels of zeros and keeps the outputs equal. "down" drops channels. "nearest" does what
        changes fewer channels. Channels that an operator such as softmax combines, or that are outputs of the
        model, are never dropped.
    max_growth
        Maximum fraction of a layer's channels to add, None for no limit.
    scores
        Importance of each output channel by layer; by default the l1 norm of its weights.

    Attributes
    ----------
    roundings
        The old and new width of every set of channels with the reason, after the pass ran.

    Raises
    ------
    CPruneError
        If ``mode`` is not supported or ``max_growth`` is negative.
    """

    def __init__(
        self,
        table: TaskTable,
        mode: Mode = "up",
        max_growth: float | None = None,
        scores: Mapping[str, Array] | None = None,
    ) -> None:
        self.table, self.options, self.scores = table, RoundingOptions(mode, max_growth), scores
        self.roundings: tuple[Rounding, ...] = ()

    def transform_module(self, mod: tvm.IRModule, _: Any) -> tvm.IRModule:
        rounded = round_function(mod["main"], self.table, self.options, self.scores)
        self.roundings = rounded.roundings
        return relay.transform.InferType()(tvm.IRModule({"main": rounded.function}))

    if TYPE_CHECKING:  # TVM's decorator adds these, without types
        info: Any

        def __call__(self, mod: tvm.IRModule) -> tvm.IRModule: ...
