# SPDX-License-Identifier: Apache-2.0
"""The replay of transform steps agrees with TVM's own."""

import json

import pytest
from conftest import KINDS, record_of, sampled_states, task_of

from tvm.contrib.cprune.measuring.records import state_of
from tvm.contrib.cprune.tuning.ansor.steps import channel_splits, loop_counts, splits_of, steps_of
from tvm.contrib.cprune.types import CPruneError


@pytest.mark.parametrize("kind", KINDS)
def test_loops_and_extents_are_tvms(kind, target):
    task = task_of(kind, KINDS[kind][3], target)
    dag = task.tvm_task.compute_dag
    states = sampled_states(task)
    assert states
    kinds_of_steps = set()
    for state in states:
        line = record_of(task, state)
        steps = steps_of(line)
        kinds_of_steps.update(step[0] for step in steps)
        replayed = dag.infer_bound_from_state(state_of(line))
        ours = loop_counts(dag, steps)
        assert len(ours) == len(replayed.stages)
        for count, stage in zip(ours, replayed.stages, strict=True):
            assert len(stage.iters) in (0, count)  # TVM gives inputs no loops
        for split in splits_of(dag, steps):
            assert split.extent % split.product == 0
    assert "SP" in kinds_of_steps


@pytest.mark.parametrize("kind", KINDS)
def test_channel_splits_have_the_channels_extent(kind, tuned):
    task, best = tuned(kind)
    out_splits, in_splits = channel_splits(task, best.line)
    shapes = json.loads(task.workload_key)
    channels = shapes[-1][-1]
    assert all(split.extent == channels for split in out_splits)
    if kind == "depthwise":
        assert out_splits == in_splits
    else:
        inputs = {"grouped": 2, "reduction": 64, "1x1": 16, "dense": 64}.get(kind, 8)
        assert all(split.extent == inputs for split in in_splits)


@pytest.mark.parametrize("line", ["", "{}", "[1, 2]", '{"i": [[], 3]}'])
def test_a_foreign_record_is_refused(line):
    with pytest.raises(CPruneError, match="not a record of auto_scheduler"):
        steps_of(line)
