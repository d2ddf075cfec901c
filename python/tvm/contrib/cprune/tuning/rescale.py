# SPDX-License-Identifier: Apache-2.0
"""Tasks at other widths, derived without the model.

The new workload key is the one that extraction from the pruned model would return, so both share records.
"""

from tvm.contrib.cprune.tuning.backends import backend_of
from tvm.contrib.cprune.types import CPruneError, Side, Task


def width_of(task: Task, side: Side) -> int:
    """Return the number of output or input channels of a task.

    Raises
    ------
    CPruneError
        If the task was read from a file or has no such channels.
    """
    if task.tvm_task is None:
        raise CPruneError(f"{task.title} comes from a file: extract it from its model to change its width")
    return backend_of(task).width_of(task, side)


def at_width(task: Task, width: int, side: Side = "out") -> Task:
    """Return the task with ``width`` output or input channels.

    Raises
    ------
    CPruneError
        If the width is less than 1, or the task was read from a file, has no such channels, or computes a
        grouped convolution, whose index arithmetic contains the size of its groups.
    """
    if width < 1:
        raise CPruneError(f"width is {width}, expected at least 1")
    depthwise = task.out_axes == task.in_axes
    if task.groups > 1 and not depthwise:
        raise CPruneError(
            f"{task.title} is a grouped convolution: its width cannot be changed in its program"
        )
    return task if width == width_of(task, side) else backend_of(task).at_width(task, width, side)
