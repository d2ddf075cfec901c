# SPDX-License-Identifier: Apache-2.0
"""Moving a program to the same operator at another width, instead of searching for a new one.

The state of a program is a list of steps on stages and loops; on the compute DAG of another width the same
steps are the same program with other extents. Where an extent is no longer a multiple of a split's inner
lengths, the lengths are rewritten: the innermost one, the vector, goes last.
"""

import json
import math
from typing import Any

import tvm
from tvm.contrib.cprune import _plugin
from tvm.contrib.cprune.measuring.records import state_of
from tvm.contrib.cprune.targets.target import vector_lanes
from tvm.contrib.cprune.tuning.ansor.steps import Step, splits_of, steps_of
from tvm.contrib.cprune.types import Axis, CPruneError, Split, Task


class TransplantError(CPruneError):
    """The program cannot move to that task; the message says why."""


def _check_same_structure(old: tuple[Axis, ...], new: tuple[Axis, ...]) -> None:
    if [axis[:2] for axis in old] != [axis[:2] for axis in new]:
        ops = [list(dict.fromkeys(op for op, _, _ in axes)) for axes in (old, new)]
        raise TransplantError(
            f"the programs compute differently: {', '.join(ops[0])} and {', '.join(ops[1])}"
        )


def combinations(options: dict[int, list[tuple[int, ...]]], limit: int) -> list[dict[int, tuple[int, ...]]]:
    """Return at most ``limit`` choices of lengths by step: the closest for each split, then one changed at a
    time."""
    first = {step: choices[0] for step, choices in options.items()}
    chosen = [first]
    for rank in range(1, limit):
        for step, choices in options.items():
            if rank < len(choices) and len(chosen) < limit:
                chosen.append({**first, step: choices[rank]})
    return chosen


def _fitting_lengths(extent: int, split: Split, new: Task, limit: int) -> list[tuple[int, ...]]:
    """Return lengths for a split of a channel axis.

    In a grouped convolution the inner loops must not reach over the border of two groups, for each of them
    reads other inputs: TVM cannot vectorize that.
    """
    along_output = split.axes[0] in new.out_axes
    grouped = new.groups > 1 and along_output and new.out_axes != new.in_axes
    fitted = extent // new.groups if grouped else extent
    lanes = vector_lanes(str(new.tvm_task.target))
    choices = _plugin.fit_lengths(fitted, split.lengths, limit, lanes)
    # The outermost loops are what the threads share: where too few iterations are left, shorter inner loops
    # may pay.
    if along_output and extent // split.product < _cores(new) and choices == [split.lengths]:
        choices += [
            each
            for each in _plugin.fit_lengths(fitted, _shortened(split.lengths), limit, lanes)
            if each not in choices
        ]
    return choices[:limit]


def _cores(task: Task) -> int:
    return int(task.tvm_task.hardware_params.num_cores)


def _shortened(lengths: tuple[int, ...]) -> tuple[int, ...]:
    """Return lengths with the first that can be halved halved, the innermost one last."""
    for index, length in enumerate(lengths):
        if length % 2 == 0:
            return (*lengths[:index], length // 2, *lengths[index + 1 :])
    return lengths


def rewrite_steps(record: str, old: Task, new: Task, limit: int) -> list[list[Step]]:
    """Return at most ``limit`` lists of steps that make ``record``'s program of ``old`` one of ``new``,
    closest first.

    Raises
    ------
    TransplantError
        If the tasks compute differently, or no lengths fit.
    """
    _check_same_structure(old.axes, new.axes)
    steps = steps_of(record)
    extents, options, shared = {}, {}, False
    # The DAGs have the same operations and axes; the old one may be known from a file alone.
    for split in splits_of(new.tvm_task.compute_dag, steps):
        if all(old.axes[axis][2] == new.axes[axis][2] for axis in split.axes):
            continue
        if len(split.axes) > 1 and split.extent < math.prod(old.axes[axis][2] for axis in split.axes):
            # The threads of a GPU load a tile together, whose size hangs on the inner lengths alone.
            shared = True
            continue
        if len(split.axes) != 1 or split.extent != old.axes[split.axes[0]][2]:
            raise TransplantError(f"{split.stage} splits a loop that is only a part of a channel axis")
        extent = new.axes[split.axes[0]][2]
        choices = _fitting_lengths(extent, split, new, limit)
        if not choices:
            raise TransplantError(f"no inner lengths like {list(split.lengths)} divide {extent}")
        extents[split.step], options[split.step] = extent, choices
    if shared:
        options = {
            step: [each for each in found if each == tuple(steps[step][4])] for step, found in options.items()
        }
        if not all(options.values()):
            raise TransplantError("its threads load a tile together, whose size would change")
    rewritten = []
    for choice in combinations(options, limit) if options else [{}]:
        moved = [list(step) for step in steps]
        for index, lengths in choice.items():
            moved[index][3], moved[index][4] = extents[index], list(lengths)
        rewritten.append(moved)
    return rewritten


def transplant(record: str, old: Task, new: Task, limit: int = 3) -> list[Any]:
    """Return ``MeasureInput`` of the program of ``record`` moved from ``old`` to ``new``: one where the width
    fits.

    Parameters
    ----------
    record
        A line of an auto_scheduler log, measured for ``old``.
    limit
        Variants to make where lengths must be rewritten.

    Raises
    ------
    TransplantError
        If no legal variant exists.
    """
    inputs, cause = [], ""
    for steps in rewrite_steps(record, old, new, limit):
        line = json.loads(record)
        line["i"][0][0] = new.workload_key
        line["i"][1][1] = steps
        state = state_of(json.dumps(line))
        try:
            new.tvm_task.compute_dag.infer_bound_from_state(state)
        except tvm.error.TVMError as error:
            cause = str(error).strip().splitlines()[-1]
            continue
        inputs.append(tvm.auto_scheduler.MeasureInput(new.tvm_task, state))
    if not inputs:
        raise TransplantError(f"TVM refuses the moved program: {cause}")
    return inputs


def fits(record: str, old: Task, new: Task) -> bool:
    """Whether the program keeps all its inner lengths in ``new``."""
    pairs = zip(steps_of(record), rewrite_steps(record, old, new, 1)[0], strict=True)
    return all(a[4] == b[4] for a, b in pairs if a[0] == "SP")
