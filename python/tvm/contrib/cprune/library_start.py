# SPDX-License-Identifier: Apache-2.0
"""The start of a search: programs of the library on the tasks of a new network."""

import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from tvm.contrib.cprune.config import TuneConfig
from tvm.contrib.cprune.measuring.measurer import Measurer
from tvm.contrib.cprune.measuring.records import RecordLog
from tvm.contrib.cprune.program_library import distance, nearest, work
from tvm.contrib.cprune.table import Row
from tvm.contrib.cprune.types import CPruneError, Task

# Donors measured on each task at most, and the number of nearest programs that they are chosen from.
MAX_DONORS, MAX_ASKED = 3, 12
# The search of a task ends at this fraction of the speed that its donors have at their own shapes.
SETTLED = 0.95
# The speed of a program is expected of a task if its shape is as near as this, and if its work is in this
# range, relative to that of the task. Large operations run faster than small ones.
MAX_DISTANCE, MIN_WORK, MAX_WORK = 4.0, 0.4, 8.0
# A machine is slower than that of the donors if this quantile of all tasks is slower, because the others may
# have donors that fit badly. It is faster if more than half of the tasks are faster.
HIGH_QUANTILE = 0.9
# With fewer tasks, the speeds of the machines count as equal. On a much slower machine, donors set no goals.
MIN_TASKS, MIN_MACHINE_SPEED = 4, 0.5

Transplant = Callable[..., list[Any]]


@dataclass(frozen=True)
class Start:
    """The donors of a task.

    Attributes
    ----------
    inputs : list
        ``MeasureInput`` of the nearest programs that can move to the task, the nearest first.
    expected : float
        Latency in seconds of the task at the speed of the nearest programs at their own shapes, 0 if none is
        similar.
    """

    inputs: list[Any]
    expected: float

    def is_measured(self, log: RecordLog) -> bool:
        """Return whether a donor has been measured, or there is none."""
        return not self.inputs or any(log.holds(item) for item in self.inputs)

    def latency(self, log: RecordLog) -> float:
        """Return the latency of the fastest measured donor in seconds, infinite if none is valid."""
        records = [log.find(item) for item in self.inputs]
        latencies = (record.latency.median for record in records if record is not None and record.latency)
        return min(latencies, default=math.inf)


def measure_donors(
    tasks: Sequence[Task],
    library: Sequence[Row],
    transplant: Transplant,
    measurer: Measurer,
    log: RecordLog,
    config: TuneConfig,
    alternatives: Mapping[str, str],
) -> dict[str, float]:
    """Measure the programs of a library on the tasks that they are nearest to in shape.

    A task tries one donor after the other until it is as fast as they are at their own shapes, or its
    alternative is faster than that.

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
        Settings of the search. Donors of searches with fewer trials set no goal. After ``max_seconds``, no
        further donors are measured.
    alternatives
        Pairs of workload keys of tasks that compute the same layers with different algorithms.

    Returns
    -------
    By workload key, the latency in seconds at which the search of a task may end.
    """
    started = time.monotonic()

    def is_late() -> bool:
        return bool(config.max_seconds) and time.monotonic() - started > config.max_seconds

    starts = {task.workload_key: _start(task, library, transplant, config.trials) for task in tasks}
    while True:
        # A task whose donors have not been measured yet says nothing about the speed of the machine.
        expected = {key: start.expected if start.is_measured(log) else 0.0 for key, start in starts.items()}
        latencies = {key: start.latency(log) for key, start in starts.items()}
        goals = latency_goals(expected, latencies)
        inputs = []
        for key, start in starts.items():
            fastest = min(latencies[key], latencies.get(alternatives.get(key, ""), math.inf))
            if fastest > goals[key]:
                inputs += [item for item in start.inputs if not log.holds(item)][:1]
        if not inputs or is_late():
            return goals
        for first in range(0, len(inputs), config.batch):
            if is_late():
                break
            measurer.measure_new(inputs[first : first + config.batch], log)


def latency_goals(expected: Mapping[str, float], latencies: Mapping[str, float]) -> dict[str, float]:
    """Return the latency in seconds at which the search of each task may end, 0 if there is none.

    Parameters
    ----------
    expected
        Latency of each task at the speed of its donors, 0 if that is unknown.
    latencies
        Latency of the fastest donor on each task, infinite if none is valid.

    Notes
    -----
    Donors may have been measured on a faster or slower machine. So latencies are compared relative to those
    of the other tasks. There are no goals if donors are slow on all of them.
    """
    ratios = [value / latencies[key] for key, value in expected.items() if value]
    machine = 1.0
    if len(ratios) >= MIN_TASKS and any(ratios):  # some donor has been measured
        middle, high = np.quantile(ratios, (0.5, HIGH_QUANTILE))
        machine = float(min(high, max(1.0, middle)))
    known = machine >= MIN_MACHINE_SPEED
    return {key: value / (SETTLED * machine) if known else 0.0 for key, value in expected.items()}


def reaches(row: Row, goals: Mapping[str, float]) -> bool:
    """Return whether the program of a row is as fast as the goal of its task."""
    return row.program.latency.median <= goals.get(row.task.workload_key, 0.0)


def with_trials(rows: Sequence[Row], goals: Mapping[str, float], log: RecordLog, trials: int) -> list[Row]:
    """Return the rows of a finished search with the trials per task that they stand for.

    Parameters
    ----------
    rows
        The fastest program of each task.
    goals
        Latencies in seconds by workload key. A program that reaches its goal stands for a whole search, and
        one that does not for the trials of its task only.
    log
        The programs that were measured.
    trials
        Trials per task that the search was allowed. A time limit may have left fewer.
    """
    counts = {row.task.workload_key: len(log.of(row.task.workload_key)) for row in rows}
    searched = [count for key, count in counts.items() if not goals.get(key)]
    average = sum(searched) // max(1, len(searched))

    def stands_for(row: Row) -> int:
        if reaches(row, goals):
            return trials
        key = row.task.workload_key
        return min(trials, counts[key] if goals.get(key) else average)

    return [replace(row, trials=stands_for(row)) for row in rows]


def _start(task: Task, library: Sequence[Row], transplant: Transplant, trials: int) -> Start:
    """Return the donors of a task."""
    inputs: list[Any] = []
    rows = nearest(task, library)[:MAX_ASKED]
    for row in rows:
        if len(inputs) == MAX_DONORS:
            break
        try:
            inputs += transplant(row.program.record, row.task, task, 1)
        except (CPruneError, ValueError, LookupError, TypeError):
            continue  # does not fit, or its steps, which come from a file, belong to another program
    similar = [row for row in rows[:MAX_DONORS] if _is_similar(row, task, trials)]
    speed = max(map(_speed, similar), default=0.0)
    return Start(inputs, work(task) / speed if speed else 0.0)


def _speed(row: Row) -> float:
    return work(row.task) / row.program.latency.median


def _is_similar(row: Row, task: Task, trials: int) -> bool:
    """Return whether a task is expected to be as fast as a donor, which had as many trials."""
    near = distance(row.task, task) <= MAX_DISTANCE
    return near and row.trials >= trials and MIN_WORK <= work(row.task) / work(task) <= MAX_WORK
