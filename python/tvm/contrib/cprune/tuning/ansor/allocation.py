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
from tvm.contrib.cprune.tuning.progress import TaskSearch, trials_left

# Trials before an algorithm is compared with its alternative: the first programs are random ones.
FAIR_TRIALS = 12
# The search of tasks with a goal ends if reaching all goals is expected to save at most this fraction of the
# time of all tasks.
MIN_GAIN = 0.01
# Tasks without a goal then also end if one more trial is expected to save at most this fraction.
MIN_TRIAL_GAIN = 0.001
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

    @property
    def settled(self) -> bool:
        """Whether the task gets no more trials: it or an alternative reaches its goal.

        If an alternative does, the task is expected to remain slower.
        """
        return self.fastest <= self.goal

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
        tvm_task = self.task.tvm_task
        records = [record for record in records if not is_block_program(tvm_task, steps_of(record.line))]
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
        """Return whether the task has had its first batch, needs none, or gets no more programs."""
        has_donor = bool(self.goal) and self.has_valid_program
        enough = self.trials >= _first_batch_size(self, config)
        return self.settled or self.exhausted or has_donor or enough

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
        counts as equally fast. A task with a goal saves what it lacks, but less after trials in vain.
        """
        reference, trials = self.fastest, max(self.trials, 1)
        if self.goal and reference < float("inf"):
            guess = reference / (1 + self.trials_since_best)
            return self.task.weight * min(max(0.0, reference - self.goal), guess)
        if trials < self.fair_trials or reference == float("inf"):
            return self.task.weight * reference / trials
        if not self.has_valid_program:
            return 0.0
        return self.task.weight * max(0.0, reference - self.best * (1 - 1 / trials))

    @property
    def fastest(self) -> float:
        """Latency in seconds of the fastest program of the task and its alternatives."""
        return min(self.best, *(other.best for other in self.alternatives), float("inf"))


def batch_size(search: AnsorSearch, config: TuneConfig, trials_left: int) -> int:
    """Return the number of trials in a task's next batch, which may be the rest of its first one."""
    rest = _first_batch_size(search, config) - search.trials
    return rest if rest > 0 else max(1, min(config.batch, trials_left))


def _first_batch_size(search: AnsorSearch, config: TuneConfig) -> int:
    """Return the number of trials that every task gets.

    Two algorithms of the same layers share a batch. Half a batch is enough for a task without layers, such as
    a pooling, which takes little time.
    """
    size = min(config.batch, config.trials)
    return max(1, size // 2) if search.alternatives or not search.task.layers else size


def next_search(searches: Sequence[AnsorSearch], config: TuneConfig) -> AnsorSearch | None:
    """Return the search that gets the next batch, or None if the search is complete.

    Every task gets a first batch, unless it has a goal and a donor, and goes on until it or its alternative
    has a valid program or ``only_failures`` holds, even if the budget is used up. Further batches go to the
    task with the largest expected gain. Settled tasks get none, and tasks with a goal end together when
    little is left to gain.
    """
    total = sum(s.task.weight * s.best for s in searches if s.has_valid_program and s.best == s.fastest)
    unsettled = [search for search in searches if not search.settled]
    for search in unsettled:
        if not search.has_started(config):
            return search
    # Tasks with a goal need few trials. The others do not get what these leave.
    with_goal, without = ([s for s in searches if bool(s.goal) == kind] for kind in (True, False))
    running = _running(with_goal, config)
    if sum(search.expected_gain for search in running) <= MIN_GAIN * total:
        running = []
    # Without goals, the whole budget is used up.
    enough = MIN_TRIAL_GAIN * total if with_goal else 0.0
    running += [search for search in _running(without, config) if search.expected_gain > enough]
    if running:
        return max(running, key=lambda search: search.expected_gain)
    unsolved = (search for search in unsettled if search.has_no_solution)
    return next((s for s in unsolved if not (s.exhausted or s.only_failures)), None)


def _running(searches: Sequence[AnsorSearch], config: TuneConfig) -> list[AnsorSearch]:
    """Return the searches that may get more of the trials that are left to all of them."""
    if trials_left(searches) <= 0:
        return []
    return [
        search
        for search in searches
        if not (search.settled or search.exhausted or search.only_failures)
        and search.trials_since_best < config.early_stopping
        and search.expected_gain > 0
    ]
