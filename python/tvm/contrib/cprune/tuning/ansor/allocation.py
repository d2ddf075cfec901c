# SPDX-License-Identifier: Apache-2.0
"""Allocation of trials to Ansor's tasks: which task gets the next batch."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from tvm.contrib.cprune.config import TuneConfig
from tvm.contrib.cprune.tuning.progress import TaskSearch

# An algorithm slower than its alternative by this factor gets no trials after its first batch.
ALTERNATIVE_MARGIN = 1.25
# Give up on a task if at least this many programs were measured and all of them failed.
MAX_INITIAL_FAILURES = 16


@dataclass(kw_only=True, eq=False)
class AnsorSearch(TaskSearch):
    """The search of one task.

    Attributes
    ----------
    policy : tvm.auto_scheduler.SketchPolicy
        Generates programs.
    exhausted : bool
        Whether the policy has no more programs.
    alternatives : list of AnsorSearch
        Searches of the same layers with another algorithm.
    """

    policy: Any
    exhausted: bool = False
    alternatives: list["AnsorSearch"] = field(default_factory=list)

    @property
    def only_failures(self) -> bool:
        """Whether enough programs failed to give up on the task."""
        return self.trials >= MAX_INITIAL_FAILURES and self.failures == self.trials

    @property
    def slower_than_alternative(self) -> bool:
        """Whether an alternative algorithm is so much faster that this one is dropped."""
        return self.trials > 0 and any(
            other.trials > 0 and self.best > ALTERNATIVE_MARGIN * other.best for other in self.alternatives
        )

    @property
    def expected_gain(self) -> float:
        """Seconds per inference that one more trial may save.

        This is the optimistic guess of Ansor's task scheduler: the latency over the number of trials
        (``g_next_1`` in ``auto_scheduler/task_scheduler.py``).
        """
        return self.task.weight * self.best / max(self.trials, 1)


def first_batch_size(search: AnsorSearch, config: TuneConfig) -> int:
    """Return the number of trials that every task gets. Two algorithms of the same layers share a batch."""
    size = min(config.batch, config.trials)
    return max(1, size // 2) if search.alternatives else size


def next_search(searches: Sequence[AnsorSearch], config: TuneConfig, trials_left: int) -> AnsorSearch | None:
    """Return the search that gets the next batch, or None if the search is complete.

    Every task gets a first batch, even if the budget is used up. Further batches go to the task with the
    largest expected gain. It is infinite for a task without a valid program, which therefore goes on until it
    has one or ``only_failures`` holds.
    """
    for search in searches:
        if search.trials < first_batch_size(search, config) and not search.exhausted:
            return search
    if trials_left <= 0:
        return None
    running = [
        search
        for search in searches
        if not (search.exhausted or search.slower_than_alternative or search.only_failures)
        and search.trials_since_best < config.early_stopping
    ]
    return max(running, key=lambda search: search.expected_gain, default=None)
