# SPDX-License-Identifier: Apache-2.0
"""NNI 2.x config lists: which layers to prune, and how far."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch

from tvm.contrib.cprune.models.layers import PRUNABLE_LAYERS
from tvm.contrib.cprune.types import CPruneError

KEYS = ("exclude", "op_names", "op_types", "sparsity")


def read_config_list(model: torch.nn.Module, config_list: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Translate an NNI ``config_list`` into settings of ``PruneConfig``.

    Parameters
    ----------
    config_list
        Entries in order; a later entry overrides earlier ones. An entry applies to the convolutions and
        linear layers whose class is in ``op_types`` ("default" for both) and whose name is in ``op_names``;
        a missing key matches every layer. ``sparsity`` is the maximum fraction of a layer's channels to
        prune; ``exclude`` protects the layer and the layers coupled to it. An empty list prunes every layer
        with the default settings.

    Returns
    -------
    Keyword arguments of ``PruneConfig``: ``include``, ``exclude`` and ``layer_sparsity``, or none for an
    empty list.

    Raises
    ------
    CPruneError
        If an entry has an unknown key, no valid sparsity, or a layer that the model does not have, or if
        every layer is excluded.
    """
    layers = {name: module for name, module in model.named_modules() if isinstance(module, PRUNABLE_LAYERS)}
    sparsities: dict[str, float] = {}
    excluded: set[str] = set()
    for entry in config_list:
        unknown = sorted(set(entry) - set(KEYS))
        if unknown:
            raise CPruneError(f"unknown key {unknown[0]!r} in config_list; expected {', '.join(KEYS)}")
        matching = _matching_layers(entry, layers)
        if entry.get("exclude"):
            sparsities = {name: value for name, value in sparsities.items() if name not in matching}
            excluded.update(matching)
            continue
        sparsity = entry.get("sparsity")
        if not isinstance(sparsity, int | float) or not 0 < sparsity < 1:
            raise CPruneError(f"sparsity is {sparsity!r} in config_list; expected a number between 0 and 1")
        sparsities.update(dict.fromkeys(matching, float(sparsity)))
        excluded.difference_update(matching)
    if config_list and not sparsities:
        raise CPruneError("config_list leaves no layer to prune: remove an exclude or add an entry")
    if not sparsities:
        return {}
    return {
        "include": tuple(sparsities),
        "exclude": tuple(name for name in layers if name in excluded),
        "layer_sparsity": tuple(sparsities.items()),
    }


def _matching_layers(entry: Mapping[str, Any], layers: Mapping[str, torch.nn.Module]) -> list[str]:
    """Return the layers that an entry applies to."""
    names = entry.get("op_names")
    unknown = sorted(set(names or ()) - set(layers))
    if unknown:
        raise CPruneError(
            f"unknown layer {unknown[0]!r} in config_list; expected some of {', '.join(layers)}"
        )
    types = entry.get("op_types", ("default",))
    return [
        name
        for name, module in layers.items()
        if (names is None or name in names) and ("default" in types or type(module).__name__ in types)
    ]
