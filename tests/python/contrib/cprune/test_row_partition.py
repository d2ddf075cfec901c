# SPDX-License-Identifier: Apache-2.0
"""Programs whose cores divide the rows of the output."""

import math

import pytest
from networks import OneLayer
from programs import FAST, extract, random_records, task_of

from tvm import auto_scheduler
from tvm.contrib.cprune.measuring.records import RecordLog, identity, input_identity
from tvm.contrib.cprune.tuning.ansor.row_partition import SPATIAL_LEVELS, partition_rows
from tvm.contrib.cprune.tuning.ansor.search import search
from tvm.contrib.cprune.tuning.ansor.steps import splits_of, steps_of

CONVOLUTIONS = ["1x1", "direct 3x3", "depthwise", "grouped"]
TARGET = "llvm -mcpu=skylake-avx512 -num-cores {cores}"


def row_splits(task, steps):
    """Return the tilings of the convolution's rows; all maps have 8 rows."""
    names = ("yy", "i")
    splits = splits_of(task.tvm_task.compute_dag, steps)
    return [
        split
        for split in splits
        if len(split.lengths) == SPATIAL_LEVELS and task.axes[split.axes[0]][1] in names
    ]


def convolution(kind, cores):
    task = task_of(kind, 32, TARGET.format(cores=cores))
    programs = [steps_of(record) for record in random_records(task)]
    tiled = [steps for steps in programs if row_splits(task, steps)]
    assert len(tiled) > 5
    return task, tiled


@pytest.mark.parametrize("cores", [2, 4])
@pytest.mark.parametrize("kind", CONVOLUTIONS)
def test_cores_divide_the_rows_where_the_tiles_allow_it(kind, cores):
    task, programs = convolution(kind, cores)
    moved = 0
    for steps in programs:
        new = partition_rows(task.tvm_task, steps)
        for before, after in zip(row_splits(task, steps), row_splits(task, new), strict=True):
            assert after.lengths[1:] == before.lengths[1:]
            assert before.lengths[0] % after.lengths[0] == 0
            iterations = [8 // split.product for split in (before, after)]
            possible = iterations[0] * before.lengths[0]
            assert (
                iterations[1] % cores == 0
                if possible % cores == 0
                else iterations[1] in (iterations[0], possible)
            )
            moved += iterations[0] != iterations[1]
        others = [(a, b) for a, b in zip(steps, new, strict=True) if a != b]
        assert len(others) <= len(row_splits(task, steps))
        assert partition_rows(task.tvm_task, new) == new
    assert moved > 0


def test_one_core_keeps_its_loops():
    task, programs = convolution("1x1", 1)
    assert all(partition_rows(task.tvm_task, steps) == steps for steps in programs)


def test_a_winograd_product_keeps_its_loops(target):
    task = task_of("winograd 3x3", 32, target)
    programs = [steps_of(record) for record in random_records(task)]
    assert programs
    assert all(partition_rows(task.tvm_task, steps) == steps for steps in programs)


def test_a_layer_with_large_weights_keeps_its_loops(target):
    # 4 x 4 pixels of 64 channels, and 64 x 64 x 3 x 3 weights.
    tasks = extract(OneLayer(64, 64), (1, 64, 4, 4), target)
    (task,) = [task for task in tasks if "conv" in task.layers]
    programs = [steps_of(record) for record in random_records(task)]
    assert any(math.prod(split.lengths[:1]) > 1 for steps in programs for split in row_splits(task, steps))
    assert all(partition_rows(task.tvm_task, steps) == steps for steps in programs)


@pytest.mark.parametrize("kind", ["1x1", "depthwise"])
def test_a_search_measures_and_records_only_programs_that_divide_rows(kind, pool, target, monkeypatch):
    # Programs of depthwise convolutions come from the evolutionary search.
    task, log, measured = task_of(kind, 32, target), RecordLog(None), []
    measure = pool.measure_serialized

    def observe(serialized):
        measured.extend(identity(auto_scheduler.MeasureInput.deserialize(item)) for item in serialized)
        return measure(serialized)

    monkeypatch.setattr(pool, "measure_serialized", observe)
    search([task], FAST, pool, log)
    assert len(measured) == FAST.trials
    assert measured == [input_identity(record.line) for record in log.measured]
    programs = [steps_of(record.line) for record in log.measured]
    assert all(partition_rows(task.tvm_task, steps) == steps for steps in programs)
    assert all(record.latency for record in log.measured)


def test_the_images_of_a_batch_are_divided_before_rows(target):
    tasks = extract(OneLayer(8, 32), (2, 8, 8, 8), target)
    (task,) = [task for task in tasks if "conv" in task.layers]
    programs = [partition_rows(task.tvm_task, steps_of(record)) for record in random_records(task)]
    images = [
        split
        for steps in programs
        for split in splits_of(task.tvm_task.compute_dag, steps)
        if len(split.lengths) == SPATIAL_LEVELS and task.axes[split.axes[0]][1] == "nn"
    ]
    assert images
    # Both images are in the outermost loop, or one program's tile holds both.
    assert all(split.lengths[0] == 1 for split in images)
    assert any(split.product == 1 for split in images)
