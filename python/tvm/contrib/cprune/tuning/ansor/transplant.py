# SPDX-License-Identifier: Apache-2.0
"""Transplants: replaying a program on the same operator at another width instead of searching again.

A program also moves to another image size, and to a task that differs in the operators fused behind the
anchor; see ``epilogue.py``.

The state of a program is a list of transform steps. Applied to the compute DAG of another width, they give
the same loop nest with other extents. If an extent is not a multiple of a split's inner lengths, the lengths
are rewritten. The innermost length, usually the vector, is changed last.
"""

from typing import Any

import tvm
from tvm.contrib.cprune import _plugin
from tvm.contrib.cprune.measuring.records import state_of
from tvm.contrib.cprune.messages import last_line
from tvm.contrib.cprune.targets.target import core_count, vector_lanes
from tvm.contrib.cprune.tuning.ansor.epilogue import (
    compare_epilogues,
    move_steps,
    operations,
    same_structure,
    with_epilogue_of,
)
from tvm.contrib.cprune.tuning.ansor.fused_loops import resize_fused_splits
from tvm.contrib.cprune.tuning.ansor.row_partition import partition_rows
from tvm.contrib.cprune.tuning.ansor.steps import Step, splits_of, steps_of, with_steps
from tvm.contrib.cprune.tuning.ansor.tile_blocks import is_block_program
from tvm.contrib.cprune.tuning.variants import Lengths, length_variants
from tvm.contrib.cprune.types import Split, Task, TransplantError


def transplant(record: str, old: Task, new: Task, limit: int = 3) -> list[Any]:
    """Move a program to another width of its operator.

    Parameters
    ----------
    record
        A line of an auto_scheduler log, measured for ``old``.
    old, new
        The task of the record, and the same task at the new width.
    limit
        Maximum number of variants if inner lengths must change.

    Returns
    -------
    ``MeasureInput`` for each variant, the closest to the record first. Usually a single one if the program
    keeps its inner loops.

    Raises
    ------
    TransplantError
        If no legal variant exists.
    """
    inputs, cause = [], ""
    for steps in rewrite_steps(record, old, new, limit):
        steps = partition_rows(new.tvm_task, steps)
        try:
            state = state_of(with_steps(record, steps, new.workload_key))
            new.tvm_task.compute_dag.infer_bound_from_state(state)
        except tvm.error.TVMError as error:
            cause = last_line(error)
            continue
        inputs.append(tvm.auto_scheduler.MeasureInput(new.tvm_task, state))
    if not inputs:
        raise TransplantError(f"TVM rejects the transplanted program: {cause}")
    return inputs


def keeps_inner_loops(record: str, old: Task, new: Task) -> bool:
    """Return whether the width of ``new`` fits the program, so that all inner lengths stay the same.

    Raises
    ------
    TransplantError
        If the program cannot be moved at all.
    """
    before, after = steps_of(record), rewrite_steps(record, old, new, 1)[0]
    lengths = [[step[4] for step in steps if step[0] == "SP"] for steps in (before, after)]
    return lengths[0] == lengths[1]


def rewrite_steps(record: str, old: Task, new: Task, limit: int) -> list[list[Step]]:
    """Rewrite the transform steps of a program for another width, or for other fused operators.

    Parameters
    ----------
    record, old, new, limit
        See ``transplant``.

    Returns
    -------
    At most ``limit`` lists of steps, the closest to the record first.

    Raises
    ------
    TransplantError
        If the tasks compute differently, or no inner lengths divide a new extent.
    """
    steps = steps_of(record)
    if not same_structure(old, new):
        epilogue = compare_epilogues(operations(old), operations(new))
        steps, old = move_steps(steps, epilogue), with_epilogue_of(old, new, epilogue)
    extents, choices = _resized_splits(steps, old, new, limit)
    rewritten, flaws = [], []
    for variant in length_variants(choices, limit):
        new_steps = [list(step) for step in steps]
        for index, lengths in variant.items():
            new_steps[index][3], new_steps[index][4] = extents[index], list(lengths)
        try:
            rewritten.append(resize_fused_splits(record, new_steps, old, new))
        except TransplantError as error:
            flaws.append(error)
    if not rewritten:
        raise flaws[-1]
    return rewritten


def _resized_splits(
    steps: list[Step], old: Task, new: Task, limit: int
) -> tuple[dict[int, int], dict[int, list[Lengths]]]:
    """Return the new extent and the inner lengths to try for each split whose extent changes.

    Both are indexed by the split's step. Splits of fused loops are left out.
    """
    extents: dict[int, int] = {}
    choices: dict[int, list[Lengths]] = {}
    blocks, channels = is_block_program(new.tvm_task, steps), {*new.out_axes, *new.in_axes}
    # The new task's DAG serves for both: operations and axes are the same, and a task from a file has no DAG.
    for split in splits_of(new.tvm_task.compute_dag, steps):
        axis, *fused = split.axes
        if fused or old.axes[axis][2] == new.axes[axis][2]:
            continue
        if split.extent != old.axes[axis][2]:
            raise TransplantError(f"{split.stage} splits a loop over only a part of a channel axis")
        extent = new.axes[axis][2]
        extents[split.step] = extent
        # Blocks of tiles keep their size: tiles and blocks may extend beyond the image.
        keep = blocks and axis not in channels
        choices[split.step] = [split.lengths] if keep else _fitting_lengths(extent, split, new, limit)
        if not choices[split.step]:
            raise TransplantError(f"no inner lengths similar to {list(split.lengths)} divide {extent}")
    return extents, choices


def _fitting_lengths(extent: int, split: Split, new: Task, limit: int) -> list[Lengths]:
    """Return inner lengths for a split of a channel axis, the closest to its own first.

    The inner loops of a grouped convolution must not cross the boundary between two groups: the groups read
    different inputs, which TVM cannot vectorize.
    """
    along_output = split.axes[0] in new.out_axes
    grouped = new.groups > 1 and along_output and new.out_axes != new.in_axes
    divisible = extent // new.groups if grouped else extent
    lanes = vector_lanes(str(new.tvm_task.target))
    choices = _plugin.fit_lengths(divisible, split.lengths, limit, lanes)
    # Threads share the outermost loops. If those have fewer iterations than there are cores, shorter inner
    # loops may be faster.
    cores = core_count(new.tvm_task)
    if along_output and extent // split.product < cores and choices == [split.lengths]:
        shorter = _plugin.fit_lengths(divisible, _halve_first_even(split.lengths), limit, lanes)
        choices += [lengths for lengths in shorter if lengths not in choices]
    return choices[:limit]


def _halve_first_even(lengths: Lengths) -> Lengths:
    """Halve the first even length; the innermost is tried last."""
    for index, length in enumerate(lengths):
        if length % 2 == 0:
            return (*lengths[:index], length // 2, *lengths[index + 1 :])
    return lengths
