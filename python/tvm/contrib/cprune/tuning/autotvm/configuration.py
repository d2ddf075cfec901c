# SPDX-License-Identifier: Apache-2.0
"""AutoTVM configurations: their splits, and their transplants to other widths."""

import json
from collections.abc import Mapping, Sequence
from typing import Any

from tvm.autotvm.task.space import (
    AnnotateEntity,
    FallbackConfigEntity,
    InstantiationError,
    ReorderEntity,
    SplitEntity,
)

import tvm
from tvm import autotvm
from tvm.contrib.cprune import _plugin
from tvm.contrib.cprune.targets.target import vector_lanes
from tvm.contrib.cprune.tuning.variants import Lengths, length_variants
from tvm.contrib.cprune.types import CPruneError, Split, Task, TransplantError

# ``[name, kind, value]`` as in a record; the kind of a split is "sp".
Knob = list[Any]


def knobs_of(record: str) -> list[Knob]:
    """Return ``[name, kind, value]`` for each knob of an AutoTVM record.

    Raises
    ------
    CPruneError
        If the line is not an AutoTVM record.
    """
    try:
        return [list(knob) for knob in json.loads(record)["config"]["entity"]]
    except (ValueError, KeyError, TypeError):
        raise CPruneError(f"not a record of AutoTVM: {record[:80]!r}") from None


def channel_splits(task: Task, record: str) -> tuple[tuple[Split, ...], tuple[Split, ...]]:
    """Return the splits of a configuration along the output channels and along the input channels."""
    names = [name for _, name, _ in task.axes]
    splits = []
    for name, kind, value in knobs_of(record):
        if kind == "sp":
            number = names.index(name)
            splits.append(Split(number, name, (number,), task.axes[number][2], tuple(value[1:])))
    out_splits, in_splits = (
        tuple(split for split in splits if split.axes[0] in axes) for axes in (task.out_axes, task.in_axes)
    )
    return out_splits, in_splits


def transplant(record: str, old: Task, new: Task, limit: int = 3) -> list[autotvm.MeasureInput]:
    """Move a configuration to another width of its operator.

    Parameters
    ----------
    record
        A line of an AutoTVM log, measured for ``old``.
    old, new
        The task of the record, and the same task at the new width.
    limit
        Maximum number of variants if inner lengths must change.

    Returns
    -------
    ``MeasureInput`` for each variant, the closest to the record first. A single one if the configuration
    keeps its inner lengths.

    Raises
    ------
    TransplantError
        If the tasks have different templates, or the template's space has no such configuration.
    """
    if [axis[:2] for axis in old.axes] != [axis[:2] for axis in new.axes]:
        raise TransplantError(f"the templates differ: {old.axes[0][0]} and {new.axes[0][0]}")
    task, space = new.tvm_task, new.tvm_task.config_space
    knobs = knobs_of(record)
    inputs = []
    for variant in length_variants(_length_choices(knobs, new, limit), limit):
        moved = [
            [name, kind, [-1, *variant[number]] if number in variant else value]
            for number, (name, kind, value) in enumerate(knobs)
        ]
        index = _config_index(space, moved)
        if index is not None:
            inputs.append(autotvm.MeasureInput(task.target, task, space.get(index)))
    if not inputs:
        raise TransplantError(f"the space of {old.axes[0][0]} has no such configuration at the new width")
    return inputs


def _length_choices(knobs: Sequence[Knob], new: Task, limit: int) -> Mapping[int, list[Lengths]]:
    """Return the inner lengths to try for each split, by the number of its knob."""
    space_map = new.tvm_task.config_space.space_map
    extents = {name: extent for _, name, extent in new.axes}
    lanes = vector_lanes(str(new.tvm_task.target))
    choices = {}
    for number, (name, kind, value) in enumerate(knobs):
        if kind != "sp":
            continue
        # The space may lack some of the closest lengths, so that more candidates are needed.
        candidates = _plugin.fit_lengths(extents[name], value[1:], limit * 4, lanes)
        legal = [
            lengths
            for lengths in candidates
            if _entity_index(space_map[name], "sp", [-1, *lengths]) is not None
        ]
        if not legal:
            raise TransplantError(f"{name} cannot split {extents[name]} similarly to {value[1:]}")
        choices[number] = legal[:limit]
    return choices


def keeps_inner_loops(record: str, old: Task, new: Task) -> bool:
    """Return whether the width of ``new`` fits the configuration, so that all inner lengths stay the same.

    Raises
    ------
    TransplantError
        If the configuration cannot be moved at all.
    """
    moved = transplant(record, old, new, 1)[0].config.to_json_dict()["entity"]
    pairs = zip(knobs_of(record), moved, strict=True)
    return all(list(before[2])[1:] == list(after[2])[1:] for before, after in pairs if before[1] == "sp")


def _entity_value(entity: Any) -> Any:
    if isinstance(entity, SplitEntity):
        return list(entity.size)
    if isinstance(entity, ReorderEntity):
        return list(entity.perm)
    return list(entity.anns) if isinstance(entity, AnnotateEntity) else entity.val


def _entity_index(space: Any, kind: str, value: Any) -> int | None:
    """Return the index of a value in a knob's space, or None if the space lacks it.

    The first length of a split is ignored: it follows from the others.
    """
    for index, entity in enumerate(space.entities):
        candidate = _entity_value(entity)
        if (candidate[1:] == list(value)[1:]) if kind == "sp" else (candidate == value):
            return index
    return None


def _config_index(space: Any, knobs: Sequence[Knob]) -> int | None:
    """Return the index of a configuration in its space, or None if the space lacks it."""
    by_name = {name: (kind, value) for name, kind, value in knobs}
    config_index, stride = 0, 1
    for name, knob_space in space.space_map.items():
        index = _entity_index(knob_space, *by_name[name])
        if index is None:
            return None
        config_index += index * stride
        stride *= len(knob_space)
    return config_index if space.is_index_valid(config_index) else None


def fallback_config(task: autotvm.task.Task) -> Any | None:
    """Return the configuration that TVM uses without tuning, or None if it is not in the space."""
    config = FallbackConfigEntity()
    try:
        with task.target:
            task.instantiate(config)
    except (tvm.error.TVMError, InstantiationError, RuntimeError, ValueError):
        return None
    entities = config._entity_map
    if entities.keys() != task.config_space.space_map.keys():
        return None
    knobs = [
        [name, "sp" if isinstance(entity, SplitEntity) else "", _entity_value(entity)]
        for name, entity in entities.items()
    ]
    index = _config_index(task.config_space, knobs)
    return None if index is None else task.config_space.get(index)
