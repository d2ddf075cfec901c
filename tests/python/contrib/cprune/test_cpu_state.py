# SPDX-License-Identifier: Apache-2.0
"""Which arguments of a program are activations, which a timed run finds in the cache."""

import math

import pytest
import torch
from networks import KINDS
from programs import extract, task_of
from torch import nn

from tvm import autotvm, te, topi
from tvm.contrib.cprune.measuring.cpu_state import activations_of


class Residual(nn.Module):
    """An inverted residual block: nothing follows the sum of its input and its projection."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.head = nn.Conv2d(3, 8, 1), nn.Conv2d(8, 12, 1)
        self.expand, self.project = nn.Conv2d(8, 32, 1), nn.Conv2d(32, 8, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.stem(x)
        result: torch.Tensor = self.head(x + self.project(torch.relu(self.expand(x))))
        return result


def names(task):
    return [tensor.op.name for tensor in task.tvm_task.compute_dag.tensors]


@pytest.mark.parametrize("kind", KINDS)
def test_input_and_output_are_activations(kind, target):
    task = task_of(kind, 32, target)
    tensors = task.tvm_task.compute_dag.tensors
    activations = activations_of(tensors)
    shapes = [[int(size) for size in tensor.shape] for tensor in tensors]
    biases = [index for index, shape in enumerate(shapes[1:-1], 1) if shape == shapes[-1]]
    assert activations == [0, *biases, len(tensors) - 1]
    assert names(task)[0] == "p0"
    assert len(tensors) > len(activations)


@pytest.mark.parametrize("kind", ["direct 3x3", "1x1", "dense"])
def test_templates_have_their_output_first(kind, monkeypatch):
    task = task_of(kind, 32, "llvm -mcpu=skylake-avx512 -num-cores 2", "autotvm").tvm_task
    # Weights are then packed, as in a measurement.
    monkeypatch.setattr(autotvm.GLOBAL_SCOPE, "in_tuning", True)
    with task.target:
        _, args = task.instantiate(task.config_space.get(0))
    output, *inputs = args
    assert isinstance(output.op, te.ComputeOp)
    assert len(inputs) == 2
    # An image has as many elements as the layer's input, and a weight has other ones.
    count = {"direct 3x3": 8 * 8 * 8, "1x1": 16 * 8 * 8, "dense": 32}[kind]
    (data,) = [n for n, tensor in enumerate(args) if n and math.prod(map(int, tensor.shape)) == count]
    assert activations_of(args) == [0, data]


def test_the_input_need_not_be_the_first_argument(target):
    tasks = extract(Residual(), (1, 3, 6, 6), target)
    (task,) = [task for task in tasks if "project" in task.layers]
    sizes = {
        name: [int(size) for size in tensor.shape]
        for name, tensor in zip(names(task), task.tvm_task.compute_dag.tensors, strict=True)
    }
    (data,) = [name for name, shape in sizes.items() if shape == [1, 6, 6, 32]]
    (weight,) = [name for name, shape in sizes.items() if shape == [1, 1, 32, 8]]
    activations = [names(task)[index] for index in activations_of(task.tvm_task.compute_dag.tensors)]
    residual = [name for name, shape in sizes.items() if shape == [1, 6, 6, 8]]
    assert len(residual) == 2
    assert set(activations) == {data, *residual}
    assert names(task)[0] != data
    assert weight not in activations


def test_operands_that_are_added_before_a_mean_are_activations():
    data, scale, other = te.placeholder((1, 7, 7, 8)), te.placeholder((8,)), te.placeholder((1, 7, 7, 8))
    total = topi.sum(topi.nn.relu(topi.add(topi.multiply(data, scale), other)), (1, 2), True)
    assert activations_of([data, scale, other, topi.divide(total, 49.0)]) == [0, 2, 3]
