# SPDX-License-Identifier: Apache-2.0
"""The start of a search: programs of the library on the tasks of a new network."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from tvm.contrib.cprune.measuring.measurer import Measurer
from tvm.contrib.cprune.measuring.records import RecordLog
from tvm.contrib.cprune.program_library import nearest, work
from tvm.contrib.cprune.table import Row
from tvm.contrib.cprune.types import Task, TransplantError

# Donors measured on each task, and the nearest donors that are asked for them.
MAX_DONORS, MAX_ASKED = 3, 12
# A task is settled at this fraction of the speed that its donors have at their own shapes.
SETTLED = 0.9
# The speed of this machine relative to that of the donors is this quantile over all tasks. Slower tasks may
# have donors that fit badly.
QUANTILE = 0.75

Transplant = Callable[..., list[Any]]


def measure_donors(
    tasks: Sequence[Task],
    library: Sequence[Row],
    transplant: Transplant,
    measurer: Measurer,
    log: RecordLog,
    batch: int,
) -> frozenset[str]:
    """Measure on each task the programs of the library that are nearest in shape.

    Parameters
    ----------
    tasks
        The tasks of the network.
    library
        Programs of earlier searches.
    transplant
        The transplant of the tuning backend.
    log
        Receives the records, as those of trials.
    batch
        Number of programs to compile and measure together.

    Returns
    -------
    The workload keys of the tasks that need no search.
    """
    inputs: list[Any] = []
    expected: dict[str, float] = {}
    for task in tasks:
        moved, rows = _donors(task, library, transplant)
        inputs += moved
        if rows:
            expected[task.workload_key] = max(work(row.task) / row.program.latency.median for row in rows)
    for start in range(0, len(inputs), batch):
        measurer.measure_new(inputs[start : start + batch], log)
    return settled(tasks, expected, log)


def settled(tasks: Iterable[Task], expected: Mapping[str, float], log: RecordLog) -> frozenset[str]:
    """Return the workload keys of the tasks that are as fast as their donors.

    Parameters
    ----------
    expected
        Operations per second of each task's donors at their own shapes, by workload key.
    log
        The programs measured for the tasks.

    Notes
    -----
    Donors may have been measured on a faster or slower machine. So speeds are compared relative to those of
    the other tasks.
    """
    ratios = {}
    for task in tasks:
        best = log.best(task.workload_key)
        if task.workload_key in expected and best is not None and best.latency is not None:
            ratios[task.workload_key] = work(task) / best.latency.median / expected[task.workload_key]
    if not ratios:
        return frozenset()
    machine = float(np.quantile(list(ratios.values()), QUANTILE))
    return frozenset(key for key, ratio in ratios.items() if ratio >= SETTLED * machine)


def _donors(task: Task, library: Sequence[Row], transplant: Transplant) -> tuple[list[Any], list[Row]]:
    """Return ``MeasureInput`` of the nearest programs that can move to a task, and their rows."""
    inputs: list[Any] = []
    rows: list[Row] = []
    for row in nearest(task, library)[:MAX_ASKED]:
        if len(rows) == MAX_DONORS:
            break
        try:
            inputs += transplant(row.program.record, row.task, task, 1)
        except TransplantError:
            continue
        rows.append(row)
    return inputs, rows
