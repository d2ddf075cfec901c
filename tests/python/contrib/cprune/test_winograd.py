# SPDX-License-Identifier: Apache-2.0
"""Winograd convolutions: every tile size computes what a direct convolution does, for images of any shape."""

import numpy as np
import pytest
import torch
from torch import nn

import tvm
from tvm import te
from tvm.contrib.cprune.importers.from_torch import from_torch
from tvm.contrib.cprune.targets.winograd import TILES, best_tile
from tvm.contrib.cprune.tasks import extract_from_program
from tvm.contrib.cprune.transform.pin_algorithms import (
    pin_algorithms,
    tile_size,
    winograd,
    winograd_algorithms,
)
from tvm.contrib.cprune.transform.relay_graph import WINOGRAD, calls_of
from tvm.contrib.cprune.tuning.ansor.resize import at_width

# Rounding errors grow with the tile.
TOLERANCES = {2: 2e-6, 4: 1e-5, 6: 5e-5}
# Images that are square, taller than wide, wider than tall, and smaller than a tile.
SHAPES = [(8, 8), (24, 7), (7, 24), (3, 5)]


def task_of(model, shape, tile, target):
    mod = from_torch(model, shape).mod
    tasks = extract_from_program(mod, None, target, {"0": winograd(tile)})
    (task,) = [task for task in tasks if task.layers]
    assert task.subgraphs[0].algorithm == winograd(tile)
    pinned = pin_algorithms(mod, {"0": winograd(tile)})
    (call,) = [call for call in calls_of(pinned["main"].body) if call.op.name == WINOGRAD]
    return task, call.args[1].data.numpy()


def run(task, arguments):
    """Return a task's output; it is compiled without a tuned program."""
    tensors = list(task.tvm_task.compute_dag.tensors)
    schedule = te.create_schedule(tensors[-1].op)
    shape = [int(size) for size in tensors[-1].shape]
    arrays = [tvm.nd.array(array) for array in (*arguments, np.zeros(shape, "float32"))]
    tvm.build(schedule, tensors, task.tvm_task.target)(*arrays)
    return arrays[-1].numpy()


@pytest.mark.parametrize("padding", [0, 1])
@pytest.mark.parametrize("size", SHAPES, ids=str)
@pytest.mark.parametrize("tile", TILES)
def test_outputs_are_those_of_a_direct_convolution_in_float64(tile, size, padding, target):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(6, 10, 3, padding=padding), nn.ReLU()).eval()
    shape = (2, 6, *size)
    task, weight = task_of(model, shape, tile, target)
    data = torch.randn(shape)
    bias = model[0].bias.detach().numpy().reshape(1, 1, 1, 10)
    expected = model.double()(data.double()).detach().numpy().transpose(0, 2, 3, 1)
    output = run(task, [data.numpy().transpose(0, 2, 3, 1).copy(), weight, bias])
    np.testing.assert_allclose(output, expected, rtol=0, atol=TOLERANCES[tile])


@pytest.mark.parametrize("tile", TILES)
def test_a_task_at_another_width_is_that_of_the_pruned_layer(tile, target):
    model = nn.Sequential(nn.Conv2d(8, 16, 3, padding=1), nn.ReLU()).eval()
    pruned = nn.Sequential(nn.Conv2d(8, 12, 3, padding=1), nn.ReLU()).eval()
    task, _ = task_of(model, (1, 8, 12, 10), tile, target)
    expected, _ = task_of(pruned, (1, 8, 12, 10), tile, target)
    assert at_width(task, 12, "out").axes == expected.axes


def test_the_tile_size_follows_from_the_shape(target):
    # Large images save multiplications with large tiles. On small ones, the weights of large tiles cost more.
    assert best_tile(7, 7, 512, 512) == 2
    assert best_tile(56, 56, 64, 64) > 2
    model = nn.Sequential(nn.Conv2d(512, 512, 3, padding=1), nn.Conv2d(512, 8, 3, stride=2)).eval()
    algorithms = winograd_algorithms(from_torch(model, (1, 512, 7, 7)).mod)
    assert algorithms == {"0": "winograd-2"}


def test_names_of_algorithms():
    assert [tile_size(winograd(tile)) for tile in TILES] == list(TILES)
    assert tile_size("direct") is None
    assert tile_size("conv2d_NCHWc.x86") is None
