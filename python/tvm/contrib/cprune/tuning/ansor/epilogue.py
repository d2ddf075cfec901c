# SPDX-License-Identifier: Apache-2.0
"""Moving programs between tasks that differ in the elementwise operators fused behind the anchor.

Ansor inlines all of these operators but the last, into whose loops it fuses the anchor. So the steps of a
convolution with a bias and a ReLU also apply to the same convolution with a bias, a residual and a ReLU,
after the numbers of stages are adapted and the residual's addition is inlined. Extents may differ, too; the
splits are then adapted as for any other width (see ``transplant.py``).
"""

from collections.abc import Hashable, Sequence
from dataclasses import dataclass, replace

from tvm import te
from tvm.contrib.cprune.tuning.ansor.steps import Step
from tvm.contrib.cprune.types import Task, TransplantError

# Steps that insert a stage, and the position of the new stage relative to theirs.
_INSERTIONS = {"CHW": 0, "RF": 0, "CHR": 1}


@dataclass(frozen=True)
class Operation:
    """An operation of a compute DAG, which is a stage of a program without steps."""

    name: str
    axes: tuple[tuple[str, int], ...]
    is_input: bool

    @property
    def extents(self) -> tuple[int, ...]:
        return tuple(extent for _, extent in self.axes)

    @property
    def structure(self) -> tuple[str, tuple[str, ...], bool]:
        """What does not depend on the extents."""
        return self.name, tuple(name for name, _ in self.axes), self.is_input


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


def operations(task: Task) -> list[Operation]:
    """Return the operations of a task's compute DAG in order.

    A task that was read from a file has no DAG. Its operations then follow from its axes, which lack scalar
    constants.
    """
    if task.tvm_task is not None:
        found, first = [], 0
        for op in task.tvm_task.compute_dag.ops:
            is_input = isinstance(op, te.PlaceholderOp)
            count = len(op.output(0).shape) if is_input else len(op.axis) + len(op.reduce_axis)
            axes = tuple((name, extent) for _, name, extent in task.axes[first : first + count])
            found.append(Operation(str(op.name), axes, is_input))
            first += count
        return found
    groups: list[tuple[str, list[tuple[str, int]]]] = []
    for op, axis, extent in task.axes:
        if not groups or groups[-1][0] != op or axis in [name for name, _ in groups[-1][1]]:
            groups.append((op, []))
        groups[-1][1].append((axis, extent))
    return [Operation(op, tuple(axes), axes[0][0].startswith("dim")) for op, axes in groups]


def same_structure(old: Task, new: Task) -> bool:
    """Return whether two tasks have the same operations and axes, whatever their extents."""
    if [axis[:2] for axis in old.axes] != [axis[:2] for axis in new.axes]:
        return False
    # Scalar constants have no axes.
    dags = [task.tvm_task.compute_dag for task in (old, new) if task.tvm_task is not None]
    return len({len(dag.ops) for dag in dags}) <= 1


def compare_epilogues(old: Sequence[Operation], new: Sequence[Operation]) -> Epilogue:
    """Return how two DAGs differ behind their anchors.

    Raises
    ------
    TransplantError
        If they differ elsewhere, or a stage between anchor and output is not elementwise.

    Notes
    -----
    Operations are compared by name and axes, whatever their extents.
    """
    common = 0
    for a, b in zip(old[:-1], new[:-1], strict=False):
        if a.structure != b.structure:
            break
        common += 1
    for ops in (old, new):
        behind = [op for op in ops[common:-1] if not op.is_input]
        if not common or any(op.extents not in ((), ops[-1].extents) for op in behind):
            names = [", ".join(op.name for op in side) for side in (old, new)]
            raise TransplantError(f"the programs compute differently: {names[0]} and {names[1]}")
    if len(old[-1].axes) != len(new[-1].axes):
        raise TransplantError("the fused operators differ, and the outputs have other dimensions")
    inlined = [number for number in range(common, len(new) - 1) if not new[number].is_input]
    return Epilogue(common, len(old), len(new), tuple(inlined))


def with_epilogue_of(old: Task, new: Task, epilogue: Epilogue) -> Task:
    """Return ``old`` with the axes of ``new``, which have the extents of ``old`` where both have the axis.

    The result describes a program of ``old`` whose steps ``move_steps`` returned.
    """
    before, after = operations(old), operations(new)
    sources = [*before[: epilogue.common], *after[epilogue.common : -1], before[-1]]
    axes = tuple(
        (op.name, name, extent)
        for op, source in zip(after, sources, strict=True)
        for (name, _), extent in zip(op.axes, source.extents, strict=True)
    )
    return replace(old, axes=axes, out_axes=new.out_axes, in_axes=new.in_axes)


def move_steps(steps: Sequence[Step], epilogue: Epilogue) -> list[Step]:
    """Return the steps of a program for the DAG with the other epilogue.

    Raises
    ------
    TransplantError
        If a step does more than inline a stage between the anchor and the output, or belongs to another task.
    """
    old: list[Hashable] = _labels("old", epilogue.old, epilogue.common)
    new: list[Hashable] = _labels("new", epilogue.new, epilogue.common)
    moved: list[Step] = []
    renumbered: dict[int, int] = {}
    for number, step in enumerate(steps):
        if step[1] >= len(old):
            raise TransplantError(f"the program has a stage {step[1]}, its task only {len(old)}")
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


def _labels(side: str, stages: int, common: int) -> list[Hashable]:
    """Return what identifies each stage in both DAGs, or in one of them if the other does not have it."""
    return [*range(common), *((side, number) for number in range(common, stages - 1)), "output"]


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
