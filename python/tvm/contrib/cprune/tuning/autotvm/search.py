# SPDX-License-Identifier: Apache-2.0
"""AutoTVM's search: its tuners, with configurations measured batch by batch by CPrune's measurer.

TVM's fallback configuration is measured first, so that tuning never ends with a slower one.
"""

import functools
import json
import zlib
from collections.abc import Callable, Collection, Generator, Iterator, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

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
    settled: Collection[str] = (),
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
    settled
        Workload keys of tasks that have a good configuration: only TVM's fallback configuration is measured.
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
    searches = [TaskSearch(task) for task in tasks]
    known = known or RecordLog(None)
    for current in searches:
        key = current.task.workload_key
        current.start(known.of(key), log.of(key))
    searched = [search for search in searches if search.task.workload_key not in settled]
    budget = sum(min(config.trials, len(search.task.tvm_task.config_space)) for search in searched)
    budget += sum(search.trials for search in searches if search not in searched)
    progress = SearchProgress(searches, budget, report)
    for current in searches:
        batches = (
            _tune(current, config, measurer, log, known)
            if current in searched
            else _try_fallback(current, measurer, log)
        )
        with seeded(seed + zlib.crc32(current.task.workload_key.encode())), closing(batches):
            for _ in batches:
                progress.report(current)
                out_of_time = config.max_seconds and progress.seconds > config.max_seconds
                if out_of_time and current.has_valid_program:
                    break
        if strict and not current.has_valid_program:
            raise current.no_valid_program()
    return progress.new_trials


def _try_fallback(search: TaskSearch, measurer: Measurer, log: RecordLog) -> Generator[None, None, None]:
    """Measure TVM's fallback configuration of a task unless the log holds it, and yield."""
    tvm_task = search.task.tvm_task
    fallback = fallback_config(tvm_task)
    if fallback is not None and not log.holds(autotvm.MeasureInput(tvm_task.target, tvm_task, fallback)):
        _measure(search, [fallback], measurer, log)
        yield


def _tune(
    search: TaskSearch, config: TuneConfig, measurer: Measurer, log: RecordLog, known: RecordLog
) -> Generator[None, None, None]:
    """Measure the configurations of one task, TVM's fallback configuration first; yields after each batch."""
    yield from _try_fallback(search, measurer, log)
    # Early stopping only counts configurations that this tuner proposes.
    search.trials_since_best, proposed = 0, 0
    measured: tuple[list[autotvm.MeasureInput], list[Any]] | None = None
    space_size = len(search.task.tvm_task.config_space)
    trials = min(config.trials, space_size)
    with _tuner(search.task, config, log, known) as (tuner, visited):
        while (
            search.trials < trials and search.trials_since_best < config.early_stopping and tuner.has_next()
        ):
            if measured:
                # This plans the next batch, which can take minutes. There is none to plan after the last one.
                tuner.update(*measured)
                measured = None
            configs = tuner.next_batch(min(config.batch, config.trials - search.trials))
            proposed += len(configs)
            unmeasured = [candidate for candidate in configs if candidate.index not in visited]
            if unmeasured:
                inputs, results = _measure(search, unmeasured, measurer, log)
                visited.update(candidate.index for candidate in unmeasured)
                measured = inputs, [to_autotvm_result(result) for result in results]
                yield
            elif not configs or proposed > space_size:
                # The random and grid tuners are not told what was measured, so they may propose only that.
                return


@contextmanager
def _tuner(
    task: Task, config: TuneConfig, log: RecordLog, known: RecordLog
) -> Iterator[tuple[Any, set[int]]]:
    """Create the tuner of a task, which knows the earlier records.

    Returns
    -------
    A context with the tuner, and the indices of the configurations that were already measured. At its end,
    the processes that extract features for a cost model end, too.
    """
    tuner = make_tuner(task.tvm_task, config)
    before = known.of(task.workload_key)
    done = (*before, *log.of(task.workload_key))
    # Values of knobs do not tell which shape they are for.
    others = config.strategy != "xgb-knob"
    history = [*_transfer_records(config.transfer), *before, *log.measured] if others else done
    visited = {json.loads(record.line)["config"]["index"] for record in done}
    try:
        if history and isinstance(tuner, XGBTuner):
            pairs = [autotvm.record.decode(record.line) for record in history if record.latency]
            tuner.load_history(pairs, min_seed_records=4 * config.batch)
        if isinstance(tuner, XGBTuner | GATuner):
            tuner.visited |= visited
        yield tuner, visited
    finally:
        if isinstance(tuner, XGBTuner):
            tuner.cost_model._close_pool()  # TVM does so at the end of XGBTuner.tune


def _measure(
    search: TaskSearch, configs: Sequence[Any], measurer: Measurer, log: RecordLog
) -> tuple[list[autotvm.MeasureInput], list[Any]]:
    """Measure configurations, add their records to the log and return inputs and results."""
    tvm_task = search.task.tvm_task
    inputs = [autotvm.MeasureInput(tvm_task.target, tvm_task, config) for config in configs]
    results = measurer.measure(inputs)
    records = [dump(i, r) for i, r in zip(inputs, results, strict=True)]
    log.append(records)
    search.add(records)
    return inputs, results


@functools.cache
def _transfer_records(path: str) -> tuple[Measured, ...]:
    """Read the AutoTVM records of another tuning run."""
    if not path:
        return ()
    records = RecordLog.read(Path(path)).measured
    if not any("input" in json.loads(record.line) for record in records):
        raise CPruneError(f"{path} contains no AutoTVM records: expected a log of `tune --tuner autotvm`")
    return tuple(records)


def to_autotvm_result(result: Any) -> autotvm.MeasureResult:
    """Convert an auto_scheduler ``MeasureResult``, as the measurer returns it, to AutoTVM's."""
    if result.error_no:
        message = str(result.error_msg or "")
        error = (message, RuntimeError(message))
        return autotvm.MeasureResult(error, int(result.error_no), float(result.all_cost), result.timestamp)
    costs = tuple(float(cost) for cost in result.costs)
    return autotvm.MeasureResult(costs, 0, float(result.all_cost), float(result.timestamp))
