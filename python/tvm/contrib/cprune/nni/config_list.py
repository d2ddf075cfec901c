# SPDX-License-Identifier: Apache-2.0
"""What to prune as NNI 2.x spells it: a list of entries, each for some layers."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch

from tvm.contrib.cprune.types import CPruneError

KEYS = ("exclude", "op_names", "op_types", "sparsity")
_LAYERS = (torch.nn.Conv2d, torch.nn.Linear)


def read_config_list(model: torch.nn.Module, config_list: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Return the settings of ``PruneConfig`` that a ``config_list`` asks for.

    Entries are read in order; a later one overrides what an earlier one said about a layer. One applies to
    the convolutions and linear layers whose class is among its ``op_types`` ("default" is both) and whose
    name is among its ``op_names``, where it has these. ``sparsity`` is the most that may go of such a layer,
    ``exclude`` leaves it alone. An empty list means every layer.

    Raises
    ------
    CPruneError
        If an entry has another key, lacks a sparsity, or names no layer of the model.
    """
    layers = {name: module for name, module in model.named_modules() if isinstance(module, _LAYERS)}
    chosen: dict[str, float] = {}
    for entry in config_list:
        unknown = sorted(set(entry) - set(KEYS))
        if unknown:
            raise CPruneError(f"config_list has {unknown[0]!r}; expected {', '.join(KEYS)}")
        found = _layers_of(entry, layers)
        if entry.get("exclude"):
            chosen = {name: value for name, value in chosen.items() if name not in found}
            continue
        sparsity = entry.get("sparsity")
        if not isinstance(sparsity, int | float) or not 0 < sparsity < 1:
            raise CPruneError(f"config_list has sparsity {sparsity!r}, expected a number between 0 and 1")
        chosen.update(dict.fromkeys(found, float(sparsity)))
    if config_list and not chosen:
        raise CPruneError("config_list leaves no layer to prune")
    return {"include": tuple(chosen), "layer_sparsity": tuple(chosen.items())} if chosen else {}


def _layers_of(entry: Mapping[str, Any], layers: Mapping[str, torch.nn.Module]) -> list[str]:
    names = entry.get("op_names")
    unknown = sorted(set(names or ()) - set(layers))
    if unknown:
        raise CPruneError(f"config_list names {unknown[0]!r}; the model's layers are {', '.join(layers)}")
    types = entry.get("op_types", ("default",))
    return [
        name
        for name, module in layers.items()
        if (names is None or name in names) and ("default" in types or type(module).__name__ in types)
    ]
