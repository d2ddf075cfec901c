# SPDX-License-Identifier: Apache-2.0
"""Saved weights of pruned models, and a model of the same architecture resized to hold them."""

import copy
import hashlib
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import torch

from tvm.contrib.cprune.files import replaced
from tvm.contrib.cprune.types import CPruneError


def save_checkpoint(run_dir: Path, name: str, model: torch.nn.Module) -> str:
    """Save a model's weights as ``checkpoints/<name>.pt``, whole or not at all; return the name."""
    with replaced(run_dir / "checkpoints" / f"{name}.pt") as aside:
        torch.save(model.state_dict(), aside)
    return name


def digest(model: torch.nn.Module) -> str:
    """Return a SHA-256 of a model's weights: what a resumed run must share."""
    found = hashlib.sha256()
    for name, value in model.state_dict().items():
        found.update(name.encode())
        found.update(value.detach().cpu().contiguous().numpy().tobytes())
    return found.hexdigest()


def load_checkpoint(run_dir: Path, name: str, architecture: torch.nn.Module) -> torch.nn.Module:
    """Return a copy of ``architecture`` with the widths and weights of a run's checkpoint (see
    ``load_weights``)."""
    return load_weights(run_dir / "checkpoints" / f"{name}.pt", architecture)


def load_weights(path: Path, architecture: torch.nn.Module) -> torch.nn.Module:
    """Return a copy of ``architecture`` with the widths and weights of a saved state dict.

    Raises
    ------
    CPruneError
        If the file is missing, damaged, or of another architecture.
    """
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except OSError as error:
        raise CPruneError(f"cannot read checkpoint {path}: {error.strerror}") from None
    except (RuntimeError, ValueError, EOFError, KeyError, UnpicklingError):
        raise CPruneError(
            f"cannot read checkpoint {path}: it is no file of weights alone, or damaged"
        ) from None
    return with_weights(architecture, state)


def with_weights(architecture: torch.nn.Module, state: dict[str, Any]) -> torch.nn.Module:
    """Return a copy of ``architecture`` whose layers are as wide as the weights in ``state``, and hold
    them."""
    model = copy.deepcopy(architecture)
    if model.state_dict().keys() != state.keys():
        odd = sorted(model.state_dict().keys() ^ state.keys())
        raise CPruneError(f"the weights are of another architecture: {', '.join(odd[:3])} only on one side")
    for name, module in model.named_modules():
        for key, tensor in [*module.named_parameters(recurse=False), *module.named_buffers(recurse=False)]:
            new = state[f"{name}.{key}" if name else key]
            if tensor.shape != new.shape:
                empty = torch.empty_like(new)
                setattr(
                    module,
                    key,
                    torch.nn.Parameter(empty) if isinstance(tensor, torch.nn.Parameter) else empty,
                )
        _set_widths(module)
    model.load_state_dict(state)
    return model


def _set_widths(module: torch.nn.Module) -> None:
    """Bring a layer's own numbers in line with the shapes of its parameters."""
    if isinstance(module, torch.nn.Conv2d):
        outputs, per_group = module.weight.shape[:2]
        if module.groups == module.in_channels > 1 and per_group == 1:
            module.groups = outputs * module.in_channels // module.out_channels
        module.out_channels, module.in_channels = outputs, per_group * module.groups
    elif isinstance(module, torch.nn.Linear):
        module.out_features, module.in_features = module.weight.shape
    elif isinstance(module, torch.nn.modules.batchnorm._BatchNorm) and module.weight is not None:
        module.num_features = module.weight.shape[0]
