# SPDX-License-Identifier: Apache-2.0
"""AutoTVM tasks: their knobs, those that split channels, and tasks at other widths.

The knobs of a template take the place of a compute DAG's axes. Knobs that split channels are identified by
creating the task again with more channels.
"""

import json
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from tvm.autotvm.task.space import SplitSpace

from tvm import autotvm
from tvm.contrib.cprune.types import Axis, Side, Task

SIDES: tuple[Side, Side] = ("out", "in")


def workload_key(task: autotvm.task.Task) -> str:
    """Return the key that identifies an AutoTVM task in its records."""
    return json.dumps([task.name, task.args])


def axes_of(task: autotvm.task.Task) -> tuple[Axis, ...]:
    """Return ``(template, knob, extent)`` for every knob. The extent is 0 if the knob is not a split."""
    spaces = task.config_space.space_map.items()
    return tuple(
        (task.name, name, space.product if isinstance(space, SplitSpace) else 0) for name, space in spaces
    )


def channel_axes(task: autotvm.task.Task) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Return the numbers of the knobs that split the anchor's output channels and its input channels."""
    by_side = []
    for side in SIDES:
        doubled = resize(task, side, 2 * channels_of(task, side))
        pairs = zip(axes_of(task), axes_of(doubled), strict=True)
        by_side.append(tuple(number for number, (old, new) in enumerate(pairs) if old[2] != new[2]))
    return by_side[0], by_side[1]


def _channel_dims(task: autotvm.task.Task, side: Side) -> dict[int, tuple[int, ...]]:
    """Return the channel dimensions of a template's data (argument 0) and weight (argument 1)."""
    name, rank = str(task.name), len(_tensor_shapes(task.args)[1])
    if rank == 2:
        channel, kernel = 1, "OI"
    elif "nhwc" in name:
        channel, kernel = 3, "HWOI" if name.startswith("depthwise") else "HWIO"
    else:
        channel, kernel = 1, "OIHW"
    if name.startswith("depthwise"):
        # The kernel's "I" is the channel multiplier, which is 1.
        return {0: (channel,), 1: (kernel.index("O"),)}
    return {0: (), 1: (kernel.index("O"),)} if side == "out" else {0: (channel,), 1: (kernel.index("I"),)}


def _is_tensor(arg: Any) -> bool:
    return isinstance(arg, tuple) and arg[0] == "TENSOR"


def _tensor_shapes(args: Sequence[Any]) -> list[list[int]]:
    return [[int(size) for size in arg[1]] for arg in args if _is_tensor(arg)]


def channels_of(task: autotvm.task.Task, side: Side) -> int:
    """Return the anchor's number of output or input channels; of a grouped anchor, inputs per group."""
    return _tensor_shapes(task.args)[1][_channel_dims(task, side)[1][0]]


def resize(task: autotvm.task.Task, side: Side, width: int) -> autotvm.task.Task:
    """Return an AutoTVM task with another number of output or input channels."""
    shapes, old_width = _tensor_shapes(task.args), channels_of(task, side)
    for tensor, dims in _channel_dims(task, side).items():
        for dim in dims:
            shapes[tensor][dim] = shapes[tensor][dim] * width // old_width
    new_shapes = iter(shapes)
    args = tuple((arg[0], tuple(next(new_shapes)), *arg[2:]) if _is_tensor(arg) else arg for arg in task.args)
    return autotvm.task.create(task.name, args, task.target)


def width_of(task: Task, side: Side) -> int:
    """Return the number of output or input channels of a task; see ``tuning.rescale.width_of``."""
    return channels_of(task.tvm_task, side)


def at_width(task: Task, width: int, side: Side) -> Task:
    """Return the task with ``width`` output or input channels; see ``tuning.rescale.at_width``."""
    new = resize(task.tvm_task, side, width)
    return replace(
        task, workload_key=workload_key(new), flops=float(new.flop), axes=axes_of(new), tvm_task=new
    )
