# SPDX-License-Identifier: Apache-2.0
"""Ansor's search: its sketch policy and cost model, with programs measured by CPrune's measurer."""

import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from types import MappingProxyType
from typing import Any

from tvm.auto_scheduler.measure import ProgramMeasurer

from tvm import auto_scheduler
from tvm.contrib.cprune.config import TuneConfig
from tvm.contrib.cprune.measuring.measurer import Measurer
from tvm.contrib.cprune.measuring.records import RecordLog, dump, training_data
from tvm.contrib.cprune.targets.target import host_threads
from tvm.contrib.cprune.tuning.ansor.allocation import (
    FAIR_TRIALS,
    AnsorSearch,
    batch_size,
    next_search,
)
from tvm.contrib.cprune.tuning.ansor.lending import lend
from tvm.contrib.cprune.tuning.ansor.row_partition import with_partitioned_rows
from tvm.contrib.cprune.tuning.ansor.tiled_programs import TiledPrograms
from tvm.contrib.cprune.tuning.progress import Progress, SearchProgress, trials_left
from tvm.contrib.cprune.types import Task

# Generations of the evolutionary search. With Ansor's default of 4, ranking programs takes almost as long as
# compiling the selected ones.
GENERATIONS = 2
# One in so many batches of a task comes from the evolutionary search, the others have register tiles.
EVOLUTION_INTERVAL = 4


def search(
    tasks: Sequence[Task],
    config: TuneConfig,
    measurer: Measurer,
    log: RecordLog,
    seed: int = 0,
    report: Callable[[Progress], None] = lambda _: None,
    strict: bool = True,
    alternatives: Mapping[str, str] | None = None,
    goals: Mapping[str, float] | None = None,
    known: RecordLog | None = None,
) -> int:
    """Search for fast programs until the trials or the time are used up.

    Every task without a donor gets one batch of trials. The remaining trials go where they are expected to
    save most time. Up to half of a batch is spent on programs of other tasks that promise to be faster (see
    ``lending.py``).

    Parameters
    ----------
    measurer
        Builds and times the programs.
    log
        Receives the records. Records that it already holds count as trials and train the cost model.
    report
        Called after each batch.
    strict
        Whether a task is an error if neither it nor its alternative has a valid program.
    alternatives
        Pairs of workload keys of tasks that compute the same layers with different algorithms, in both
        directions. They compete for trials.
    goals
        Latencies in seconds by workload key: a task gets no more trials when it, or its alternative, is as
        fast.
    known
        Programs measured before, such as transplants. The search varies them, and its cost model learns from
        them, but they count as no trials.

    Returns
    -------
    The number of programs measured by this call.

    Raises
    ------
    CPruneError
        If neither a task nor its alternative has a valid program; the message names the first failure.
    """
    searches = start_searches(tasks, config, log, seed, alternatives or {}, goals or {}, known)
    progress = SearchProgress(searches, report)
    with measurer.serve_auto_scheduler(with_partitioned_rows):
        for current in _measure_batches(searches, config, measurer, log, progress):
            if strict and all(search.only_failures for search in (current, *current.alternatives)):
                raise current.no_valid_program()
            progress.report(current)
    for finished in searches:
        if strict and finished.has_no_solution:
            raise finished.no_valid_program()
    return progress.new_trials


def _measure_batches(
    searches: Sequence[AnsorSearch],
    config: TuneConfig,
    measurer: Measurer,
    log: RecordLog,
    progress: SearchProgress,
) -> Iterator[AnsorSearch]:
    """Measure batch after batch, until the trials or the time are used up; yield the search of each."""
    tvm_measurer = ProgramMeasurer(auto_scheduler.LocalBuilder(), auto_scheduler.LocalRunner(), [], 0)
    while current := next_search(searches, config):
        out_of_time = config.max_seconds and progress.seconds > config.max_seconds
        if out_of_time and all(search.can_stop(config) for search in searches):
            return
        same = [search for search in searches if bool(search.goal) == bool(current.goal)]
        size = batch_size(current, config, trials_left(same))
        _measure_batch(current, searches, config, size, measurer, tvm_measurer, log)
        yield current


def start_searches(
    tasks: Sequence[Task],
    config: TuneConfig,
    log: RecordLog,
    seed: int,
    alternatives: Mapping[str, str],
    goals: Mapping[str, float] = MappingProxyType({}),
    known: RecordLog | None = None,
) -> list[AnsorSearch]:
    """Create a search for each task. All of them share one cost model."""
    known = known or RecordLog(None)
    # Collect enough samples of different loop nests before the first training.
    model = auto_scheduler.XGBModel(num_warmup_sample=2 * config.batch, seed=seed)
    _train_cost_model(model, tasks, (known, log))
    searches = {}
    for task in tasks:
        policy = _make_policy(task, config, model, seed)
        fair = min(FAIR_TRIALS, config.trials)
        search = AnsorSearch(
            task=task,
            budget=config.trials,
            goal=goals.get(task.workload_key, 0.0),
            policy=policy,
            model=model,
            tiled=TiledPrograms(task, policy, _task_seed(task, seed)),
            known=known,
            fair_trials=fair,
        )
        search.start(known.of(task.workload_key), log.of(task.workload_key))
        search.remember(search.records(log))
        searches[task.workload_key] = search
    for key, other in alternatives.items():
        searches[key].alternatives.append(searches[other])
    return list(searches.values())


def _train_cost_model(model: Any, tasks: Sequence[Task], logs: Sequence[RecordLog]) -> None:
    """Train the cost model on the records of these tasks.

    Records of other tasks are skipped: their workloads may not be registered in this process.
    """
    inputs: list[Any] = []
    results: list[Any] = []
    for task in tasks:
        for log in logs:
            pairs = training_data(task, log.of(task.workload_key))
            inputs, results = inputs + pairs[0], results + pairs[1]
    model.update(inputs, results)


def _make_policy(task: Task, config: TuneConfig, model: Any, seed: int) -> Any:
    population = config.population or 32 * host_threads()
    params = {
        "evolutionary_search_population": population,
        "evolutionary_search_num_iters": GENERATIONS,
        "sample_init_min_population": min(50, max(4, population // 8)),
    }
    return auto_scheduler.SketchPolicy(
        task.tvm_task,
        model,
        params=params,
        seed=_task_seed(task, seed),
        verbose=0,
    )


def _task_seed(task: Task, seed: int) -> int:
    """Return a different seed for each task. It is not 0, which would let TVM choose one at random."""
    return 1 + (seed + zlib.crc32(task.workload_key.encode())) % (1 << 30)


def _measure_batch(
    search: AnsorSearch,
    searches: Sequence[AnsorSearch],
    config: TuneConfig,
    size: int,
    measurer: Measurer,
    tvm_measurer: ProgramMeasurer,
    log: RecordLog,
) -> None:
    """Measure ``size`` programs: lent ones, those with register tiles, and those of the evolution."""
    evolve = search.trials // config.batch % EVOLUTION_INTERVAL == EVOLUTION_INTERVAL - 1
    inputs = [item for item in lend(search, searches, log, size // 2) if search.is_new(item, log)]
    if not evolve:
        tiled = search.tiled.generate(search.records(log))
        new = [item for item in tiled if search.is_new(item, log)]
        inputs += search.ranked(new)[: size - len(inputs)]
    records = measurer.measure_new(inputs, log)
    if records:
        search.learn(records)
    if len(records) < size:
        _evolve(search, size - len(records), tvm_measurer, log)


def _evolve(search: AnsorSearch, size: int, tvm_measurer: ProgramMeasurer, log: RecordLog) -> None:
    """Measure up to ``size`` programs of Ansor's evolutionary search."""
    inputs, results = search.policy.continue_search_one_round(size, tvm_measurer)
    records = [dump(with_partitioned_rows(i), r) for i, r in zip(inputs, results, strict=True)]
    log.append(records)
    search.exhausted = not records
    search.add(records)
