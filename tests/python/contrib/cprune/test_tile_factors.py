# SPDX-License-Identifier: Apache-2.0
"""Tile factors that are read from a loop nest agree with the record or configuration."""

import itertools
import math

import numpy as np
import pytest
from networks import KINDS
from programs import random_records, task_of, template_task_of

import tvm
from tvm import te
from tvm.contrib.cprune.measuring.records import state_of
from tvm.contrib.cprune.transform.tile_factors import RecordTileFactors, read_tile_factors
from tvm.contrib.cprune.tuning.ansor.steps import channel_splits


def anchors_of(task, line):
    schedule, args = task.tvm_task.compute_dag.apply_steps_from_state(state_of(line))
    return [accesses for accesses in read_tile_factors(schedule, args) if len(accesses) == 3]


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind not in ("winograd 3x3", "grouped")])
def test_loops_over_channels_are_the_splits_of_the_record(kind, target):
    task, compared = task_of(kind, KINDS[kind].width, target), 0
    for line in random_records(task)[:12]:
        out, into = channel_splits(task, line)
        for store, *loads in anchors_of(task, line):
            # The channels are the last dimension of the output and of the data, in NHWC and in dense layers.
            data = max(loads, key=lambda access: len(access.dims))
            for splits, factors in ((out, store.dims[-1]), (into, data.dims[-1])):
                own = [s for s in splits if s.stage.split(".")[0] in store.buffer or store.buffer in s.stage]
                if not own or not factors:
                    continue
                boundaries = {own[0].extent}
                for split in own:
                    boundaries |= {math.prod(split.lengths[i:]) for i in range(len(split.lengths) + 1)}
                for factor in factors:
                    assert {factor.stride, factor.stride * factor.steps} <= boundaries, (line, factors)
                # Nested loops cover the axis without gaps.
                strides = sorted((f.stride, f.steps) for f in factors)
                for (stride, steps), (following, _) in itertools.pairwise(strides):
                    assert stride * steps == following
                compared += 1
    assert compared >= 8


@pytest.mark.parametrize("kind", ["direct 3x3", "reduction", "1x1", "strided"])
def test_packed_channels_are_the_tiles_of_the_configuration(kind):
    task = template_task_of(kind, 64)
    space, rng = task.tvm_task.config_space, np.random.default_rng(1)
    for index in rng.integers(0, len(space), 10):
        config = space.get(int(index))
        tvm.autotvm.GLOBAL_SCOPE.in_tuning = True
        try:
            with task.tvm_task.target:
                schedule, args = task.tvm_task.instantiate(config)
        finally:
            tvm.autotvm.GLOBAL_SCOPE.in_tuning = False
        (accesses,) = [anchor for anchor in read_tile_factors(schedule, args) if len(anchor) == 3]
        store, weight = accesses[0], next(access for access in accesses[1:] if len(access.dims) == 6)
        out, into = config["tile_oc"].size[-1], config["tile_ic"].size[-1]
        assert math.prod(f.steps for f in store.dims[4]) == out
        assert math.prod(f.steps for f in weight.dims[4]) == into
        assert all(factor.kind == "vectorized" for factor in store.dims[4])


def test_blocks_and_threads_of_a_gpu_schedule_are_tile_factors():
    data, weight = te.placeholder((64, 96), name="data"), te.placeholder((128, 96), name="weight")
    k = te.reduce_axis((0, 96), name="k")
    dense = te.compute((64, 128), lambda i, j: te.sum(data[i, k] * weight[j, k], k), name="dense")
    schedule = te.create_schedule(dense.op)
    local = schedule.cache_write(dense, "local")
    i, j = dense.op.axis
    block, rest = schedule[dense].split(j, 32)
    vthread, rest = schedule[dense].split(rest, nparts=2)
    thread, inner = schedule[dense].split(rest, 4)
    schedule[dense].reorder(i, block, vthread, thread, inner)
    schedule[dense].bind(i, te.thread_axis("blockIdx.y"))
    schedule[dense].bind(block, te.thread_axis("blockIdx.x"))
    schedule[dense].bind(vthread, te.thread_axis("vthread"))
    schedule[dense].bind(thread, te.thread_axis("threadIdx.x"))
    schedule[local].compute_at(schedule[dense], thread)
    reduced, inside = schedule[local].split(schedule[local].op.reduce_axis[0], 8)
    schedule[local].unroll(inside)
    with tvm.target.Target("opencl"):
        (accesses,) = read_tile_factors(schedule, [data, weight, dense])
    columns = [(f.steps, f.stride, f.kind) for f in accesses[0].dims[1]]
    assert columns == [(4, 32, "blockIdx.x"), (2, 16, "vthread"), (4, 4, "threadIdx.x"), (4, 1, "serial")]
    depth = [(f.steps, f.stride, f.kind) for f in accesses[1].dims[1]]
    assert depth == [(12, 8, "serial"), (8, 1, "unrolled")]
    assert reduced is not None


def test_the_pass_reads_tensor_ir():
    @tvm.script.tir.prim_func
    def sums(a: tvm.script.tir.Buffer((16, 24), "float32"), c: tvm.script.tir.Buffer((16,), "float32")):  # type: ignore[valid-type]
        for i in range(16):
            for k in range(24):
                with tvm.script.tir.block("sum"):
                    vi, vk = tvm.script.tir.axis.remap("SR", [i, k])
                    c[vi] = c[vi] + a[vi, vk]

    recorder = RecordTileFactors()
    assert recorder.info.name == "RecordTileFactors"
    schedule = tvm.tir.Schedule(sums)
    i, k = schedule.get_loops(schedule.get_block("sum"))
    schedule.split(i, [4, 4])
    schedule.unroll(schedule.split(k, [None, 6])[1])
    recorder(schedule.mod)
    ((store, load),) = recorder.anchors
    assert [(f.steps, f.stride, f.kind) for f in store.dims[0]] == [(4, 4, "serial"), (4, 1, "serial")]
    depth = [(f.steps, f.stride, f.kind) for f in load.dims[1]]
    assert depth == [(4, 6, "serial"), (6, 1, "unrolled")]
