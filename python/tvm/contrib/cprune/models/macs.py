# SPDX-License-Identifier: Apache-2.0
"""Multiply-accumulates of a model at other widths, by arithmetic instead of surgery."""

from collections.abc import Mapping
from dataclasses import dataclass

import torch

from tvm.contrib.cprune.models.groups import Groups
from tvm.contrib.cprune.models.layers import channels, is_depthwise
from tvm.contrib.cprune.models.surgery import layer_macs
from tvm.contrib.cprune.types import Side


@dataclass(frozen=True)
class LayerMacs:
    """Multiply-accumulates of a layer, and the numbers of channels that they are proportional to."""

    macs: int
    channels: dict[Side, int]


@dataclass(frozen=True)
class MacCounter:
    """Counts the multiply-accumulates of one inference at any widths of a model's channel groups."""

    layers: dict[str, LayerMacs]
    groups: Groups

    @classmethod
    def of(cls, model: torch.nn.Module, input_shape: tuple[int, ...], groups: Groups) -> "MacCounter":
        """Run a model once and return its counter.

        Parameters
        ----------
        groups
            The model's channel groups, at its current widths.
        """
        macs = layer_macs(model, input_shape)
        sizes = {name: _channels(model.get_submodule(name)) for name in macs}
        return cls({name: LayerMacs(macs[name], sizes[name]) for name in macs}, groups)

    def count(self, widths: Mapping[str, int]) -> int:
        """Return the multiply-accumulates at some widths.

        Parameters
        ----------
        widths
            Number of channels by root of the group; other groups keep their width.
        """
        lost: dict[tuple[str, Side], int] = {}
        for group in self.groups.groups:
            removed = group.width - widths.get(group.root, group.width)
            for member in group.members:
                key = (member.layer, member.side)
                lost[key] = lost.get(key, 0) + removed * member.scale
        return sum(self._count(name, lost) for name in self.layers)

    def _count(self, name: str, lost: Mapping[tuple[str, Side], int]) -> int:
        layer = self.layers[name]
        macs = layer.macs
        for side, width in layer.channels.items():
            macs = macs * (width - lost.get((name, side), 0)) // width
        return macs


def _channels(layer: torch.nn.Module) -> dict[Side, int]:
    """Return the layer's numbers of channels; only the outputs of a depthwise convolution."""
    outputs, inputs = channels(layer)
    return {"out": outputs} if is_depthwise(layer) else {"out": outputs, "in": inputs}
