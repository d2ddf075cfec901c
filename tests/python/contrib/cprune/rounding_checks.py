# SPDX-License-Identifier: Apache-2.0
"""Rounds the channels of a network, and compares its outputs before and after."""

import numpy as np
import torch
from torch import nn

import tvm
from tvm import relay
from tvm.contrib import graph_executor
from tvm.contrib.cprune import from_torch
from tvm.contrib.cprune.table import TaskTable
from tvm.contrib.cprune.transform import RoundChannels
from tvm.contrib.cprune.transform.relay_graph import calls_of, layer_of, operator_name

SHAPE = (1, 3, 8, 8)


def run(mod: tvm.IRModule, data: np.ndarray, params: dict | None = None) -> np.ndarray:
    """Return the outputs of a plain TVM build."""
    with tvm.transform.PassContext(opt_level=1):
        library = relay.build(mod, "llvm", params=params)
    model = graph_executor.GraphModule(library["default"](tvm.cpu()))
    model.set_input("data", data)
    model.run()
    return model.get_output(0).numpy()


def convolution_widths(mod: tvm.IRModule) -> dict[str, int]:
    """Return the output channels of each convolution and dense layer."""
    widths = {}
    for call in calls_of(mod["main"].body):
        if operator_name(call) == "nn.conv2d":
            axis = str(call.attrs.data_layout).index("C")
            widths[str(layer_of(call))] = int(call.checked_type.shape[axis])
        elif operator_name(call) == "nn.dense":
            widths[str(layer_of(call))] = int(call.checked_type.shape[1])
    return widths


def rounded(model: nn.Module, table: TaskTable, shape=SHAPE, **options):
    relay_model = from_torch(model, shape)
    rounding = RoundChannels(table, **options)
    return relay_model.mod, rounding(relay_model.mod), rounding.roundings


def check_same(model: nn.Module, before: tvm.IRModule, after: tvm.IRModule, shape=SHAPE) -> None:
    data = np.random.default_rng(0).standard_normal(shape).astype("float32")
    expected = run(before, data)
    np.testing.assert_allclose(run(after, data), expected, rtol=1e-5, atol=1e-5)
    with torch.no_grad():
        np.testing.assert_allclose(expected, model(torch.tensor(data)).numpy(), rtol=1e-3, atol=1e-4)
