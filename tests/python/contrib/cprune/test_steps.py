# SPDX-License-Identifier: Apache-2.0
"""The replay of transform steps agrees with TVM's own."""

import json

import pytest
from networks import KINDS
from programs import random_records, task_of

from tvm.contrib.cprune.measuring.records import state_of
from tvm.contrib.cprune.tuning.ansor.steps import channel_splits, loop_counts, splits_of, steps_of
from tvm.contrib.cprune.types import CPruneError

# Input channels of the layer (of one group, if grouped) where they are not 8.
INPUT_CHANNELS = {"grouped": 2, "reduction": 64, "1x1": 16, "dense": 64}


@pytest.mark.parametrize("kind", KINDS)
def test_replayed_loops_and_extents_equal_those_of_tvm(kind, target):
    task = task_of(kind, KINDS[kind].width, target)
    lines = random_records(task)
    assert lines
    dag = task.tvm_task.compute_dag
    step_kinds = set()
    for line in lines:
        steps = steps_of(line)
        step_kinds.update(step[0] for step in steps)
        expected = dag.infer_bound_from_state(state_of(line)).stages
        counts = loop_counts(dag, steps)
        assert len(counts) == len(expected)
        for count, stage in zip(counts, expected, strict=True):
            # TVM lists no loops for inputs and inlined stages.
            assert len(stage.iters) in (0, count)
        assert any(stage.iters for stage in expected)
        splits = splits_of(dag, steps)
        assert len(splits) == sum(step[0] == "SP" for step in steps)
        for split in splits:
            assert split.extent % split.product == 0
    assert "SP" in step_kinds


@pytest.mark.parametrize("kind", KINDS)
def test_channel_splits_have_the_extent_of_the_channels(kind, tuned):
    task, best = tuned(kind)
    output_channels = json.loads(task.workload_key)[-1][-1]
    input_channels = INPUT_CHANNELS.get(kind, 8)
    out_extents, in_extents = set(), set()
    for line in [best.line, *random_records(task)]:
        out_splits, in_splits = channel_splits(task, line)
        out_extents.update(split.extent for split in out_splits)
        in_extents.update(split.extent for split in in_splits)
        assert kind != "depthwise" or out_splits == in_splits
    assert out_extents == {output_channels}
    assert in_extents == {output_channels if kind == "depthwise" else input_channels}


@pytest.mark.parametrize("line", ["", "{}", "[1, 2]", '{"i": [[], 3]}'])
def test_record_of_another_format_is_rejected(line):
    with pytest.raises(CPruneError, match="not a record of auto_scheduler"):
        steps_of(line)
