# SPDX-License-Identifier: Apache-2.0
"""The start of a search: programs of the library on the tasks of a new network."""

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from tvm.contrib.cprune.config import TuneConfig
from tvm.contrib.cprune.measuring.measurer import Measurer
from tvm.contrib.cprune.measuring.records import RecordLog
from tvm.contrib.cprune.program_library import nearest, work
from tvm.contrib.cprune.table import Row
from tvm.contrib.cprune.types import CPruneError, Task

# Donors measured on each task, and the nearest donors that are asked for them.
MAX_DONORS, MAX_ASKED = 3, 12
# A task is settled at this fraction of the speed that its donors have at their own shapes.
SETTLED = 0.9
# The speed of a donor is expected of a task only if their work differs by at most this factor.
MAX_WORK_RATIO = 4.0
# The speed of this machine relative to that of the donors is this quantile over all tasks. Slower tasks may
# have donors that fit badly.
QUANTILE = 0.75
# With fewer tasks, or at a lower quantile, the donors must be matched at their own speed.
MIN_TASKS, MIN_MACHINE_SPEED = 4, 0.5

Transplant = Callable[..., list[Any]]


def measure_donors(
    tasks: Sequence[Task],
    library: Sequence[Row],
    transplant: Transplant,
    measurer: Measurer,
    log: RecordLog,
    config: TuneConfig,
) -> frozenset[str]:
    """Measure the programs of a library on the tasks that they are nearest to in shape.

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
    config
        Settings of the search. Donors of searches with fewer trials do not settle a task.

    Returns
    -------
    The workload keys of the tasks that need no search.
    """
    inputs: dict[str, list[Any]] = {}
    expected: dict[str, float] = {}
    for task in tasks:
        inputs[task.workload_key], rows = _donors(task, library, transplant)
        expected[task.workload_key] = _expected_speed(task, rows, config.trials)
    every = [item for moved in inputs.values() for item in moved]
    for start in range(0, len(every), config.batch):
        measurer.measure_new(every[start : start + config.batch], log)
    speeds = {task.workload_key: _speed(task, inputs[task.workload_key], log) for task in tasks}
    return settled(speeds, expected)


def settled(speeds: Mapping[str, float], expected: Mapping[str, float]) -> frozenset[str]:
    """Return the workload keys of the tasks on which a donor is as fast as at its own shape.

    Parameters
    ----------
    speeds
        Operations per second of the fastest donor on each task, 0 if none is valid.
    expected
        Operations per second of each task's donors at their own shapes, 0 if that is unknown.

    Notes
    -----
    Donors may have been measured on a faster or slower machine. So speeds are compared relative to those of
    the other tasks, but not with donors that are slow on all of them.
    """
    ratios = {key: speeds[key] / speed for key, speed in expected.items() if speed > 0}
    machine = 1.0
    if len(ratios) >= MIN_TASKS:
        quantile = float(np.quantile(list(ratios.values()), QUANTILE))
        machine = quantile if quantile >= MIN_MACHINE_SPEED else 1.0
    return frozenset(key for key, ratio in ratios.items() if ratio >= SETTLED * machine)


def with_trials(rows: Sequence[Row], settled: Collection[str], log: RecordLog, trials: int) -> list[Row]:
    """Return the rows of a finished search with the trials per task that they stand for.

    Parameters
    ----------
    rows, settled
        The fastest program of each task, and the workload keys of the tasks that were not searched.
    log
        The programs that were measured.
    trials
        Trials per task that the search was allowed. A time limit may have left fewer.
    """
    searched = [row.task.workload_key for row in rows if row.task.workload_key not in settled]
    average = sum(len(log.of(key)) for key in searched) // max(1, len(searched))
    return [
        replace(row, trials=trials if row.task.workload_key in settled else min(trials, average))
        for row in rows
    ]


def _donors(task: Task, library: Sequence[Row], transplant: Transplant) -> tuple[list[Any], list[Row]]:
    """Return ``MeasureInput`` of the nearest programs that can move to a task, and their rows."""
    inputs: list[Any] = []
    rows: list[Row] = []
    for row in nearest(task, library)[:MAX_ASKED]:
        if len(rows) == MAX_DONORS:
            break
        try:
            inputs += transplant(row.program.record, row.task, task, 1)
        except (CPruneError, ValueError, LookupError, TypeError):
            continue  # does not fit, or its steps, which come from a file, belong to another program
        rows.append(row)
    return inputs, rows


def _expected_speed(task: Task, donors: Iterable[Row], trials: int) -> float:
    """Return the speed expected of a task, 0 if its donors differ too much or had fewer trials."""
    own = work(task)
    similar = [
        row
        for row in donors
        if row.trials >= trials and own / MAX_WORK_RATIO <= work(row.task) <= own * MAX_WORK_RATIO
    ]
    return max((work(row.task) / row.program.latency.median for row in similar), default=0.0)


def _speed(task: Task, inputs: Iterable[Any], log: RecordLog) -> float:
    """Return the speed of the fastest of some programs on a task, 0 if none is valid."""
    records = [log.find(item) for item in inputs]
    latencies = [record.latency.median for record in records if record is not None and record.latency]
    return work(task) / min(latencies) if latencies else 0.0
