# SPDX-License-Identifier: Apache-2.0
"""Pools of whole images become means with the same values, and pools of single pixels disappear."""

import numpy as np
import pytest
import torch

import tvm
from tvm import relay
from tvm.contrib import graph_executor
from tvm.contrib.cprune.importers.from_torch import from_torch
from tvm.contrib.cprune.transform.relay_graph import calls_of, operator_name
from tvm.contrib.cprune.transform.simplify_pools import SimplifyPools

SHAPES = {"NCHW": (2, 5, 7, 4), "NHWC": (2, 7, 4, 5)}


def simplified(pool, shape, dtype="float32"):
    data = relay.var("data", shape=shape, dtype=dtype)
    mod = relay.transform.InferType()(tvm.IRModule.from_expr(pool(data)))
    mod = SimplifyPools()(mod)
    return mod, [operator_name(call) for call in calls_of(mod["main"].body)]


def run(mod, data):
    module = graph_executor.GraphModule(relay.build(mod, "llvm")["default"](tvm.cpu()))
    module.run(data=data)
    return module.get_output(0).numpy()


@pytest.mark.parametrize("layout", SHAPES)
@pytest.mark.parametrize("name", ["adaptive", "global"])
def test_a_pool_of_the_whole_image_is_a_mean(name, layout):
    pools = {
        "adaptive": lambda data: relay.nn.adaptive_avg_pool2d(data, (1, 1), layout=layout),
        "global": lambda data: relay.nn.global_avg_pool2d(data, layout=layout),
    }
    mod, operators = simplified(pools[name], SHAPES[layout])
    assert operators == ["mean"]
    data = np.random.default_rng(0).standard_normal(SHAPES[layout]).astype("float32")
    axes = (layout.index("H"), layout.index("W"))
    expected = data.astype("float64").mean(axes, keepdims=True)
    np.testing.assert_allclose(run(mod, data), expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("layout", SHAPES)
def test_pools_of_imported_networks_are_means(layout):
    model = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), torch.nn.AdaptiveAvgPool2d(1)).eval()
    calls = calls_of(from_torch(model, (1, 3, 8, 8), layout).mod["main"].body)
    assert "mean" in map(operator_name, calls)
    assert not any("pool" in operator_name(call) for call in calls)


@pytest.mark.parametrize("layout", SHAPES)
@pytest.mark.parametrize("size", [(7, 4), ()])
def test_a_pool_of_single_pixels_disappears(size, layout):
    mod, operators = simplified(
        lambda data: relay.nn.relu(relay.nn.adaptive_avg_pool2d(data, size or None, layout=layout)),
        SHAPES[layout],
    )
    assert operators == ["nn.relu"]
    data = np.random.default_rng(0).standard_normal(SHAPES[layout]).astype("float32")
    np.testing.assert_array_equal(run(mod, data), np.maximum(data, 0))


@pytest.mark.parametrize(
    "pool",
    [
        lambda data: relay.nn.adaptive_avg_pool2d(data, (7, 1)),
        lambda data: relay.nn.adaptive_avg_pool2d(data, (2, 2)),
        lambda data: relay.nn.adaptive_max_pool2d(data, (1, 1)),
    ],
    ids=["columns", "windows", "max"],
)
def test_other_pools_stay(pool):
    _, (operator,) = simplified(pool, SHAPES["NCHW"])
    assert operator.startswith("nn.adaptive_")


def test_a_pool_of_integers_stays():
    """Only means of float32 are the same operation."""
    _, operators = simplified(lambda data: relay.nn.global_avg_pool2d(data), SHAPES["NCHW"], "int32")
    assert operators == ["nn.global_avg_pool2d"]
