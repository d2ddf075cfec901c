# SPDX-License-Identifier: Apache-2.0
"""Transplants of GPU programs, whose threads load tiles into shared memory together. No GPU is needed."""

import json
import math

import pytest
from networks import KINDS
from programs import extract, random_records, task_of
from torch import nn

import tvm
from tvm.contrib.cprune.targets.target import host_target, pinned_target
from tvm.contrib.cprune.tuning.ansor.fused_loops import resize_fused_splits
from tvm.contrib.cprune.tuning.ansor.steps import VECTORIZED, splits_of, steps_of
from tvm.contrib.cprune.tuning.ansor.transplant import rewrite_steps, transplant
from tvm.contrib.cprune.types import TransplantError

# Ansor knows the limits of a Metal GPU without asking a device, and its programs use shared memory there.
TARGET = pinned_target(tvm.target.Target("metal", host="llvm"))


def fused_splits(task, steps):
    return [split for split in splits_of(task.tvm_task.compute_dag, steps) if len(split.axes) > 1]


@pytest.mark.parametrize("kind", KINDS)
def test_every_program_is_transplanted_to_every_width(kind):
    base = task_of(kind, 64, TARGET)
    records = random_records(base)[:6]
    assert len(records) == 6
    assert any(fused_splits(base, steps_of(line)) for line in records)
    for width in (32, 56):
        for line in records:
            assert transplant(line, base, task_of(kind, width, TARGET), 2)


@pytest.mark.parametrize("kind", KINDS)
def test_an_extent_is_the_size_of_the_tile_that_the_threads_load(kind):
    """In the final program, its loops have that many iterations, rounded up to all threads."""
    base, smaller = (task_of(kind, width, TARGET) for width in (64, 56))
    tiles = 0
    for line in random_records(base)[:6]:
        (moved,) = transplant(line, base, smaller, 1)
        state = smaller.tvm_task.compute_dag.infer_bound_from_state(moved.state)
        stages = {stage.op.name: stage for stage in state.stages}
        for split in fused_splits(smaller, rewrite_steps(line, base, smaller, 1)[0]):
            if all(base.axes[axis][2] == smaller.axes[axis][2] for axis in split.axes):
                continue
            if split.stage.endswith(".shared"):
                outer, *inner = (int(loop.range.extent) for loop in stages[split.stage].iters)
                assert 0 <= outer * math.prod(inner) - split.extent < math.prod(inner)
                tiles += 1
    assert tiles or kind == "depthwise"


def test_a_shared_tile_follows_the_inner_lengths_of_its_reader():
    """Its loop of 2^n elements becomes one of 15 * 2^m, which vectors of 32 do not always divide."""
    base, smaller = (task_of("1x1", width, TARGET) for width in (64, 60))
    shortened = 0
    for line in random_records(base):
        record, steps = json.loads(line), steps_of(line)
        for split in fused_splits(base, steps):
            if steps[split.step + 1][-1] == VECTORIZED and split.extent % 32 == 0:
                steps[split.step][4] = [32]
        record["i"][1][1] = steps
        (moved, *_) = rewrite_steps(json.dumps(record), base, smaller, 1)
        for split in fused_splits(smaller, moved):
            if moved[split.step + 1][-1] == VECTORIZED:
                assert split.extent % split.product == 0
                shortened += split.product < steps[split.step][4][0]
        assert resize_fused_splits(line, moved, base, smaller) == moved
    assert shortened


def test_a_transplanted_kernel_compiles():
    base, smaller = (task_of("direct 3x3", width, TARGET) for width in (64, 56))
    for line in random_records(base)[:3]:
        moved = transplant(line, base, smaller, 1)[0]
        schedule, args = smaller.tvm_task.compute_dag.apply_steps_from_state(moved.state)
        source = tvm.build(schedule, args, target=TARGET).imported_modules[0].get_source()
        assert "kernel void" in source and "threadgroup float" in source


def test_a_factored_reduction_is_not_moved_to_another_extent():
    """On CPUs, Ansor splits the fused loops of a long reduction with few results, to factor it."""
    target = pinned_target(host_target())
    base, smaller = (
        extract(nn.Conv2d(width, 2, 3), (1, width, 3, 3), target, algorithms={"": "direct"})[0]
        for width in (64, 56)
    )
    records = [line for line in random_records(base) if "RF" in [step[0] for step in steps_of(line)]]
    factored = [line for line in records if fused_splits(base, steps_of(line))]
    assert factored
    for line in factored[:4]:
        assert transplant(line, base, base, 1)
        with pytest.raises(TransplantError, match="factors a reduction whose extent changes"):
            transplant(line, base, smaller, 1)
