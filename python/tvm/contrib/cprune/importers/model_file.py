# SPDX-License-Identifier: Apache-2.0
"""Models in ONNX and TorchScript files: import them to Relay, and save them with other weights."""

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
from tvm.contrib.cprune.messages import first_line
from tvm.contrib.cprune.tuning.backends import BACKENDS
from tvm.contrib.cprune.types import CPruneError, RelayModel, TunerName


def add_model_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments that name a model file to a command."""
    parser.add_argument("model", type=Path, help="ONNX file (.onnx) or TorchScript file (.pt, .pth)")
    parser.add_argument("--input-shape", help="input shape of a TorchScript model, such as 1,3,32,32")


def parse_shape(text: str | None) -> tuple[int, ...]:
    """Return the value of ``--input-shape``, () if the option is missing.

    Raises
    ------
    CPruneError
        If the value is not a list of two or more positive integers.
    """
    if text is None:
        return ()
    try:
        shape = tuple(int(size) for size in text.split(","))
    except ValueError:
        shape = ()
    if len(shape) < 2 or min(shape) < 1:
        raise CPruneError(f"--input-shape is {text!r}, expected positive integers such as 1,3,32,32")
    return shape


@dataclass(frozen=True)
class ModelFile:
    """The model in a file.

    Attributes
    ----------
    mod, params
        The model as an NCHW Relay module with labeled layers, and its parameters by name.
    shape
        Input shape.
    source
        The model in the file's format.
    """

    mod: Any
    params: dict[str, Any]
    shape: tuple[int, ...]
    source: Any

    @staticmethod
    def load(path: Path, input_shape: tuple[int, ...] = ()) -> "ModelFile":
        """Load a model file.

        Parameters
        ----------
        path
            An .onnx, .pt or .pth file.
        input_shape
            Input shape of a TorchScript model, which its file does not store.

        Raises
        ------
        CPruneError
            If the file is missing, damaged or of another format, or has operators that TVM cannot import.
        """
        if path.suffix == ".onnx":
            model = load_onnx(path)
            return ModelFile(*import_onnx(model), model)
        if path.suffix not in (".pt", ".pth"):
            raise CPruneError(f"{path} has an unsupported format: expected an .onnx or .pt file")
        if not input_shape:
            raise CPruneError(
                f"{path} has no input shape: set --input-shape, such as --input-shape 1,3,32,32"
            )
        module = _load_script(path)
        return ModelFile(*import_torch(module, input_shape), input_shape, module)

    def save(self, values: dict[str, Any], path: Path) -> None:
        """Save the model with new values for some of its parameters."""
        if isinstance(self.source, onnx.ModelProto):
            onnx.save(with_parameters(self.source, values), str(path))
            return
        # Keep the loaded model unchanged.
        module = copy.deepcopy(self.source)
        state = module.state_dict(keep_vars=True)
        keys = {name: identity(tensor) for name, tensor in state.items()}
        for name, value in values.items():
            for tied in [other for other, key in keys.items() if key == keys[name]]:
                state[tied].data = torch.from_numpy(value)
        torch.jit.save(module, str(path))

    def relay(self, tuner: TunerName) -> RelayModel:
        """Return the model in the layout that a tuner requires."""
        return to_relay_model(self.mod, self.params, self.shape, BACKENDS[tuner].layout)


def _load_script(path: Path) -> torch.jit.ScriptModule:
    try:
        return torch.jit.load(str(path), map_location="cpu").eval()
    except (RuntimeError, ValueError) as error:
        if not path.exists():
            raise CPruneError(f"cannot read {path}: no such file") from None
        raise CPruneError(
            f"{path} is not a TorchScript file from torch.jit.save or from a run of CPrune: "
            f"{first_line(error)}"
        ) from None
