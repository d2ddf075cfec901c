# SPDX-License-Identifier: Apache-2.0
"""Programs of reductions: they compute the right numbers, occupy all cores, and are measured in a search."""

import numpy as np
import pytest
import torch
from networks import OneLayer
from programs import extract
from torch import nn

import tvm
from tvm import auto_scheduler, te, topi
from tvm.contrib.cprune.measuring.records import dump, to_input
from tvm.contrib.cprune.targets.codegen import codegen_context
from tvm.contrib.cprune.targets.target import host_target
from tvm.contrib.cprune.tuning.ansor.reductions import (
    Reduction,
    Tiling,
    find_reduction,
    reduction_program,
    reduction_programs,
    tilings,
)
from tvm.contrib.cprune.tuning.ansor.tiled_programs import TiledPrograms
from tvm.contrib.cprune.tuning.ansor.transplant import transplant

TOLERANCE = 1e-5


def dag_of(shape, compute):
    data = te.placeholder(shape)
    return auto_scheduler.ComputeDAG([data, compute(data)])


def run(dag, state, data):
    schedule, (source, result) = dag.apply_steps_from_state(state)
    target = tvm.target.Target(host_target())
    with codegen_context(target):
        function = tvm.build(schedule, [source, result], target)
    output = tvm.nd.array(np.full([int(n) for n in result.shape], np.nan, "float32"))
    function(tvm.nd.array(data), output)
    return output.numpy()


def largest_error(dag, shape, reference):
    """Return the largest error of all programs, NaN if one of them leaves out a result."""
    reduction = find_reduction(dag)
    data = np.random.default_rng(0).standard_normal(shape).astype("float32")
    states = [reduction_program(dag, reduction, tiling) for tiling in tilings(reduction, 2, 8)]
    outputs, expected = np.stack([run(dag, state, data) for state in states]), reference(data)
    assert outputs.shape[1:] == expected.shape
    return np.abs(outputs - expected).max()


def mean(data):
    return data.astype("float64").mean((1, 2), keepdims=True)


@pytest.mark.parametrize("shape", [(1, 8, 6, 32), (3, 7, 7, 20), (1, 5, 5, 57), (1, 2, 1, 3)], ids=str)
def test_means_of_images(shape):
    dag = dag_of(shape, lambda data: topi.divide(topi.sum(data, (1, 2), True), shape[1] * shape[2]))
    assert largest_error(dag, shape, mean) < TOLERANCE


def test_operations_before_and_after_the_reduction():
    def compute(data):
        return topi.nn.relu(topi.divide(topi.sum(topi.nn.relu(data), (1, 2), True), 48.0) - 0.3)

    def reference(data):
        return np.maximum(mean(np.maximum(data, 0)) - 0.3, 0)

    shape = (1, 8, 6, 32)
    assert largest_error(dag_of(shape, compute), shape, reference) < TOLERANCE


@pytest.mark.parametrize("keep", [False, True])
def test_a_reduction_without_other_operations(keep):
    shape = (1, 9, 4, 24)
    dag = dag_of(shape, lambda data: topi.max(data, (1, 2), keep))
    assert largest_error(dag, shape, lambda data: data.max((1, 2), keepdims=keep)) == 0


@pytest.mark.parametrize("kind", ["max", "avg"])
@pytest.mark.parametrize("padding", [0, 1])
def test_pools(kind, padding):
    """PyTorch has the reference, which does not count the padding of an average either."""
    shape, sides = (2, 9, 8, 24), (padding,) * 4

    def compute(data):
        pool = topi.nn.pool2d(data, (3, 3), (2, 2), (1, 1), sides, kind, False, "NHWC", False)
        return topi.nn.relu(pool)

    def reference(data):
        image = torch.from_numpy(data).permute(0, 3, 1, 2)
        if kind == "max":
            pool = nn.functional.max_pool2d(image, 3, 2, padding)
        else:
            pool = nn.functional.avg_pool2d(image, 3, 2, padding, count_include_pad=False)
        return torch.relu(pool).permute(0, 2, 3, 1).numpy()

    assert largest_error(dag_of(shape, compute), shape, reference) < TOLERANCE


def test_all_cores_have_results_or_a_part_of_the_reduction():
    few, many = Reduction(None, 1, 32, 12544), Reduction(None, 1, 1280, 49)
    assert tilings(few, 2, 16) == [Tiling(1, 1, 16), *(Tiling(parts, 2, 16) for parts in (2, 4, 7, 8))]
    assert tilings(many, 2, 16) == [*(Tiling(1, n, 16) for n in (1, 2, 4, 5, 8)), Tiling(7, 8, 16)]
    # Vectors of 40 floats take three registers, those of 15 floats four.
    assert {tiling.lanes for tiling in tilings(Reduction(None, 1, 120, 196), 2, 16)} == {40}
    # With many cores, each has a part of the image and of the channels.
    assert tilings(Reduction(None, 1, 512, 49), 64, 16) == [Tiling(7, 2, 16), Tiling(49, 8, 16)]
    # A batch has enough results, so that its reductions stay whole.
    assert {tiling.parts for tiling in tilings(Reduction(None, 64, 32, 49), 4, 16)} == {1}
    # 5 x 5 elements cannot be divided among 32 cores.
    assert tilings(Reduction(None, 1, 3, 25), 32, 16) == [Tiling(1, 1, 3)]


@pytest.mark.parametrize(
    "compute",
    [
        lambda data: topi.nn.adaptive_pool(data, (3, 3), "avg", "NHWC"),
        lambda data: topi.nn.pool2d(data, (2, 2), (2, 2), (1, 1), (0, 0, 0, 0), "max", layout="NCHW"),
        lambda data: topi.sum(data, (2, 3), True),
        lambda data: topi.nn.softmax(data),
        lambda data: topi.nn.relu(data),
        lambda data: topi.argmax(data, 1),
    ],
    ids=["adaptive pool", "NCHW", "last axis", "softmax", "elementwise", "argmax"],
)
def test_other_operations_have_no_programs(compute):
    assert find_reduction(dag_of((1, 8, 8, 16), compute)) is None


class Gate(nn.Module):
    """A convolution, and the mean of its image."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.conv, self.last = OneLayer(4, width).conv, nn.Conv2d(width, 4, 1)

    def forward(self, x):
        return self.last(nn.functional.adaptive_avg_pool2d(self.conv(x), 1))


def mean_task(width, target):
    tasks = extract(Gate(width).eval(), (1, 4, 8, 8), target)
    (task,) = [task for task in tasks if task.subgraphs[0].op == "mean"]
    return task


def test_a_search_gets_them(target):
    task = mean_task(32, target)
    programs = list(reduction_programs(task.tvm_task))
    assert programs
    policy = auto_scheduler.SketchPolicy(task.tvm_task, auto_scheduler.RandomModel(), verbose=0)
    generated = TiledPrograms(task, policy, 1).generate([])
    assert [str(item.state) for item in generated] == [str(item.state) for item in programs]


@pytest.mark.parametrize("width", [16, 24, 57])
def test_they_move_to_other_widths(width, target):
    old, new = mean_task(32, target), mean_task(width, target)
    data = np.random.default_rng(0).standard_normal((1, 8, 8, width)).astype("float32")
    unmeasured = auto_scheduler.MeasureResult([0.0], 0, "", 0.0, 0.0)
    for program in reduction_programs(old.tvm_task):
        for moved in transplant(dump(program, unmeasured).line, old, new):
            state = to_input(dump(moved, unmeasured).line, new.tvm_task).state
            np.testing.assert_allclose(
                run(new.tvm_task.compute_dag, state, data), mean(data), rtol=1e-5, atol=1e-6
            )
