# SPDX-License-Identifier: Apache-2.0
"""Checkpoints: the weights of pruned models, loaded into an architecture that is resized to fit them."""

import hashlib
import io
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from tvm.contrib.cprune.files import replaced
from tvm.contrib.cprune.models.layers import set_channels
from tvm.contrib.cprune.models.surgery import copy_model
from tvm.contrib.cprune.types import CPruneError


def save_checkpoint(run_dir: Path, name: str, model: torch.nn.Module) -> str:
    """Save a model's weights atomically as ``<run_dir>/checkpoints/<name>.pt``, and return the name."""
    save_state(run_dir / "checkpoints" / f"{name}.pt", model.state_dict())
    return name


def save_state(path: Path, state: Mapping[str, Any]) -> None:
    """Write a file that ``torch.load`` reads, atomically."""
    # torch.save to a path would report a full disk as a RuntimeError without the cause.
    buffer = io.BytesIO()
    torch.save(state, buffer)
    with replaced(path) as aside:
        aside.write_bytes(buffer.getvalue())


def digest(model: torch.nn.Module) -> str:
    """Return the SHA-256 of a model's weights; a resumed run must have the same."""
    sha256 = hashlib.sha256()
    for name, value in model.state_dict().items():
        sha256.update(name.encode())
        sha256.update(value.detach().cpu().contiguous().numpy().tobytes())
    return sha256.hexdigest()


def load_checkpoint(run_dir: Path, name: str, architecture: torch.nn.Module) -> torch.nn.Module:
    """Load a checkpoint of a run into a copy of ``architecture`` (see ``load_weights``)."""
    return load_weights(run_dir / "checkpoints" / f"{name}.pt", architecture)


def load_weights(path: Path, architecture: torch.nn.Module) -> torch.nn.Module:
    """Load saved weights into a copy of ``architecture``, whose layers are resized to fit them.

    Parameters
    ----------
    path
        A state dict that ``torch.save`` wrote, or a TorchScript file such as the ``model.pt`` of a run.

    Raises
    ------
    CPruneError
        If the file is missing or damaged, or belongs to another architecture.
    """
    state = _read_state(path)
    if not isinstance(state, dict):
        raise CPruneError(f"{path} contains an object of type {type(state).__name__}, expected a state dict")
    for name, value in state.items():
        if not isinstance(value, torch.Tensor):
            raise CPruneError(f"{name!r} in {path} has type {type(value).__name__}, expected a tensor")
    try:
        return with_weights(architecture, state)
    except CPruneError as error:
        raise CPruneError(f"{path}: {error}") from None


def _read_state(path: Path) -> Any:
    """Return what ``torch.save`` wrote, or the state dict of a TorchScript file."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            try:
                return torch.load(path, map_location="cpu", weights_only=True)
            except RuntimeError as error:
                if "TorchScript" not in str(error):
                    raise
                return dict(torch.jit.load(str(path), map_location="cpu").state_dict())
    except OSError as error:
        raise CPruneError(f"cannot read checkpoint {path}: {error.strerror}") from None
    except Exception:  # Almost any type, depending on the file's first bytes.
        raise CPruneError(
            f"cannot read checkpoint {path}: expected a TorchScript file or a state dict of torch.save"
        ) from None


def with_weights(architecture: torch.nn.Module, state: dict[str, Any]) -> torch.nn.Module:
    """Return a copy of ``architecture`` with the weights in ``state``, resized to fit them.

    The copy stays on the architecture's device, and frozen parameters stay frozen.

    Raises
    ------
    CPruneError
        If the names of the weights differ from the architecture's.
    """
    model = copy_model(architecture)
    expected = model.state_dict().keys()
    if expected != state.keys():
        lacking = {"the file lacks": expected - state.keys(), "the network lacks": state.keys() - expected}
        differences = [f"{who} {', '.join(sorted(keys)[:3])}" for who, keys in lacking.items() if keys]
        raise CPruneError(f"the weights belong to another architecture: {'; '.join(differences)}")
    for name, module in model.named_modules():
        for key, tensor in [*module.named_parameters(recurse=False), *module.named_buffers(recurse=False)]:
            weight = state.get(f"{name}.{key}" if name else key)
            if weight is not None and tensor.shape != weight.shape:
                resized = torch.empty(weight.shape, dtype=tensor.dtype, device=tensor.device)
                if isinstance(tensor, torch.nn.Parameter):
                    resized = torch.nn.Parameter(resized, requires_grad=tensor.requires_grad)
                setattr(module, key, resized)
        set_channels(module)
    model.load_state_dict(state)
    return model
