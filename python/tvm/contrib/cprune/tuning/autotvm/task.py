# SPDX-License-Identifier: Apache-2.0
"""AutoTVM's configurations: their structure, and moving them to other widths.

A template's split knobs are the axes of a task here: their numbers take the place of a compute DAG's axes,
and which of them run over channels is found by making the task anew with more channels.
"""

import json
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from tvm.autotvm.task.space import (
    AnnotateEntity,
    FallbackConfigEntity,
    InstantiationError,
    ReorderEntity,
    SplitEntity,
    SplitSpace,
)

import tvm
from tvm import autotvm
from tvm.contrib.cprune import _plugin
from tvm.contrib.cprune.targets.target import vector_lanes
from tvm.contrib.cprune.tuning.ansor.transplant import TransplantError, combinations
from tvm.contrib.cprune.types import Axis, CPruneError, Side, Split, Task

Knob = list[Any]
SIDES: tuple[Side, Side] = ("out", "in")


def workload_key(task: autotvm.task.Task) -> str:
    """Return what tells one AutoTVM task from another, as its records have it."""
    return json.dumps([task.name, task.args])


def axes_of(task: autotvm.task.Task) -> tuple[Axis, ...]:
    """Return ``(template, knob, extent)`` of every knob, an extent of 0 where it is no split."""
    spaces = task.config_space.space_map.items()
    return tuple(
        (task.name, name, space.product if isinstance(space, SplitSpace) else 0) for name, space in spaces
    )


def channel_axes(task: autotvm.task.Task) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Return the numbers of the knobs that split the anchor's output channels, and of those that split its
    input channels."""
    found = []
    for side in SIDES:
        other = resized(task, side, 2 * channels_of(task, side))
        before, after = axes_of(task), axes_of(other)
        changed = [i for i, (a, b) in enumerate(zip(before, after, strict=True)) if a[2] != b[2]]
        found.append(tuple(changed))
    return found[0], found[1]


def _dimensions(task: autotvm.task.Task, side: Side) -> dict[int, tuple[int, ...]]:
    """Return, for the data (0) and the weight (1) of a template, the dimensions of its channels."""
    name, rank = str(task.name), len(_tensors(task.args)[1])
    if rank == 2:
        channel, kernel = 1, "OI"
    elif "nhwc" in name:
        channel, kernel = 3, "HWOI" if name.startswith("depthwise") else "HWIO"
    else:
        channel, kernel = 1, "OIHW"
    if name.startswith("depthwise"):
        # A multiplier, of one, lies beside the channels in the kernel.
        return {0: (channel,), 1: (kernel.index("O"),)}
    return {0: (), 1: (kernel.index("O"),)} if side == "out" else {0: (channel,), 1: (kernel.index("I"),)}


def _tensors(args: Sequence[Any]) -> list[list[int]]:
    return [[int(n) for n in each[1]] for each in args if isinstance(each, tuple) and each[0] == "TENSOR"]


def channels_of(task: autotvm.task.Task, side: Side) -> int:
    """Return the anchor's number of output or input channels; for a grouped one's input, those of a group."""
    return _tensors(task.args)[1][_dimensions(task, side)[1][0]]


def resized(task: autotvm.task.Task, side: Side, width: int) -> autotvm.task.Task:
    """Return a task with another number of output or input channels."""
    shapes, old = _tensors(task.args), channels_of(task, side)
    for tensor, dims in _dimensions(task, side).items():
        for dim in dims:
            shapes[tensor][dim] = shapes[tensor][dim] * width // old
    args, new = list(task.args), iter(shapes)
    for i, each in enumerate(args):
        if isinstance(each, tuple) and each[0] == "TENSOR":
            args[i] = (each[0], tuple(next(new)), *each[2:])
    return autotvm.task.create(task.name, tuple(args), task.target)


def width_of(task: Task, side: Side) -> int:
    """Return a task's number of output or input channels."""
    return channels_of(task.tvm_task, side)


def at_width(task: Task, width: int, side: Side) -> Task:
    """Return ``task`` with ``width`` output or input channels."""
    new = resized(task.tvm_task, side, width)
    return replace(
        task, workload_key=workload_key(new), flops=float(new.flop), axes=axes_of(new), tvm_task=new
    )


def knobs_of(record: str) -> list[Knob]:
    """Return ``[name, kind, value]`` of each knob of an AutoTVM record.

    Raises
    ------
    CPruneError
        If the line is no such record.
    """
    try:
        return [list(each) for each in json.loads(record)["config"]["entity"]]
    except (ValueError, KeyError, TypeError):
        raise CPruneError(f"not a record of AutoTVM: {record[:80]!r}") from None


def channel_splits(task: Task, record: str) -> tuple[tuple[Split, ...], tuple[Split, ...]]:
    """Return the splits of a configuration along the output channels, and along the input channels."""
    names = [name for _, name, _ in task.axes]
    splits = []
    for name, kind, value in knobs_of(record):
        if kind == "sp":
            number = names.index(name)
            splits.append(Split(number, name, (number,), task.axes[number][2], tuple(value[1:])))
    sides = (task.out_axes, task.in_axes)
    out, into = (tuple(split for split in splits if split.axes[0] in axes) for axes in sides)
    return out, into


def transplant(record: str, old: Task, new: Task, limit: int = 3) -> list[autotvm.MeasureInput]:
    """Return ``MeasureInput`` of the configuration of ``record`` moved to ``new``: one where the width fits.

    Raises
    ------
    TransplantError
        If the tasks have other templates, or the template does not allow such a configuration.
    """
    if [axis[:2] for axis in old.axes] != [axis[:2] for axis in new.axes]:
        raise TransplantError(f"the templates differ: {old.axes[0][0]} and {new.axes[0][0]}")
    space = new.tvm_task.config_space
    extents = {name: extent for _, name, extent in new.axes}
    options: dict[int, list[tuple[int, ...]]] = {}
    lanes = vector_lanes(str(new.tvm_task.target))
    knobs = knobs_of(record)
    for number, (name, kind, value) in enumerate(knobs):
        if kind == "sp":
            choices = _plugin.fit_lengths(extents[name], value[1:], limit * 4, lanes)
            legal = [each for each in choices if _find(space.space_map[name], "sp", [-1, *each]) is not None]
            if not legal:
                raise TransplantError(f"{name} cannot split {extents[name]} like {value[1:]}")
            options[number] = legal[:limit]
    inputs = []
    for choice in combinations(options, limit) if options else [{}]:
        moved = [
            [name, kind, [-1, *choice[i]] if i in choice else value]
            for i, (name, kind, value) in enumerate(knobs)
        ]
        index = _index(space, moved)
        if index is not None:
            task = new.tvm_task
            inputs.append(autotvm.MeasureInput(task.target, task, space.get(index)))
    if not inputs:
        raise TransplantError(f"the template {old.axes[0][0]} does not allow the configuration at that width")
    return inputs


def fits(record: str, old: Task, new: Task) -> bool:
    """Whether the configuration keeps all its inner lengths in ``new``."""
    moved = transplant(record, old, new, 1)[0].config.to_json_dict()["entity"]
    pairs = zip(knobs_of(record), moved, strict=True)
    return all(list(a[2])[1:] == list(b[2])[1:] for a, b in pairs if a[1] == "sp")


def _value(entity: Any) -> Any:
    if isinstance(entity, SplitEntity):
        return list(entity.size)
    if isinstance(entity, ReorderEntity):
        return list(entity.perm)
    return list(entity.anns) if isinstance(entity, AnnotateEntity) else entity.val


def _find(space: Any, kind: str, value: Any) -> int | None:
    """Return the number of a value in a knob's space; the first length of a split follows from the others."""
    for number, entity in enumerate(space.entities):
        found = _value(entity)
        if (found[1:] == list(value)[1:]) if kind == "sp" else (found == value):
            return number
    return None


def _index(space: Any, knobs: Sequence[Knob]) -> int | None:
    """Return a configuration's index in its space, None where the space does not hold it."""
    by_name = {name: (kind, value) for name, kind, value in knobs}
    index, step = 0, 1
    for name, knob in space.space_map.items():
        number = _find(knob, *by_name[name])
        if number is None:
            return None
        index += number * step
        step *= len(knob)
    return index if space.is_index_valid(index) else None


def fallback_of(task: autotvm.task.Task) -> Any | None:
    """Return the configuration that TVM takes without any tuning, None where the space does not hold it."""
    config = FallbackConfigEntity()
    try:
        with task.target:
            task.instantiate(config)
    except (tvm.error.TVMError, InstantiationError, RuntimeError, ValueError):
        return None
    entities = config._entity_map
    if entities.keys() != task.config_space.space_map.keys():
        return None
    kinds = {name: "sp" if isinstance(each, SplitEntity) else "" for name, each in entities.items()}
    knobs = [[name, kinds[name], _value(each)] for name, each in entities.items()]
    index = _index(task.config_space, knobs)
    return None if index is None else task.config_space.get(index)
