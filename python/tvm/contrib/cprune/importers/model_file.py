# SPDX-License-Identifier: Apache-2.0
"""A model in a file, ONNX or TorchScript: what it computes as Relay, and how it is written with other
weights."""

import argparse
import copy
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import onnx
import torch

from tvm.contrib.cprune.importers.from_onnx import import_onnx, load_onnx, with_parameters
from tvm.contrib.cprune.importers.from_torch import import_torch
from tvm.contrib.cprune.importers.relay_model import to_relay_model
from tvm.contrib.cprune.importers.torch_graph import identity
from tvm.contrib.cprune.tuning.backends import BACKENDS
from tvm.contrib.cprune.types import CPruneError, RelayModel, TunerName


def add_model_arguments(parser: argparse.ArgumentParser) -> None:
    """Add what names a model's file to a command."""
    parser.add_argument("model", type=Path, help="an .onnx file, or a TorchScript .pt file")
    parser.add_argument("--input-shape", help="for a .pt file: the input's, such as 1,3,32,32")


def parse_shape(text: str | None) -> tuple[int, ...]:
    """Return the shape that ``--input-shape`` says, () where it says nothing.

    Raises
    ------
    CPruneError
        If it is no list of positive numbers.
    """
    if text is None:
        return ()
    try:
        shape = tuple(int(size) for size in text.split(","))
    except ValueError:
        shape = ()
    if len(shape) < 2 or min(shape) < 1:
        raise CPruneError(f"--input-shape is {text!r}, expected numbers such as 1,3,32,32")
    return shape


@dataclass(frozen=True)
class ModelFile:
    """A model's file: what it holds as Relay, and how it is written with other weights."""

    mod: Any
    params: dict[str, Any]
    shape: tuple[int, ...]
    source: Any

    @staticmethod
    def load(path: Path, input_shape: tuple[int, ...] = ()) -> "ModelFile":
        """Read a model.

        Parameters
        ----------
        input_shape
            For a TorchScript file, which does not hold it.

        Raises
        ------
        CPruneError
            If it is missing, damaged, of another kind, or has operators that TVM does not import.
        """
        if path.suffix == ".onnx":
            model = load_onnx(path)
            return ModelFile(*import_onnx(model), model)
        if path.suffix not in (".pt", ".pth"):
            raise CPruneError(f"{path} is neither an .onnx nor a .pt file")
        if not input_shape:
            raise CPruneError(
                f"{path} does not say its input's shape: expected --input-shape 1,3,32,32 or so"
            )
        module = _load_script(path)
        return ModelFile(*import_torch(module, input_shape), input_shape, module)

    def save(self, values: dict[str, Any], path: Path) -> None:
        """Write the model with new values for some of its weights."""
        if isinstance(self.source, onnx.ModelProto):
            onnx.save(with_parameters(self.source, values), str(path))
            return
        # A copy: the model that was read stays what it was.
        module = copy.deepcopy(self.source)
        state = module.state_dict(keep_vars=True)
        keys = {name: identity(tensor) for name, tensor in state.items()}
        for name, value in values.items():
            for tied in [other for other, key in keys.items() if key == keys[name]]:
                state[tied].data = torch.from_numpy(value)
        torch.jit.save(module, str(path))

    def relay(self, tuner: TunerName) -> RelayModel:
        """Return the model in the layout that a tuner wants."""
        return to_relay_model(self.mod, self.params, self.shape, BACKENDS[tuner].layout)


def _load_script(path: Path) -> torch.jit.ScriptModule:
    try:
        return torch.jit.load(str(path), map_location="cpu").eval()
    except (RuntimeError, ValueError) as error:
        if not path.exists():
            raise CPruneError(f"cannot read {path}: no such file") from None
        raise CPruneError(
            f"{path} is not a TorchScript file, as torch.jit.save or a run of CPrune writes it: "
            f"{str(error).splitlines()[0]}"
        ) from None
