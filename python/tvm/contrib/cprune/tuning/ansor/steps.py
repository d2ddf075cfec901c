# SPDX-License-Identifier: Apache-2.0
"""The loop structure of an Ansor program: its splits and the axes of the compute DAG that they divide.

The transform steps of a record refer to stages and loops by numbers, which change as steps insert stages and
split, fuse and reorder loops (``src/auto_scheduler/transform_step.cc``). Replaying the steps on axis numbers
(see ``axes.py``) shows which axes each split divides, without relying on names.
"""

import json
from collections.abc import Sequence
from typing import Any

from tvm import te
from tvm.contrib.cprune.types import CPruneError, Split, Task

# Numbers of the axes that a loop runs over.
LoopAxes = tuple[int, ...]
Step = list[Any]
# The annotation of vectorized loops, ``IteratorAnnotation::kVectorize`` in TVM.
VECTORIZED = 2


def steps_of(record: str) -> list[Step]:
    """Return the transform steps of a record, a line of an auto_scheduler log.

    Raises
    ------
    CPruneError
        If the line is not an auto_scheduler record.
    """
    try:
        return list(json.loads(record)["i"][1][1])
    except (ValueError, KeyError, IndexError, TypeError):
        raise CPruneError(f"not a record of auto_scheduler: {record[:80]!r}") from None


def with_steps(record: str, steps: Sequence[Step], workload_key: str | None = None) -> str:
    """Return a record with other transform steps, and with another workload key if one is given."""
    data = json.loads(record)
    data["i"][1][1] = steps
    if workload_key is not None:
        data["i"][0][0] = workload_key
    return json.dumps(data)


class _Stages:
    """The loops of every stage as the axes that they run over, updated step by step."""

    def __init__(self, dag: Any) -> None:
        self.names: list[str] = []
        self.loops: list[list[LoopAxes]] = []
        self.spatial_counts: list[int] = []
        first_axis = 0
        for op in dag.ops:
            is_input = isinstance(op, te.PlaceholderOp)
            spatial = len(op.output(0).shape) if is_input else len(op.axis)
            total = spatial if is_input else spatial + len(op.reduce_axis)
            self._insert(len(self.names), op.name, [(first_axis + i,) for i in range(total)], spatial)
            first_axis += total

    def _insert(self, stage: int, name: str, loops: list[LoopAxes], spatial: int) -> None:
        self.names.insert(stage, name)
        self.loops.insert(stage, loops)
        self.spatial_counts.insert(stage, spatial)

    def _split(self, stage: int, loop: int, parts: int) -> None:
        self.loops[stage][loop : loop + 1] = [self.loops[stage][loop]] * parts

    def apply(self, step: Step) -> None:
        """Apply one transform step, named by its kind as in ``transform_step.h``."""
        kind, stage = step[0], step[1]
        if kind == "SP":
            self._split(stage, step[2], len(step[4]) + 1)
        elif kind == "FSP":
            self._split(stage, step[2], step[4] + 1)
        elif kind == "FFSP":
            self._split(stage, step[2], 2)
        elif kind == "RE":
            self.loops[stage] = [self.loops[stage][i] for i in step[2]]
        elif kind == "FU":
            first, last = step[2][0], step[2][-1]
            fused = dict.fromkeys(axis for loop in self.loops[stage][first : last + 1] for axis in loop)
            self.loops[stage][first : last + 1] = [tuple(fused)]
        elif kind == "CHW":  # the new stage computes; the old one follows it and only writes
            name, loops, spatial = self.names[stage], self.loops[stage], self.spatial_counts[stage]
            self._insert(stage, f"{name}.{step[2]}", list(loops), spatial)
            self.loops[stage + 1] = loops[:spatial]
        elif kind == "CHR":
            spatial = self.spatial_counts[stage]
            name = f"{self.names[stage]}.{step[2]}"
            self._insert(stage + 1, name, self.loops[stage][:spatial], spatial)
        elif kind == "RF":  # the new stage reduces all loops but one, which becomes spatial
            loops, spatial = list(self.loops[stage]), self.spatial_counts[stage]
            factored = loops.pop(step[2])
            partial = list(loops)
            partial.insert(step[3], factored)
            self._insert(stage, f"{self.names[stage]}.rf", partial, spatial + 1)
            self.loops[stage + 1] = [*loops[:spatial], factored]
        elif kind not in ("AN", "CA", "CI", "CR", "PR", "SA"):
            raise CPruneError(f"unknown transform step {kind!r} in a record: tune again with this TVM")


def splits_of(dag: Any, steps: Sequence[Step]) -> tuple[Split, ...]:
    """Return the splits of a program in step order.

    Splits that follow another split (``FSP``, ``FFSP``) are omitted: they take its lengths.
    """
    stages, splits = _Stages(dag), []
    for index, step in enumerate(steps):
        if step[0] == "SP":
            stage, loop, extent, lengths = step[1:5]
            axes = stages.loops[stage][loop]
            inner = tuple(int(length) for length in lengths)
            splits.append(Split(index, stages.names[stage], axes, int(extent), inner))
        stages.apply(step)
    return tuple(splits)


def vectorized_stages(dag: Any, steps: Sequence[Step]) -> set[str]:
    """Return the names of the stages of which a program vectorizes a loop."""
    stages, vectorized = _Stages(dag), set[str]()
    for step in steps:
        if step[0] == "AN" and step[3] == VECTORIZED:
            vectorized.add(stages.names[step[1]])
        stages.apply(step)
    return vectorized


def loop_counts(dag: Any, steps: Sequence[Step]) -> list[int]:
    """Return the number of loops of each stage after ``steps``, for comparison with TVM's own replay."""
    stages = _Stages(dag)
    for step in steps:
        stages.apply(step)
    return [len(loops) for loops in stages.loops]


def channel_splits(task: Task, record: str) -> tuple[tuple[Split, ...], tuple[Split, ...]]:
    """Return the splits of a program along its output channels and along its input channels.

    In a depthwise convolution, both contain the same splits.
    """
    splits = splits_of(task.tvm_task.compute_dag, steps_of(record))

    def along(axes: LoopAxes) -> tuple[Split, ...]:
        return tuple(split for split in splits if len(split.axes) == 1 and split.axes[0] in axes)

    return along(task.out_axes), along(task.in_axes)
