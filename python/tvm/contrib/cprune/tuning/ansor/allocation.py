# SPDX-License-Identifier: Apache-2.0
"""Allocation of trials to Ansor's tasks: which task gets the next batch."""

import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, field
from math import isfinite
from typing import Any

from tvm.auto_scheduler import _ffi_api as ffi

from tvm import auto_scheduler
from tvm.contrib.cprune.config import TuneConfig
from tvm.contrib.cprune.measuring.records import Measured, RecordLog, training_data
from tvm.contrib.cprune.tuning.ansor.steps import steps_of
from tvm.contrib.cprune.tuning.ansor.tile_blocks import is_block_program
from tvm.contrib.cprune.tuning.ansor.tiled_programs import TiledPrograms
from tvm.contrib.cprune.tuning.progress import TaskSearch

# Trials before an algorithm is compared with its alternative: the first programs are random ones.
FAIR_TRIALS = 12
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
    fair_trials : int
        Trials before the task is compared with its alternatives.
    model : tvm.auto_scheduler.PythonBasedModel
        The cost model of ``policy``.
    known : RecordLog
        Programs of all tasks that were measured before this search. They count as no trials.
    lent : set of str
        Records of other tasks that were tried on this one.
    settled : bool
        Whether the task has a good program and gets no trials.
    tiled : TiledPrograms
        Generates programs with register tiles.
    """

    policy: Any
    model: Any
    tiled: TiledPrograms
    fair_trials: int = FAIR_TRIALS
    exhausted: bool = False
    alternatives: list["AnsorSearch"] = field(default_factory=list)
    known: RecordLog = field(default_factory=lambda: RecordLog(None))
    lent: set[str] = field(default_factory=set)
    settled: bool = False

    def records(self, log: RecordLog) -> list[Measured]:
        """Return the records of the task: the known programs, and those of ``log``."""
        key = self.task.workload_key
        return [*self.known.of(key), *log.of(key)]

    def is_new(self, measure_input: Any, log: RecordLog) -> bool:
        """Return whether a program is neither known nor in ``log``."""
        return not (self.known.holds(measure_input) or log.holds(measure_input))

    def learn(self, records: Sequence[Measured]) -> None:
        """Count programs that the policy did not generate, and let it and the cost model learn from them."""
        self.add(records)
        self.remember(records)
        self.model.update(*training_data(self.task, records))

    def remember(self, records: Sequence[Measured]) -> None:
        """Pass programs to the policy, which mutates the fastest ones in its next round.

        Block programs are left out: their loops are unrolled, and a mutation can make these so long that LLVM
        takes minutes. All reasonable lengths are generated anyway.
        """
        records = [record for record in records if not is_block_program(steps_of(record.line))]
        with tempfile.NamedTemporaryFile("w", suffix=".json") as file:
            file.writelines(f"{record.line}\n" for record in records)
            file.flush()
            ffi.SearchPolicyRunCallbacks(self.policy, [auto_scheduler.PreloadMeasuredStates(file.name)])

    def ranked(self, inputs: Sequence[Any]) -> list[Any]:
        """Return the valid programs, the fastest ones by the cost model's prediction first."""
        scores = self.model.predict(self.task.tvm_task, [item.state for item in inputs]) if inputs else []
        # The score of a program that TVM cannot lower is -inf. An untrained model's scores are random, and do
        # not depend on the seed.
        trained = self.model.bst is not None and len(self.model.inputs) > self.model.num_warmup_sample
        valid = [(float(score), item) for score, item in zip(scores, inputs, strict=True) if isfinite(score)]
        if trained:
            valid.sort(key=lambda pair: pair[0], reverse=True)
        return [item for _, item in valid]

    def has_started(self, config: TuneConfig) -> bool:
        """Return whether the task has had its first batch, or gets no more programs."""
        return self.settled or self.exhausted or self.trials >= _first_batch_size(self, config)

    def can_stop(self, config: TuneConfig) -> bool:
        """Return whether the search may end when its time is up."""
        return self.has_started(config) or self.known.best(self.task.workload_key) is not None

    @property
    def only_failures(self) -> bool:
        """Whether enough programs failed to give up on the task."""
        all_failed = self.trials >= MAX_INITIAL_FAILURES and self.failures == self.trials
        return all_failed and not self.has_valid_program

    @property
    def has_no_solution(self) -> bool:
        """Whether no program of the task is valid, and none of its alternatives either."""
        return not any(search.has_valid_program for search in (self, *self.alternatives))

    @property
    def speed(self) -> float:
        """Operations per second of the fastest program, 0 if there is none."""
        return self.task.flops / self.best if self.best else 0.0

    @property
    def expected_gain(self) -> float:
        """Seconds per inference that one more trial may save.

        Ansor's task scheduler guesses that a trial saves the latency over the number of trials (``g_next_1``
        in ``auto_scheduler/task_scheduler.py``). An algorithm that is slower than its alternative saves only
        the amount by which it would then beat the alternative. Until it has had a fair number of trials, it
        counts as equally fast.
        """
        reference = min((self.best, *(other.best for other in self.alternatives)))
        trials = max(self.trials, 1)
        if trials < self.fair_trials or reference == float("inf"):
            return self.task.weight * reference / trials
        if not self.has_valid_program:
            return 0.0
        return self.task.weight * max(0.0, reference - self.best * (1 - 1 / trials))


def batch_size(search: AnsorSearch, config: TuneConfig, trials_left: int) -> int:
    """Return the number of trials in a task's next batch, which may be the rest of its first one."""
    rest = _first_batch_size(search, config) - search.trials
    return rest if rest > 0 else max(1, min(config.batch, trials_left))


def _first_batch_size(search: AnsorSearch, config: TuneConfig) -> int:
    """Return the number of trials that every task gets. Two algorithms of the same layers share a batch."""
    size = min(config.batch, config.trials)
    return max(1, size // 2) if search.alternatives else size


def next_search(searches: Sequence[AnsorSearch], config: TuneConfig, trials_left: int) -> AnsorSearch | None:
    """Return the search that gets the next batch, or None if the search is complete.

    Every task gets a first batch, and goes on until it or its alternative has a valid program or
    ``only_failures`` holds, even if the budget is used up. Further batches go to the task with the largest
    expected gain. Settled tasks get none.
    """
    searches = [search for search in searches if not search.settled]
    for search in searches:
        if not search.has_started(config):
            return search
    if trials_left <= 0:
        unsolved = (search for search in searches if search.has_no_solution)
        return next((s for s in unsolved if not (s.exhausted or s.only_failures)), None)
    running = [
        search
        for search in searches
        if not (search.exhausted or search.only_failures)
        and search.trials_since_best < config.early_stopping
        and search.expected_gain > 0
    ]
    return max(running, key=lambda search: search.expected_gain, default=None)
