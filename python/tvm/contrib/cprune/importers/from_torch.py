# SPDX-License-Identifier: Apache-2.0
"""A ``torch.nn.Module`` in, a ``RelayModel`` out, its layers named by module path."""

import copy
import warnings
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from tvm.relay import transform as relay_transform

import tvm
from tvm import relay
from tvm.contrib.cprune.transform.simplify import LabelLayers, anchor_layers, prepare
from tvm.contrib.cprune.types import INPUT, CPruneError, RelayModel


def from_torch(model: torch.nn.Module, input_shape: tuple[int, ...], layout: str = "NHWC") -> RelayModel:
    """Trace a model and import it.

    Parameters
    ----------
    model
        The network, or a TorchScript module; it is copied and traced in evaluation mode, on the CPU.
    input_shape
        Shape of one batch, ``(N, C, H, W)``; the compiled model takes this layout whatever ``layout`` is.
    layout
        Layout of the convolutions inside: "NHWC" for auto_scheduler, "NCHW" for AutoTVM.

    Raises
    ------
    CPruneError
        If the model cannot be traced, or holds an operator that TVM cannot import.
    """
    return to_relay_model(*import_torch(model, input_shape), tuple(input_shape), layout)


def import_torch(model: torch.nn.Module, input_shape: tuple[int, ...]) -> tuple[tvm.IRModule, dict[str, Any]]:
    """Return a model as Relay imports it, in NCHW, its layers named, and its parameters by name.

    Raises
    ------
    CPruneError
        If the model cannot be traced, or holds an operator that TVM cannot import.
    """
    plain = copy.deepcopy(model).cpu().eval()
    try:
        with warnings.catch_warnings(), torch.no_grad():
            warnings.simplefilter("ignore")
            mod, params = _import(plain, tuple(input_shape))
    except (RuntimeError, NotImplementedError, tvm.error.TVMError, AssertionError) as error:
        lines = str(error).strip().splitlines() or [type(error).__name__]
        raise CPruneError(
            f"cannot import {type(model).__name__} for input {input_shape}: {lines[-1]}"
        ) from error
    return named(mod), params


def named(mod: tvm.IRModule) -> tvm.IRModule:
    """Return an imported module with types, its layers named by the weights they read."""
    passes = [relay_transform.InferType(), LabelLayers(), relay_transform.InferType()]
    return tvm.transform.Sequential(passes)(mod)


def to_relay_model(
    mod: tvm.IRModule, params: Mapping[str, Any], input_shape: tuple[int, ...], layout: str
) -> RelayModel:
    """Return an imported module as CPrune works on it: in ``layout``, its parameters folded."""
    if layout != "NCHW":
        with tvm.transform.PassContext(opt_level=3):
            # A bias_add would end the new layout; an add of the same bias takes it on.
            biases, layouts = relay_transform.CanonicalizeOps(), {"nn.conv2d": [layout, "default"]}
            passes = [relay_transform.InferType(), biases, relay_transform.ConvertLayout(layouts)]
            mod = tvm.transform.Sequential(passes)(mod)
    mod = prepare(mod, params)
    return RelayModel(mod, tuple(input_shape), anchor_layers(mod))


def _import(model: torch.nn.Module, input_shape: tuple[int, ...]) -> tuple[tvm.IRModule, dict[str, Any]]:
    """Import a model so that each parameter has the name that ``state_dict`` gives it.

    TVM names a parameter after the module whose ``forward`` was running. Where a layer is used a second time,
    or one module reads another's weight, that is no name or a wrong one; the values tell. A module that comes
    out of a file has lost what was running.
    """
    if isinstance(model, torch.jit.ScriptModule):
        return _import_marked(model, input_shape)
    traced = torch.jit.trace(model, torch.zeros(input_shape))
    mod, params = relay.frontend.from_pytorch(traced, [(INPUT, input_shape)], preserve_pytorch_scopes=True)
    state = model.state_dict()
    if all(
        name in state and np.array_equal(state[name].numpy(), value.numpy()) for name, value in params.items()
    ):
        return tvm.IRModule({"main": mod["main"]}), params
    return _import_marked(model, input_shape)


def _traced(model: torch.nn.Module, input_shape: tuple[int, ...]) -> torch.jit.ScriptModule:
    if isinstance(model, torch.jit.ScriptModule):
        return model
    return torch.jit.trace(model, torch.zeros(input_shape))


def _import_marked(
    model: torch.nn.Module, input_shape: tuple[int, ...]
) -> tuple[tvm.IRModule, dict[str, Any]]:
    """Import a model twice, once with every tensor filled with a number of its own, which then names it."""
    names = [name for name, value in model.state_dict().items() if value.is_floating_point()]
    marked = copy.deepcopy(model)
    state = marked.state_dict()
    for number, name in enumerate(names, 1):
        state[name].fill_(number)
    imported = [
        relay.frontend.from_pytorch(_traced(each, input_shape), [(INPUT, input_shape)])
        for each in (marked, model)
    ]
    (_, numbers), (mod, params) = imported
    found = {key: names[round(float(value.numpy().flat[0])) - 1] for key, value in numbers.items()}
    main = mod["main"]
    new = {
        name: relay.var(name, shape=params[key].shape, dtype=params[key].dtype) for key, name in found.items()
    }
    # The importer gives each use of a parameter a variable of its own; one name is one variable again.
    values = {var: new[found[str(var.name_hint)]] for var in main.params[1:]}
    body = relay.bind(main.body, values)
    function = relay.Function([main.params[0], *new.values()], body)
    return tvm.IRModule({"main": function}), {found[key]: value for key, value in params.items()}
