# SPDX-License-Identifier: Apache-2.0
"""The structure of an Ansor program: which of its splits divide which axes of the compute DAG.

A record lists transform steps by stage and loop numbers that shift as steps insert stages and split, fuse and
reorder loops (``src/auto_scheduler/transform_step.cc``). Replaying the steps on lists of axis numbers (see
``axes.py``) tells what each split divides, without looking at a name.
"""

import json
from collections.abc import Sequence
from typing import Any

from tvm import te
from tvm.contrib.cprune.types import CPruneError, Split, Task

Axes = tuple[int, ...]
Step = list[Any]


def steps_of(record: str) -> list[Step]:
    """Return the transform steps of a record, a line of an auto_scheduler log.

    Raises
    ------
    CPruneError
        If the line is no such record.
    """
    try:
        return list(json.loads(record)["i"][1][1])
    except (ValueError, KeyError, IndexError, TypeError):
        raise CPruneError(f"not a record of auto_scheduler: {record[:80]!r}") from None


class _Stages:
    """The loops of each stage as tuples of the axes they run over, kept up to date step by step."""

    def __init__(self, dag: Any) -> None:
        self.names: list[str] = []
        self.loops: list[list[Axes]] = []
        self.spatial: list[int] = []
        number = 0
        for op in dag.ops:
            is_input = isinstance(op, te.PlaceholderOp)
            spatial = len(op.output(0).shape) if is_input else len(op.axis)
            total = spatial if is_input else spatial + len(op.reduce_axis)
            self._insert(len(self.names), op.name, [(number + i,) for i in range(total)], spatial)
            number += total

    def _insert(self, stage: int, name: str, loops: list[Axes], spatial: int) -> None:
        self.names.insert(stage, name)
        self.loops.insert(stage, loops)
        self.spatial.insert(stage, spatial)

    def _divide(self, stage: int, loop: int, parts: int) -> None:
        self.loops[stage][loop : loop + 1] = [self.loops[stage][loop]] * parts

    def apply(self, step: Step) -> None:
        kind, stage = step[0], step[1]
        if kind == "SP":
            self._divide(stage, step[2], len(step[4]) + 1)
        elif kind == "FSP":
            self._divide(stage, step[2], step[4] + 1)
        elif kind == "FFSP":
            self._divide(stage, step[2], 2)
        elif kind == "RE":
            self.loops[stage] = [self.loops[stage][i] for i in step[2]]
        elif kind == "FU":
            first, last = step[2][0], step[2][-1]
            fused = dict.fromkeys(axis for loop in self.loops[stage][first : last + 1] for axis in loop)
            self.loops[stage][first : last + 1] = [tuple(fused)]
        elif kind == "CHW":  # the new stage computes, the old one behind it only writes
            name, loops, spatial = self.names[stage], self.loops[stage], self.spatial[stage]
            self._insert(stage, f"{name}.{step[2]}", list(loops), spatial)
            self.loops[stage + 1] = loops[:spatial]
        elif kind == "CHR":
            loops, spatial = self.loops[stage][: self.spatial[stage]], self.spatial[stage]
            self._insert(stage + 1, f"{self.names[stage]}.{step[2]}", list(loops), spatial)
        elif kind == "RF":  # the new stage reduces all but one loop, which becomes spatial in it
            loops, spatial = list(self.loops[stage]), self.spatial[stage]
            factor = loops.pop(step[2])
            partial = [*loops[:spatial], *loops[spatial:]]
            partial.insert(step[3], factor)
            self._insert(stage, f"{self.names[stage]}.rf", partial, spatial + 1)
            self.loops[stage + 1] = [*loops[:spatial], factor]
        elif kind not in ("AN", "CA", "CI", "CR", "PR", "SA"):
            raise CPruneError(f"unknown transform step {kind!r} in a record")


def splits_of(dag: Any, steps: Sequence[Step]) -> tuple[Split, ...]:
    """Return every split with lengths of its own, in order; splits that follow another one take its
    lengths."""
    stages, splits = _Stages(dag), []
    for index, step in enumerate(steps):
        if step[0] == "SP":
            stage, loop, extent, lengths = step[1:5]
            axes = stages.loops[stage][loop]
            splits.append(
                Split(index, stages.names[stage], axes, int(extent), tuple(int(n) for n in lengths))
            )
        stages.apply(step)
    return tuple(splits)


def loop_counts(dag: Any, steps: Sequence[Step]) -> list[int]:
    """Return how many loops each stage has after ``steps``; TVM's own replay must agree."""
    stages = _Stages(dag)
    for step in steps:
        stages.apply(step)
    return [len(loops) for loops in stages.loops]


def channel_splits(task: Task, record: str) -> tuple[tuple[Split, ...], tuple[Split, ...]]:
    """Return the splits of a task's program along its output channels, and along its input channels.

    In a depthwise convolution a split is in both.
    """
    splits = splits_of(task.tvm_task.compute_dag, steps_of(record))

    def along(axes: Axes) -> tuple[Split, ...]:
        return tuple(split for split in splits if len(split.axes) == 1 and split.axes[0] in axes)

    return along(task.out_axes), along(task.in_axes)
