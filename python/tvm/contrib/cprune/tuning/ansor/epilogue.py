# SPDX-License-Identifier: Apache-2.0
"""Moving programs between tasks that differ only in the elementwise operators fused behind the anchor.

Ansor inlines all of these operators but the last, into whose loops it fuses the anchor. So the steps of a
convolution with a bias and a ReLU also apply to the same convolution with a bias, a residual and a ReLU,
after the numbers of stages are adapted and the residual's addition is inlined.
"""

from collections.abc import Hashable, Sequence
from dataclasses import dataclass

from tvm.contrib.cprune.tuning.ansor.steps import Step
from tvm.contrib.cprune.types import Axis, TransplantError

# An operation of a compute DAG: its name, and name and extent of each axis.
Operation = tuple[str, tuple[tuple[str, int], ...]]
# Steps that insert a stage, and the position of the new stage relative to theirs.
_INSERTIONS = {"CHW": 0, "RF": 0, "CHR": 1}


@dataclass(frozen=True)
class Epilogue:
    """The stages of two DAGs that are not in both.

    Attributes
    ----------
    common : int
        Number of leading stages in which the DAGs are equal.
    old, new : int
        Numbers of stages. The last one of each is the output.
    new_inlined : tuple of int
        Stages of the new DAG that compute between the common stages and the output.
    """

    common: int
    old: int
    new: int
    new_inlined: tuple[int, ...]


def operations(axes: Sequence[Axis]) -> list[Operation]:
    """Group the axes of a compute DAG by operation; see ``axes.axes_of``."""
    groups: list[tuple[str, list[tuple[str, int]]]] = []
    for op, axis, extent in axes:
        if not groups or groups[-1][0] != op or axis in [name for name, _ in groups[-1][1]]:
            groups.append((op, []))
        groups[-1][1].append((axis, extent))
    return [(op, tuple(loops)) for op, loops in groups]


def compare_epilogues(old: Sequence[Axis], new: Sequence[Axis]) -> Epilogue:
    """Return how two DAGs differ behind their anchors.

    Raises
    ------
    TransplantError
        If they differ elsewhere, or a stage between anchor and output is not elementwise.
    """
    ours, theirs = operations(old), operations(new)
    common = 0
    for a, b in zip(ours[:-1], theirs[:-1], strict=False):
        if a != b:
            break
        common += 1
    for ops in (ours, theirs):
        shape = _extents(ops[-1])
        if any(not _is_placeholder(op) and _extents(op) != shape for op in ops[common:-1]) or not common:
            names = [", ".join(name for name, _ in side) for side in (ours, theirs)]
            raise TransplantError(f"the programs compute differently: {names[0]} and {names[1]}")
    if _extents(ours[-1]) != _extents(theirs[-1]):
        raise TransplantError("the fused operators differ, and the outputs have other shapes")
    inlined = [number for number in range(common, len(theirs) - 1) if not _is_placeholder(theirs[number])]
    return Epilogue(common, len(ours), len(theirs), tuple(inlined))


def _extents(operation: Operation) -> list[int]:
    return [extent for _, extent in operation[1]]


def _is_placeholder(operation: Operation) -> bool:
    return all(axis.startswith("dim") for axis, _ in operation[1])


def move_steps(steps: Sequence[Step], epilogue: Epilogue) -> list[Step]:
    """Return the steps of a program for the DAG with the other epilogue.

    Raises
    ------
    TransplantError
        If a step does more than inline a stage between the anchor and the output.
    """
    old: list[Hashable] = [_label(number, epilogue, epilogue.old) for number in range(epilogue.old)]
    new: list[Hashable] = [_label(number, epilogue, epilogue.new) for number in range(epilogue.new)]
    moved: list[Step] = []
    renumbered: dict[int, int] = {}
    for number, step in enumerate(steps):
        label = old[step[1]]
        if label not in new:
            if step[0] != "CI":
                raise TransplantError(f"a step {step[0]} of the program changes a fused operator")
            continue
        renumbered[number] = len(moved)
        position = new.index(label)
        moved.append(_renumber(step, position, old, new, renumbered))
        if step[0] in _INSERTIONS:
            old.insert(step[1] + _INSERTIONS[step[0]], ("inserted", number))
            new.insert(position + _INSERTIONS[step[0]], ("inserted", number))
    moved += [["CI", new.index(("new", number))] for number in epilogue.new_inlined]
    return moved


def _label(number: int, epilogue: Epilogue, stages: int) -> Hashable:
    """Return what identifies a stage in both DAGs, or in one of them if the other does not have it."""
    if number < epilogue.common:
        return number
    if number == stages - 1:
        return "output"
    return ("new" if stages == epilogue.new else "old", number)


def _renumber(
    step: Step, position: int, old: list[Hashable], new: list[Hashable], steps: dict[int, int]
) -> Step:
    """Return a step with the stage and step numbers of the new program."""
    moved = [step[0], position, *step[2:]]
    if step[0] == "CA":
        moved[2] = new.index(old[step[2]])
    elif step[0] == "CHR":
        moved[3] = [new.index(old[stage]) for stage in step[3]]
    elif step[0] == "FSP":
        moved[3] = steps[step[3]]
    elif step[0] == "FFSP":
        moved[3] = [steps[number] for number in step[3]]
    return moved
