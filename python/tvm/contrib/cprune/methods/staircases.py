# SPDX-License-Identifier: Apache-2.0
"""Latencies of layers over their widths, and a model of their sum.

A staircase has the latencies of all layers that use a group's channels while only that group is narrower. A
layer between two groups depends on both: its latency is assumed to shrink by the product of both ratios.
Measured candidates correct this assumption at similar widths. It can be wrong by a factor of two where both
groups are narrow, and right elsewhere: the cost of Winograd's transforms depends on one of the groups only.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from tvm.contrib.cprune.methods.solver import Cost, WidthChoice
from tvm.contrib.cprune.numerics import Array

# Largest part of a layer's latency that more than two groups can save together.
MAX_SAVING = 0.9
# How fast the influence of a measurement falls with the distance of its widths.
DISTANCE_POWER = 4


@dataclass(frozen=True)
class Staircase:
    """Latencies of layers at some widths of one group.

    Attributes
    ----------
    root
        The group.
    widths
        In descending order; the first is the group's own.
    seconds
        For each layer that uses the channels, its latency at each width.
    """

    root: str
    widths: tuple[int, ...]
    seconds: Mapping[str, tuple[float, ...]]

    @classmethod
    def from_event(cls, event: Mapping[str, Any]) -> "Staircase":
        """Return the staircase in a journal's event."""
        seconds = {layer: tuple(values) for layer, values in event["layers_s"].items()}
        return cls(event["root"], tuple(event["widths"]), seconds)


@dataclass(frozen=True)
class LatencyModel:
    """Predicts the sum of the latencies of a model's layers from staircases.

    Attributes
    ----------
    staircases
        One per group.
    base
        Seconds of every layer of the unpruned model.
    ratios
        For a layer of more than two groups, the measured saving over the sum of the groups' savings.
    measured
        Latencies of layers of one or two groups at measured choices, by layer and indices of the widths.
    """

    staircases: tuple[Staircase, ...]
    base: Mapping[str, float]
    ratios: Mapping[str, float] = field(default_factory=dict)
    measured: Mapping[tuple[str, tuple[int, ...]], float] = field(default_factory=dict)

    def problem(self, values: Mapping[str, Array]) -> WidthChoice:
        """Return the choice of widths, given the importance that remains at each width of every group."""
        costs: list[Cost] = []
        constant = 0.0
        for layer, base in self.base.items():
            used = self._of_layer(layer)
            if 1 <= len(used) <= 2:
                table = self._table(layer, used)
                costs.append(Cost(tuple(s.root for s in used), table))
                continue
            # A table of more than two groups would be too large: their savings are added instead.
            constant += base
            savings = [saved * self._share(layer, used) for saved in self._savings(layer, used)]
            costs += [Cost((s.root,), -saved) for s, saved in zip(used, savings, strict=True)]
        return WidthChoice(values, tuple(costs), constant)

    def corrected(self, choice: Mapping[str, int], layers: Mapping[str, float]) -> "LatencyModel":
        """Return the model after a measurement.

        Parameters
        ----------
        choice
            Index of the width by root of the group.
        layers
            Seconds of each layer.
        """
        ratios, measured = dict(self.ratios), dict(self.measured)
        for layer, actual in layers.items():
            used = self._of_layer(layer)
            indices = tuple(choice[s.root] for s in used)
            if len(used) > 2:
                savings = zip(self._savings(layer, used), indices, strict=True)
                total = float(sum(saved[i] for saved, i in savings))
                if total > 0:
                    ratios[layer] = max(0.0, self.base[layer] - actual) / total
            else:
                measured[layer, indices] = actual
        return replace(self, ratios=ratios, measured=measured)

    def _of_layer(self, layer: str) -> list[Staircase]:
        return [staircase for staircase in self.staircases if layer in staircase.seconds]

    def _savings(self, layer: str, used: Sequence[Staircase]) -> list[Array]:
        """Return the seconds that a layer saves at each width of every group alone."""
        return [self.base[layer] * (1 - np.array(s.seconds[layer]) / s.seconds[layer][0]) for s in used]

    def _share(self, layer: str, used: Sequence[Staircase]) -> float:
        """Return the part of the savings of more than two groups that counts.

        It is the measured one, but at most such that all groups together save ``MAX_SAVING`` of the layer.
        """
        largest = sum(float(saved.max()) for saved in self._savings(layer, used))
        ratio = self.ratios.get(layer, 1.0)
        return min(ratio, MAX_SAVING * self.base[layer] / largest) if largest > 0 else ratio

    def _table(self, layer: str, used: Sequence[Staircase]) -> Array:
        """Return the latency of a layer at every choice of the widths of one or two groups."""
        kept = [np.array(s.seconds[layer]) / s.seconds[layer][0] for s in used]
        table = self.base[layer] * (kept[0] if len(used) == 1 else np.outer(*kept))
        measured = {indices: seconds for (name, indices), seconds in self.measured.items() if name == layer}
        table = table * _corrections(table, used, measured)
        for indices, seconds in measured.items():
            table[indices] = seconds
        return table


def _corrections(table: Array, used: Sequence[Staircase], measured: Mapping[tuple[int, ...], float]) -> Array:
    """Return factors that correct the predicted latencies of a layer of one or two groups.

    The logarithm of the factor is interpolated between the measured choices and those with a group unpruned.
    There it is 0. Weights fall with the distance of the logarithms of the widths.
    """
    places = np.meshgrid(*(np.log(np.array(s.widths) / s.widths[0]) for s in used), indexing="ij")
    # From the nearest choice with another group unpruned or, of a single group, from the unpruned layer.
    weights = np.sum([_weight(place) for place in places], axis=0)
    errors = np.zeros_like(weights)
    for indices, seconds in measured.items():
        if all(indices):
            weight = _weight(np.sqrt(sum((place - place[indices]) ** 2 for place in places)))
            errors += weight * math.log(seconds / table[indices])
            weights += weight
    return np.exp(errors / weights)


def _weight(distance: Array) -> Array:
    return np.maximum(np.abs(distance), 1e-3) ** -DISTANCE_POWER
