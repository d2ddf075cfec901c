# SPDX-License-Identifier: Apache-2.0
"""Splits of fused loops, whose extents are known only after the other splits.

Ansor splits fused loops in programs for GPUs (``src/auto_scheduler/search_policy/sketch_policy_rules.cc``):
it divides a stage that is not tiled, or a whole reduction, among threads, and it lets the threads of a block
load tiles into shared memory together (cooperative fetching). The size of such a tile follows from the inner
lengths of the stage that reads it. So does the number of threads, because its step (``FFSP``) refers to
their splits. On CPUs, Ansor splits the fused loops of a reduction to factor it (``RF``).
"""

import math

import tvm
from tvm.contrib.cprune.measuring.records import state_of
from tvm.contrib.cprune.messages import last_line
from tvm.contrib.cprune.tuning.ansor.steps import VECTORIZED, Step, splits_of, with_steps
from tvm.contrib.cprune.types import Split, Task, TransplantError


def resize_fused_splits(record: str, steps: list[Step], old: Task, new: Task) -> list[Step]:
    """Return transform steps whose splits of fused loops have the extents of a task.

    Parameters
    ----------
    record
        The line of an auto_scheduler log that the steps come from.
    steps
        Its steps, with the other splits already rewritten for ``new``.
    old, new
        The task of the record, and the task to move it to.

    Returns
    -------
    The steps. Numbers of threads stay the same: TVM guards loops that they do not divide. Vectors are
    shortened to a length that divides the loop.

    Raises
    ------
    TransplantError
        If a factored reduction has another extent, or TVM cannot infer the bounds of the program's loops.
    """
    resized = [list(step) for step in steps]
    for split in splits_of(new.tvm_task.compute_dag, steps):
        if len(split.axes) == 1 or all(old.axes[axis][2] == new.axes[axis][2] for axis in split.axes):
            continue
        if _next_step(steps, split)[:1] == ["RF"]:
            raise TransplantError(f"{split.stage} factors a reduction whose extent changes")
        extent = _extent(record, resized[: split.step], resized[split.step], new)
        lengths = [math.gcd(extent, split.product)] if _is_vector(resized, split) else list(split.lengths)
        resized[split.step][3:5] = [extent, lengths]
    return resized


def _extent(record: str, before: list[Step], split: Step, task: Task) -> int:
    """Return the extent of the loop that a step splits, from TVM's bound inference on the steps before it."""
    line = with_steps(record, before, task.workload_key)
    try:
        state = task.tvm_task.compute_dag.infer_bound_from_state(state_of(line))
    except tvm.error.TVMError as error:
        raise TransplantError(f"TVM rejects the transplanted program: {last_line(error)}") from error
    return int(state.stages[split[1]].iters[split[2]].range.extent)


def _is_vector(steps: list[Step], split: Split) -> bool:
    """Return whether a split's only inner loop is vectorized."""
    _, stage, loop, *_ = steps[split.step]
    return len(split.lengths) == 1 and _next_step(steps, split) == ["AN", stage, loop + 1, VECTORIZED]


def _next_step(steps: list[Step], split: Split) -> Step:
    """Return the step after a split, [] if it is the last one."""
    return next(iter(steps[split.step + 1 :]), [])
