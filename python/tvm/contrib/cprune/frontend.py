# SPDX-License-Identifier: Apache-2.0
"""A ``torch.nn.Module`` in, a ``RelayModel`` out, its layers named by module path."""

import copy
import warnings
from typing import Any

import numpy as np
import torch
from tvm.relay import transform as relay_transform

import tvm
from tvm import relay
from tvm.contrib.cprune.transform import anchor_layers, prepare
from tvm.contrib.cprune.types import CPruneError, RelayModel

INPUT = "data"


def from_torch(model: torch.nn.Module, input_shape: tuple[int, ...], layout: str = "NHWC") -> RelayModel:
    """Trace a model and import it.

    Parameters
    ----------
    model
        The network; it is copied and traced in evaluation mode, on the CPU.
    input_shape
        Shape of one batch, ``(N, C, H, W)``; the compiled model takes this layout whatever ``layout`` is.
    layout
        Layout of the convolutions inside: "NHWC" for auto_scheduler, "NCHW" for AutoTVM.

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
    or one module reads another's weight, that is no name or a wrong one; the values tell.
    """
    traced = torch.jit.trace(model, torch.zeros(input_shape))
    mod, params = relay.frontend.from_pytorch(traced, [(INPUT, input_shape)], preserve_pytorch_scopes=True)
    state = model.state_dict()
    if all(
        name in state and np.array_equal(state[name].numpy(), value.numpy()) for name, value in params.items()
    ):
        return tvm.IRModule({"main": mod["main"]}), params
    return _import_marked(model, input_shape)


def _import_marked(
    model: torch.nn.Module, input_shape: tuple[int, ...]
) -> tuple[tvm.IRModule, dict[str, Any]]:
    """Import a model twice, once with every tensor filled with a number of its own, which then names it."""
    names = [name for name, value in model.state_dict().items() if value.is_floating_point()]
    marked = copy.deepcopy(model)
    for number, name in enumerate(names, 1):
        marked.state_dict()[name].fill_(number)
    imported = []
    for each in (marked, model):
        traced = torch.jit.trace(each, torch.zeros(input_shape))
        imported.append(relay.frontend.from_pytorch(traced, [(INPUT, input_shape)]))
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
