# SPDX-License-Identifier: Apache-2.0
"""The tuning backends behind one interface, for the task table, the pruning loop and the commands."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from tvm.contrib.cprune.tuning.ansor import resize as ansor_resize
from tvm.contrib.cprune.tuning.ansor import search as ansor_search
from tvm.contrib.cprune.tuning.ansor import steps as ansor_steps
from tvm.contrib.cprune.tuning.ansor import transplant as ansor_transplant
from tvm.contrib.cprune.tuning.autotvm import configuration as autotvm_configuration
from tvm.contrib.cprune.tuning.autotvm import search as autotvm_search
from tvm.contrib.cprune.tuning.autotvm import task as autotvm_task
from tvm.contrib.cprune.types import Side, Split, Task, TunerName


@dataclass(frozen=True)
class TuningBackend:
    """The functions of one tuning backend.

    Attributes
    ----------
    layout : {"NHWC", "NCHW"}
        Data layout for convolutions on CPUs.
    channel_splits : callable (task, record) -> (out_splits, in_splits)
        Returns the splits of a program along the output channels and along the input channels.
    transplant : callable (record, old, new, limit) -> list of MeasureInput
        Moves a program from task ``old`` to ``new``, the same operator at another width. Returns at most
        ``limit`` variants, the closest first. Raises ``TransplantError`` if there are none.
    keeps_inner_loops : callable (record, old, new) -> bool
        Returns whether the width of ``new`` fits the program: a transplant keeps its inner loops. Raises
        ``TransplantError`` if the program cannot be moved.
    search : callable (tasks, config, measurer, log, seed, report, strict, goals, known) -> int
        Searches for fast programs, adds their records to ``log`` and returns the number of new trials. Tasks
        that reach their latency in ``goals`` get no more. Records in ``known`` count as no trials.
        Ansor's also accepts ``alternatives``.
    width_of : callable (task, side) -> int
        Returns the number of output or input channels of a task.
    at_width : callable (task, width, side) -> Task
        Returns the task with another number of output or input channels.
    """

    layout: str
    channel_splits: Callable[[Task, str], tuple[tuple[Split, ...], tuple[Split, ...]]]
    transplant: Callable[..., list[Any]]
    keeps_inner_loops: Callable[[str, Task, Task], bool]
    search: Callable[..., int]
    width_of: Callable[[Task, Side], int]
    at_width: Callable[[Task, int, Side], Task]


BACKENDS: dict[TunerName, TuningBackend] = {
    "ansor": TuningBackend(
        layout="NHWC",
        channel_splits=ansor_steps.channel_splits,
        transplant=ansor_transplant.transplant,
        keeps_inner_loops=ansor_transplant.keeps_inner_loops,
        search=ansor_search.search,
        width_of=ansor_resize.width_of,
        at_width=ansor_resize.at_width,
    ),
    "autotvm": TuningBackend(
        layout="NCHW",
        channel_splits=autotvm_configuration.channel_splits,
        transplant=autotvm_configuration.transplant,
        keeps_inner_loops=autotvm_configuration.keeps_inner_loops,
        search=autotvm_search.search,
        width_of=autotvm_task.width_of,
        at_width=autotvm_task.at_width,
    ),
}


def backend_of(task: Task) -> TuningBackend:
    """Return the backend that a task belongs to."""
    return BACKENDS[task.tuner]
