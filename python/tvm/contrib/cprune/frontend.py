# SPDX-License-Identifier: Apache-2.0
"""A ``torch.nn.Module`` in, a ``RelayModel`` out, its layers named by module path."""

import copy
import warnings

import torch
import tvm
from tvm import relay
from tvm.relay import transform as relay_transform

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
            traced = torch.jit.trace(plain, torch.zeros(input_shape))
            mod, params = relay.frontend.from_pytorch(traced, [(INPUT, input_shape)], preserve_pytorch_scopes=True)
    except (RuntimeError, NotImplementedError, tvm.error.TVMError, AssertionError) as error:
        lines = str(error).strip().splitlines() or [type(error).__name__]
        raise CPruneError(f"cannot import {type(model).__name__} for input {input_shape}: {lines[-1]}") from error
    mod = tvm.IRModule({"main": mod["main"]})
    if layout != "NCHW":
        with tvm.transform.PassContext(opt_level=3):
            # A bias_add would end the new layout; an add of the same bias takes it on.
            biases, layouts = relay_transform.CanonicalizeOps(), {"nn.conv2d": [layout, "default"]}
            passes = [relay_transform.InferType(), biases, relay_transform.ConvertLayout(layouts)]
            mod = tvm.transform.Sequential(passes)(mod)
    mod = prepare(mod, params)
    return RelayModel(mod, tuple(input_shape), anchor_layers(mod))
