# SPDX-License-Identifier: Apache-2.0
"""Trial counts and progress reports of a search, shared by the tuning backends."""

import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from tvm.contrib.cprune.measuring.records import Measured
from tvm.contrib.cprune.types import CandidateError, Task


@dataclass(frozen=True)
class Progress:
    """Progress of a search after a batch of trials.

    Attributes
    ----------
    task : Task
        The task that the batch was measured for.
    trials : int
        Trials of this task, including those of earlier runs.
    best : float
        Latency in seconds of the task's fastest program; infinite if none is valid.
    total_trials, budget : int
        Trials of all tasks, including those of earlier searches, and the maximum. If the search exceeds its
        maximum to try every algorithm, both numbers are equal.
    seconds_left : float
        Estimated time until the budget is used up.
    """

    task: Task
    trials: int
    best: float
    total_trials: int
    budget: int
    seconds_left: float

    @property
    def speed(self) -> str:
        """Throughput of the fastest program in GFLOP/s as text, "-" if it is unknown."""
        return f"{self.task.flops / self.best / 1e9:.1f}" if self.task.flops and self.best else "-"


@dataclass(eq=False)
class TaskSearch:
    """Trial counts of one task.

    Attributes
    ----------
    budget : int
        Trials that the task adds to the budget of the whole search.
    goal : float
        Latency in seconds at which the search of the task ends; 0 if there is none.
    trials, failures : int
        Programs measured for the task, and how many of them failed.
    best : float
        Latency in seconds of the fastest program; infinite if none is valid.
    trials_since_best : int
        Trials since the fastest program was measured, for early stopping.
    first_error : str
        Message of the first failure.
    """

    task: Task
    budget: int = 0
    goal: float = 0.0
    trials: int = 0
    failures: int = 0
    best: float = float("inf")
    trials_since_best: int = 0
    first_error: str = ""

    @property
    def has_valid_program(self) -> bool:
        return self.best < float("inf")

    @property
    def settled(self) -> bool:
        """Whether the task gets no more trials, because its fastest program reaches the goal."""
        return self.best <= self.goal

    def start(self, known: Iterable[Measured], earlier: Sequence[Measured]) -> None:
        """Start from programs that were measured before; only those of ``earlier`` searches count as trials.

        Early stopping begins anew.
        """
        self.add(earlier)
        latencies = (record.latency.median for record in known if record.latency)
        self.best = min([self.best, *latencies])
        self.trials_since_best = 0

    def add(self, records: Sequence[Measured]) -> None:
        """Count a batch of records."""
        previous_best = self.best
        for record in records:
            self.trials += 1
            if record.latency is None:
                self.failures += 1
                self.first_error = self.first_error or record.error
            else:
                self.best = min(self.best, record.latency.median)
        self.trials_since_best = 0 if self.best < previous_best else self.trials_since_best + len(records)

    def no_valid_program(self) -> CandidateError:
        """Return the error for a task without a valid program."""
        cause = self.first_error or "the search space is empty"
        return CandidateError(
            f"no valid program for task {self.task.title} in {self.trials} trials; "
            f"the first failed with: {cause}"
        )


def trials_left(searches: Iterable[TaskSearch]) -> int:
    """Return the trials left of the budgets of some tasks. A settled task leaves none to the others."""
    return sum((min(s.trials, s.budget) if s.settled else s.budget) - s.trials for s in searches)


class SearchProgress:
    """Totals over all tasks of a search, and its clock.

    Parameters
    ----------
    searches
        Trial counts of every task. They may already include trials of earlier runs.
    report
        Called with a ``Progress`` after each batch.
    """

    def __init__(self, searches: Iterable[TaskSearch], report: Callable[[Progress], None]) -> None:
        self._searches, self._report = list(searches), report
        self._earlier_trials, self._started = self.total_trials, time.time()

    @property
    def total_trials(self) -> int:
        return sum(search.trials for search in self._searches)

    @property
    def new_trials(self) -> int:
        """Trials since the search started."""
        return self.total_trials - self._earlier_trials

    @property
    def trials_left(self) -> int:
        """Trials left of the budgets of all tasks."""
        return trials_left(self._searches)

    @property
    def seconds(self) -> float:
        """Seconds since the search started."""
        return time.time() - self._started

    def report(self, search: TaskSearch) -> None:
        """Report the progress after a batch of ``search``."""
        total, left = self.total_trials, max(self.trials_left, 0)
        seconds = self.seconds / max(self.new_trials, 1) * left
        self._report(Progress(search.task, search.trials, search.best, total, total + left, seconds))
