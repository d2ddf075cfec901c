# SPDX-License-Identifier: Apache-2.0
"""Import a ``torch.nn.Module``. Its layers are named by module path."""

import copy
import warnings
from typing import Any

import torch
from tvm.relay.frontend.common import infer_shape

import tvm
from tvm import relay
from tvm.contrib.cprune.importers.relay_model import label_layers, to_relay_model
from tvm.contrib.cprune.importers.torch_graph import lift_tensors
from tvm.contrib.cprune.messages import last_line
from tvm.contrib.cprune.types import CandidateError, RelayModel


def from_torch(model: torch.nn.Module, input_shape: tuple[int, ...], layout: str = "NHWC") -> RelayModel:
    """Trace a model and import it.

    Parameters
    ----------
    model
        The network, or a TorchScript module. A copy is traced on the CPU in evaluation mode.
    input_shape
        Shape of one batch, ``(N, C, H, W)``, which the compiled model keeps whatever ``layout`` is.
    layout
        Layout of the convolutions: "NHWC" for auto_scheduler, "NCHW" for AutoTVM.

    Returns
    -------
    RelayModel
        The model with its parameters as constants.

    Raises
    ------
    CPruneError
        If the model cannot be traced, has an operator that TVM cannot import, or reads a tensor that is
        neither a parameter, a buffer nor a constant.
    """
    return to_relay_model(*import_torch(model, input_shape), tuple(input_shape), layout)


def import_torch(model: torch.nn.Module, input_shape: tuple[int, ...]) -> tuple[tvm.IRModule, dict[str, Any]]:
    """Return a model as an NCHW Relay module with labeled layers, and its parameters by name.

    A parameter or buffer has the name that ``named_parameters`` or ``named_buffers`` gives it, tied ones the
    first of their names.

    Raises
    ------
    CPruneError
        As ``from_torch``.
    """
    # Otherwise the parameters of a copied TorchScript model are not leaves, and PyTorch warns about them.
    with torch.no_grad():
        plain = copy.deepcopy(model).cpu().eval()
    try:
        with warnings.catch_warnings(), torch.no_grad():
            warnings.simplefilter("ignore")
            mod, params = _import(plain, tuple(input_shape))
    except (RuntimeError, NotImplementedError, tvm.error.TVMError, AssertionError) as error:
        raise CandidateError(
            f"cannot import {type(model).__name__} for input {input_shape}: {last_line(error)}"
        ) from error
    return label_layers(mod), params


def _import(model: torch.nn.Module, input_shape: tuple[int, ...]) -> tuple[tvm.IRModule, dict[str, Any]]:
    traced = model
    if not isinstance(traced, torch.jit.ScriptModule):
        traced = torch.jit.trace(model, torch.zeros(input_shape), check_trace=False)
    lifted = lift_tensors(traced, model)
    converters = {"aten::linear": _linear}
    mod, _ = relay.frontend.from_pytorch(
        lifted, lifted.input_infos(input_shape), custom_convert_map=converters
    )
    params = {name: tvm.nd.array(tensor.numpy()) for name, tensor in lifted.tensors.items()}
    return tvm.IRModule({"main": mod["main"]}), params


def _linear(inputs: list[Any], _: list[str]) -> relay.Expr:
    """Convert ``aten::linear`` to one dense layer over all leading dimensions of its input.

    TVM's own converter repeats the weight for each row of a feature map, and multiplies batches of matrices.
    """
    data, weight, bias = inputs
    shape, (units, _) = infer_shape(data), infer_shape(weight)
    rows = data if len(shape) == 2 else relay.reshape(data, (-1, shape[-1]))
    result = relay.nn.dense(rows, weight, units=units)
    if isinstance(bias, relay.Expr):
        result = relay.nn.bias_add(result, bias, axis=-1)
    return result if len(shape) == 2 else relay.reshape(result, (*shape[:-1], units))
