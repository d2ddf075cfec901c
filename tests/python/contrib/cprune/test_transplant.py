# SPDX-License-Identifier: Apache-2.0
"""Transplanted programs compute the right numbers, at widths that fit and at widths that do not."""

import itertools
import math

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from networks import KINDS, OneLayer
from programs import random_records, reference, task_of
from torch import nn

from tvm import auto_scheduler
from tvm.contrib.cprune.importers.from_torch import from_torch
from tvm.contrib.cprune.measuring import local_worker
from tvm.contrib.cprune.tasks import extract_from_program
from tvm.contrib.cprune.tuning.ansor.steps import channel_splits, steps_of
from tvm.contrib.cprune.tuning.ansor.transplant import keeps_inner_loops, rewrite_steps, transplant
from tvm.contrib.cprune.types import TransplantError


def check(task, measure_input, pool):
    """Compare a program, compiled without layout rewriting, with the reference."""
    state_input = auto_scheduler.MeasureInput(
        auto_scheduler.SearchTask(workload_key=task.workload_key, target=task.tvm_task.target),
        measure_input.state,
    )
    generator = np.random.default_rng(0)
    tensors = list(task.tvm_task.compute_dag.tensors)
    inputs = [generator.standard_normal([int(n) for n in t.shape]).astype("float32") for t in tensors[:-1]]
    assert pool.call(local_worker.build, 10**9, state_input.serialize()) is None
    actual = pool.call(local_worker.outputs, 10**9, inputs)[-1]
    expected = reference(task, inputs)
    np.testing.assert_allclose(actual, expected, rtol=1e-3, atol=1e-3 * np.abs(expected).max())


def round_to(kind):
    """Return the number that the widths of a kind must be multiples of."""
    return 4 if kind == "grouped" else 1


@pytest.mark.parametrize("kind", KINDS)
@settings(
    max_examples=3,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(data=st.data())
def test_transplanted_programs_compute_the_right_numbers(kind, tuned, pool, target, data):
    task, best = tuned(kind)
    width = data.draw(st.integers(2, KINDS[kind].width // round_to(kind))) * round_to(kind)
    new = task_of(kind, width, target)
    for moved in transplant(best.line, task, new, limit=2):
        check(new, moved, pool)


@pytest.mark.parametrize("kind", KINDS)
def test_fitting_widths_keep_inner_loops_and_build_with_packed_weights(kind, tuned, pool, target):
    task, best = tuned(kind)
    side = 1 if KINDS[kind].side == "in" else 0
    products = [split.product for split in channel_splits(task, best.line)[side]] or [1]
    step = math.lcm(*products)
    widths = list(range(step, KINDS[kind].width + 1, step))[-4:]
    if kind == "grouped":
        # Inner loops that cross the boundary between two groups must shrink, even where the product divides.
        widths = [16, 32, 48]
    assert widths
    inputs = []
    for width in widths:
        new = task_of(kind, width, target)
        assert kind == "grouped" or keeps_inner_loops(best.line, task, new)
        moved = transplant(best.line, task, new)[0]
        check(new, moved, pool)
        inputs.append(moved)
    assert [result.error_no for result in pool.measure(inputs)] == [0] * len(inputs)


def test_variants_divide_a_width_that_does_not_fit(tuned, target):
    task, best = tuned("direct 3x3")
    new = task_of("direct 3x3", 60, target)
    variants = rewrite_steps(best.line, task, new, limit=3)
    assert 1 <= len(variants) <= 3
    for steps in variants:
        assert "SP" in {step[0] for step in steps}
        for step in steps:
            if step[0] == "SP":
                assert step[3] % math.prod(step[4]) == 0


class FusedOperators(nn.Module):
    """The same convolution with a bias, and other operators behind it."""

    def __init__(self) -> None:
        super().__init__()
        self.relu, self.residual, self.silu, self.hardswish, self.bias = (
            nn.Conv2d(8, 8, 3, padding=1) for _ in range(5)
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = torch.relu(self.relu(x))
        y = self.residual(y) + y
        y = nn.functional.hardswish(self.hardswish(nn.functional.silu(self.silu(y))))
        return self.bias(y)


@pytest.mark.parametrize("algorithm", ["direct", "winograd-4"])
def test_a_program_moves_to_a_task_with_other_fused_operators(algorithm, pool, target):
    mod = from_torch(FusedOperators().eval(), (1, 8, 8, 8)).mod
    layers = ("relu", "residual", "silu", "hardswish", "bias")
    tasks = extract_from_program(mod, None, target, dict.fromkeys(layers, algorithm))
    by_layer = {layer: task for task in tasks for layer in task.layers}
    assert len({by_layer[layer].workload_key for layer in layers}) == len(layers)
    for old, new in itertools.permutations(layers, 2):
        for record in random_records(by_layer[old])[:3]:
            (moved,) = transplant(record, by_layer[old], by_layer[new])
        if layers.index(new) == (layers.index(old) + 1) % len(layers):
            check(by_layer[new], moved, pool)


def test_transplant_to_another_algorithm_is_rejected(tuned, target):
    task, best = tuned("direct 3x3")
    with pytest.raises(TransplantError, match="compute differently"):
        transplant(best.line, task, task_of("winograd 3x3", 32, target))


def test_algorithm_stays_pinned_at_widths_where_topi_would_change_it(target):
    # TOPI computes a 3x3 convolution as Winograd only between 64 and 512 channels.
    for width in (8, 64, 128):
        mod = from_torch(OneLayer(8, width), (1, 8, 8, 8)).mod
        for algorithm in ("direct", "winograd-4"):
            tasks = extract_from_program(mod, None, target, {"conv": algorithm})
            (subgraph,) = [task.subgraphs[0] for task in tasks if "conv" in task.layers]
            assert subgraph.algorithm == algorithm
            assert ("winograd" in subgraph.op) is (algorithm == "winograd-4")


def test_fitting_width_with_fewer_iterations_than_cores_gets_variants_with_shorter_inner_loops(target):
    task = task_of("direct 3x3", 64, target)
    line, width = next(
        (line, product)
        for line in random_records(task)
        for product in [max((split.product for split in channel_splits(task, line)[0]), default=1)]
        if product in (2, 4, 8, 16, 32)
        and keeps_inner_loops(line, task, task_of("direct 3x3", product, target))
    )
    new = task_of("direct 3x3", width, target)
    first, *others = rewrite_steps(line, task, new, limit=3)
    assert keeps_inner_loops(line, task, new)
    unchanged = [step[4] for step in first if step[0] == "SP"]
    assert unchanged == [step[4] for step in steps_of(line) if step[0] == "SP"]
    assert others
    for steps in others:
        assert [step[4] for step in steps if step[0] == "SP"] != unchanged
