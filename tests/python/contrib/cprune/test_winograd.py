# SPDX-License-Identifier: Apache-2.0
"""Winograd convolutions: every tile size computes what a direct convolution does, for images of any shape."""

import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits
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

# Rounding errors relative to the largest output; they grow with the tile.
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


@pytest.fixture(scope="module")
def trained_weight():
    """The weight of a convolution with 64 channels, trained on the digits."""
    images, labels = (torch.tensor(item) for item in load_digits(return_X_y=True))
    torch.manual_seed(0)
    conv = nn.Conv2d(64, 64, 3, padding=1)
    layers = (
        nn.Conv2d(1, 64, 3, padding=1),
        nn.ReLU(),
        conv,
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(64 * 64, 10),
    )
    model, data = nn.Sequential(*layers), (images.float() / 16).reshape(-1, 1, 8, 8)
    optimizer, before = torch.optim.Adam(model.parameters(), 1e-3), conv.weight.detach().clone()
    for first in range(0, 1024, 64):
        loss = nn.functional.cross_entropy(model(data[first : first + 64]), labels[first : first + 64])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert loss < 1 and not torch.allclose(conv.weight, before, atol=1e-3)
    return conv.weight.detach()


@pytest.mark.parametrize("weights", ["random", "heavy-tailed", "trained"])
@pytest.mark.parametrize("tile", TILES)
def test_rounding_errors_of_many_channels(tile, weights, trained_weight, target):
    """All tile sizes are accurate enough to choose from."""
    torch.manual_seed(0)
    inputs, outputs = (64, 64) if weights == "trained" else (512, 16)
    model = nn.Sequential(nn.Conv2d(inputs, outputs, 3, padding=1, bias=False)).eval()
    if weights == "trained":
        model[0].weight.data = trained_weight
    elif weights == "heavy-tailed":
        model[0].weight.data = torch.randn(outputs, inputs, 3, 3) ** 5
    data = torch.relu(torch.randn(1, inputs, 12, 12))
    task, weight = task_of(model, tuple(data.shape), tile, target)
    expected = model.double()(data.double()).detach().numpy().transpose(0, 2, 3, 1)
    output = run(task, [data.numpy().transpose(0, 2, 3, 1).copy(), weight])
    np.testing.assert_allclose(output, expected, rtol=0, atol=TOLERANCES[tile] * np.abs(expected).max())


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
