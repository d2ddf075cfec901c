# SPDX-License-Identifier: Apache-2.0
"""The search for programs: Ansor's policy and cost model, our measuring pool, an allocation of trials to
tasks."""

import time
import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from tvm.auto_scheduler.measure import ProgramMeasurer
from tvm.auto_scheduler.measure_record import load_record_from_string

from tvm import auto_scheduler
from tvm.contrib.cprune.config import TuneConfig
from tvm.contrib.cprune.measuring.measurer import Measurer
from tvm.contrib.cprune.measuring.records import Measured, RecordLog, dump, to_input
from tvm.contrib.cprune.targets.target import host_threads
from tvm.contrib.cprune.types import CPruneError, Task

# A rival (the same layers by the other algorithm) that is this much slower after its first trials gets no
# more.
RIVAL_MARGIN = 1.25


@dataclass(frozen=True)
class Progress:
    """How far a search is, after a batch of trials for ``task``."""

    task: Task
    trials: int
    best: float
    total_trials: int
    budget: int
    seconds: float

    @property
    def gflops(self) -> float:
        return self.task.flops / self.best / 1e9 if self.best else 0.0

    @property
    def seconds_left(self) -> float:
        return self.seconds / max(self.total_trials, 1) * max(self.budget - self.total_trials, 0)


@dataclass
class _Search:
    """One task's search."""

    task: Task
    policy: Any
    trials: int = 0
    failures: int = 0
    best: float = float("inf")
    since_best: int = 0
    first_error: str = ""
    exhausted: bool = False
    rivals: list["_Search"] = field(default_factory=list)

    @property
    def hopeless(self) -> bool:
        """Whether so many programs failed that others would, too."""
        return self.trials >= 16 and self.failures == self.trials

    @property
    def beaten(self) -> bool:
        return self.trials > 0 and any(
            r.trials > 0 and self.best > RIVAL_MARGIN * r.best for r in self.rivals
        )

    @property
    def promise(self) -> float:
        """Seconds that more trials might save: Ansor's optimistic guess, latency over trials."""
        return self.task.weight * self.best / max(self.trials, 1)


def search(
    tasks: Sequence[Task],
    config: TuneConfig,
    pool: Measurer,
    log: RecordLog,
    seed: int = 0,
    report: Callable[[Progress], None] = lambda _: None,
    strict: bool = True,
    rivals: Mapping[str, str] | None = None,
) -> int:
    """Search programs for ``tasks`` until the trials or the time are used up; records go to ``log``.

    Trials that the log holds already count. Every task gets one batch; the rest goes where most time might be
    saved.

    Parameters
    ----------
    strict
        Whether a task without a valid program is an error.
    rivals
        Workload keys of tasks that are the same layers by another algorithm, in both directions.

    Returns
    -------
    How many programs were measured now.

    Raises
    ------
    CPruneError
        If no program of a task is valid; the message names the task and the first cause.
    """
    # Nothing is trained before the model has a sample of every kind of loop nest.
    model = auto_scheduler.XGBModel(num_warmup_sample=2 * config.batch, seed=seed)
    callbacks = []
    if log.path is not None and log.measured:
        _learn(model, tasks, log)
        callbacks = [auto_scheduler.PreloadMeasuredStates(str(log.path))]
    searches = {task.workload_key: _start(task, config, model, log, seed, callbacks) for task in tasks}
    for key, rival in (rivals or {}).items():
        searches[key].rivals.append(searches[rival])
    builder, runner = auto_scheduler.LocalBuilder(), auto_scheduler.LocalRunner()
    measurer = ProgramMeasurer(builder, runner, [], 0)

    budget, started, measured_now = config.trials * len(searches), time.time(), 0
    with pool.serve_auto_scheduler():
        while current := _next(list(searches.values()), config, budget):
            over_time = config.max_seconds and time.time() - started > config.max_seconds
            if over_time and all(each.trials for each in searches.values()):
                break
            left = budget - sum(each.trials for each in searches.values())
            count = max(1, min(config.batch, left) if current.trials else _first_batch(current, config))
            inputs, results = current.policy.continue_search_one_round(count, measurer)
            measured = [dump(i, r) for i, r in zip(inputs, results, strict=True)]
            log.append(measured)
            current.exhausted = not measured
            _account(current, measured)
            if current.hopeless and strict:
                raise _nothing_valid(current)
            measured_now += len(measured)
            total = sum(each.trials for each in searches.values())
            report(Progress(current.task, current.trials, current.best, total, budget, time.time() - started))
    for each in searches.values():
        if each.best == float("inf") and strict:
            raise _nothing_valid(each)
    return measured_now


def _learn(model: Any, tasks: Sequence[Task], log: RecordLog) -> None:
    """Teach the cost model what was measured for these tasks; others may not be known in this process."""
    inputs, results = [], []
    for task in tasks:
        for each in log.of(task.workload_key):
            inputs.append(to_input(each.line, task.tvm_task))
            results.append(load_record_from_string(each.line)[1])
    if inputs:
        model.update(inputs, results)


def _start(
    task: Task, config: TuneConfig, model: Any, log: RecordLog, seed: int, callbacks: list[Any]
) -> _Search:
    population = config.population or 64 * host_threads()
    params = {
        "evolutionary_search_population": population,
        "sample_init_min_population": min(50, max(4, population // 8)),
    }
    policy = auto_scheduler.SketchPolicy(
        task.tvm_task,
        model,
        params=params,
        # The policy's own seeds: from ours, and different for each task.
        seed=1 + (seed + zlib.crc32(task.workload_key.encode())) % (1 << 30),
        verbose=0,
        init_search_callbacks=callbacks or None,
    )
    state = _Search(task, policy)
    _account(state, log.of(task.workload_key))
    return state


def _nothing_valid(state: _Search) -> CPruneError:
    cause = state.first_error or "the search space is empty"
    return CPruneError(
        f"no valid program for task {state.task.title} in {state.trials} trials; "
        f"the first failed with: {cause}"
    )


def _account(state: _Search, measured: Sequence[Measured]) -> None:
    """Count new records of a task."""
    before = state.best
    for each in measured:
        state.trials += 1
        if each.latency is None:
            state.failures += 1
            state.first_error = state.first_error or each.error
        else:
            state.best = min(state.best, each.latency.median)
    state.since_best = 0 if state.best < before else state.since_best + len(measured)


def _first_batch(search_: _Search, config: TuneConfig) -> int:
    count = min(config.batch, config.trials)
    return max(1, count // 2) if search_.rivals else count


def _next(searches: Sequence[_Search], config: TuneConfig, budget: int) -> _Search | None:
    """Return the search that gets the next batch, or None where all is done."""
    for each in searches:
        if each.trials < _first_batch(each, config) and not each.exhausted:
            return each
    if sum(each.trials for each in searches) >= budget:
        return None
    # A task that has no valid program goes on until it has one, or fails for good.
    running = [
        each
        for each in searches
        if not (each.exhausted or each.beaten or each.hopeless) and each.since_best < config.early_stopping
    ]
    return max(running, key=lambda each: each.promise, default=None)
