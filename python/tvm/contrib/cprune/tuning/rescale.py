# SPDX-License-Identifier: Apache-2.0
"""A task at another width without its model.

The result has the workload key that extraction gives the same layer at that width, so that its records serve
both.
"""

from tvm.contrib.cprune.tuning.backends import backend_of
from tvm.contrib.cprune.types import CPruneError, Side, Task


def width_of(task: Task, side: Side) -> int:
    """Return a task's number of output or input channels.

    Raises
    ------
    CPruneError
        If the task comes from a file, or has no such channels.
    """
    if task.tvm_task is None:
        raise CPruneError(f"{task.title} comes from a file: extract it from its model to change its width")
    return backend_of(task).width_of(task, side)


def at_width(task: Task, width: int, side: Side = "out") -> Task:
    """Return ``task`` with ``width`` output or input channels.

    Raises
    ------
    CPruneError
        If the task comes from a file, the anchor is a grouped convolution, whose arithmetic holds its width,
        or it has no such channels.
    """
    if width < 1:
        raise CPruneError(f"width is {width}, expected at least 1")
    depthwise = task.out_axes == task.in_axes
    if task.groups > 1 and not depthwise:
        raise CPruneError(f"{task.title} is a grouped convolution: its program holds the size of its groups")
    return task if width == width_of(task, side) else backend_of(task).at_width(task, width, side)
