# SPDX-License-Identifier: Apache-2.0
"""AutoTVM's search: its tuners, with configurations measured batch by batch by CPrune's measurer.

TVM's fallback configuration is measured first, so that tuning never ends with a slower one.
"""

import functools
import json
import zlib
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

from tvm.autotvm.measure import MeasureErrorNo
from tvm.autotvm.tuner import GATuner, XGBTuner

from tvm import autotvm
from tvm.contrib.cprune.config import TuneConfig
from tvm.contrib.cprune.measuring.measurer import Measurer
from tvm.contrib.cprune.measuring.records import Measured, RecordLog, dump
from tvm.contrib.cprune.tuning.autotvm.configuration import fallback_config
from tvm.contrib.cprune.tuning.autotvm.tuners import make_tuner, seeded
from tvm.contrib.cprune.tuning.progress import Progress, SearchProgress, TaskSearch
from tvm.contrib.cprune.types import CPruneError, Task


def search(
    tasks: Sequence[Task],
    config: TuneConfig,
    measurer: Measurer,
    log: RecordLog,
    seed: int = 0,
    report: Callable[[Progress], None] = lambda _: None,
    strict: bool = True,
    goals: Mapping[str, float] | None = None,
    known: RecordLog | None = None,
) -> int:
    """Search for fast configurations, with the same number of trials for each task.

    Parameters
    ----------
    measurer
        Builds and times the configurations.
    log
        Receives the records. Records that it already holds count as trials. The XGBoost tuners also learn
        from those of other tasks, except for xgb-knob.
    report
        Called after each batch.
    strict
        Whether a task without a valid configuration is an error.
    goals
        Latencies in seconds by workload key: the search of a task ends when it is as fast. TVM's fallback
        configuration is always measured.
    known
        Configurations measured before, such as transplants. The XGBoost tuners learn from them, but they
        count as no trials.

    Returns
    -------
    The number of configurations measured by this call.

    Raises
    ------
    CPruneError
        If no configuration of a task is valid. The message names the task and the first failure.
    """
    goals, known = goals or {}, known or RecordLog(None)
    searches = [_start(task, config, goals.get(task.workload_key, 0.0), log, known) for task in tasks]
    progress = SearchProgress(searches, report)
    for current in searches:
        batches = _tune(current, config, measurer, log, known)
        with seeded(seed + zlib.crc32(current.task.workload_key.encode())), closing(batches):
            _measure_batches(current, batches, config, progress)
        if strict and not current.has_valid_program:
            raise current.no_valid_program()
    return progress.new_trials


def _start(task: Task, config: TuneConfig, goal: float, log: RecordLog, known: RecordLog) -> TaskSearch:
    """Return the search of a task, which starts from the configurations measured before."""
    search = TaskSearch(task, min(config.trials, len(task.tvm_task.config_space)), goal)
    search.start(known.of(task.workload_key), log.of(task.workload_key))
    return search


def _measure_batches(
    search: TaskSearch, batches: Iterator[int], config: TuneConfig, progress: SearchProgress
) -> None:
    """Measure batches of a task until there are no more, or the time is up and a configuration is valid."""
    for count in batches:
        if count:
            progress.report(search)
        out_of_time = config.max_seconds and progress.seconds > config.max_seconds
        if out_of_time and search.has_valid_program:
            return


def _try_fallback(search: TaskSearch, measurer: Measurer, log: RecordLog) -> Generator[int, None, None]:
    """Measure TVM's fallback configuration of a task unless the log holds it, and yield 1."""
    tvm_task = search.task.tvm_task
    fallback = fallback_config(tvm_task)
    if fallback is not None and not log.holds(autotvm.MeasureInput(tvm_task.target, tvm_task, fallback)):
        yield len(_measure(search, [fallback], measurer, log))


def _tune(
    search: TaskSearch, config: TuneConfig, measurer: Measurer, log: RecordLog, known: RecordLog
) -> Generator[int, None, None]:
    """Measure the configurations of one task, TVM's fallback configuration first.

    Yields
    ------
    After each batch, the number of measured configurations. It is 0 if all of them were known.
    """
    yield from _try_fallback(search, measurer, log)
    if search.settled:
        return
    # Early stopping only counts configurations that this tuner proposes.
    search.trials_since_best, known_in_a_row = 0, 0
    proposed: list[Any] = []
    tvm_task = search.task.tvm_task
    with _tuner(search.task, config, log, known) as (tuner, results):
        while (
            search.trials < search.budget
            and search.trials_since_best < config.early_stopping
            and not search.settled
            and tuner.has_next()
        ):
            if proposed:
                # This plans the next batch, which can take minutes. There is none to plan after the last one.
                # The genetic algorithm needs the results of its whole generation in order.
                inputs = [autotvm.MeasureInput(tvm_task.target, tvm_task, c) for c in proposed]
                tuner.update(inputs, [results[candidate.index] for candidate in proposed])
            proposed = tuner.next_batch(min(config.batch, config.trials - search.trials))
            unmeasured = {c.index: c for c in proposed if c.index not in results}
            known_in_a_row = 0 if unmeasured else known_in_a_row + len(proposed)
            if not proposed or known_in_a_row > len(tvm_task.config_space):
                return
            if unmeasured:
                records = _measure(search, list(unmeasured.values()), measurer, log)
                results |= zip(unmeasured, map(_result_of, records), strict=True)
            yield len(unmeasured)


@contextmanager
def _tuner(
    task: Task, config: TuneConfig, log: RecordLog, known: RecordLog
) -> Iterator[tuple[Any, dict[int, autotvm.MeasureResult]]]:
    """Create the tuner of a task, which knows the earlier records.

    Returns
    -------
    A context with the tuner, and the results of the configurations that were already measured, by index. At
    its end, the processes that extract features for a cost model end, too.
    """
    tuner = make_tuner(task.tvm_task, config)
    before = known.of(task.workload_key)
    done = (*before, *log.of(task.workload_key))
    # Values of knobs do not tell which shape they are for.
    others = config.strategy != "xgb-knob"
    history = [*_transfer_records(config.transfer), *before, *log.measured] if others else done
    results = {json.loads(record.line)["config"]["index"]: _result_of(record) for record in done}
    try:
        if history and isinstance(tuner, XGBTuner):
            pairs = [autotvm.record.decode(record.line) for record in history if record.latency]
            tuner.load_history(pairs, min_seed_records=4 * config.batch)
        if isinstance(tuner, XGBTuner | GATuner):
            tuner.visited.update(results)
        yield tuner, results
    finally:
        if isinstance(tuner, XGBTuner):
            tuner.cost_model._close_pool()  # TVM does so at the end of XGBTuner.tune


def _measure(
    search: TaskSearch, configs: Sequence[Any], measurer: Measurer, log: RecordLog
) -> list[Measured]:
    """Measure configurations, add their records to the log and return them."""
    tvm_task = search.task.tvm_task
    inputs = [autotvm.MeasureInput(tvm_task.target, tvm_task, config) for config in configs]
    results = measurer.measure(inputs)
    records = [dump(i, r) for i, r in zip(inputs, results, strict=True)]
    log.append(records)
    search.add(records)
    return records


@functools.cache
def _transfer_records(path: str) -> tuple[Measured, ...]:
    """Read the AutoTVM records of another tuning run."""
    if not path:
        return ()
    records = RecordLog.read(Path(path)).measured
    if not any("input" in json.loads(record.line) for record in records):
        raise CPruneError(f"{path} contains no AutoTVM records: expected a log of `tune --tuner autotvm`")
    return tuple(records)


def _result_of(record: Measured) -> autotvm.MeasureResult:
    """Return the measurement of a record, as far as tuners read it."""
    if record.latency is None:
        return autotvm.MeasureResult((record.error,), MeasureErrorNo.UNKNOWN_ERROR, 0.0, 0.0)
    return autotvm.MeasureResult(record.latency.samples, MeasureErrorNo.NO_ERROR, 0.0, 0.0)
