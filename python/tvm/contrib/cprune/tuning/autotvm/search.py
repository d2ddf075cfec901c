# SPDX-License-Identifier: Apache-2.0
"""AutoTVM's search: its tuners, batch after batch through our measuring pool.

What TVM takes without any tuning is measured first, so no search ends with less.
"""

import functools
import json
import math
import time
import zlib
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from tvm.autotvm.tuner import GATuner, GridSearchTuner, RandomTuner, XGBTuner

from tvm import autotvm
from tvm.contrib.cprune.config import TuneConfig
from tvm.contrib.cprune.measuring.measurer import Measurer
from tvm.contrib.cprune.measuring.records import Measured, RecordLog, dump
from tvm.contrib.cprune.targets.target import host_threads
from tvm.contrib.cprune.tuning.ansor.search import Progress
from tvm.contrib.cprune.tuning.autotvm.task import fallback_of
from tvm.contrib.cprune.types import CPruneError, Task


def search(
    tasks: Sequence[Task],
    config: TuneConfig,
    pool: Measurer,
    log: RecordLog,
    seed: int = 0,
    report: Callable[[Progress], None] = lambda _: None,
    strict: bool = True,
) -> int:
    """Search configurations for ``tasks``, each for as many trials; records go to ``log``.

    Trials that the log holds count, and the learning tuners start from them, those of other tasks included.

    Parameters
    ----------
    strict
        Whether a task without a valid configuration is an error.

    Returns
    -------
    How many configurations were measured now.

    Raises
    ------
    CPruneError
        If no configuration of a task is valid; the message names the task and the first cause.
    """
    started, measured_now = time.time(), 0
    budget = sum(min(config.trials, len(task.tvm_task.config_space)) for task in tasks)
    done = {task.workload_key: len(log.of(task.workload_key)) for task in tasks}
    for task in tasks:
        known = log.best(task.workload_key)
        best = known.latency.median if known and known.latency else float("inf")
        for measured in _tune(task, config, pool, log, seed):
            log.append(measured)
            measured_now += len(measured)
            done[task.workload_key] += len(measured)
            best = min([best, *(each.latency.median for each in measured if each.latency)])
            total, seconds = sum(done.values()), time.time() - started
            report(Progress(task, done[task.workload_key], best, total, budget, seconds))
            if config.max_seconds and seconds > config.max_seconds and best < float("inf"):
                break
        if best == float("inf") and strict:
            errors = [each.error for each in log.of(task.workload_key)]
            cause = errors[0] if errors else "the search space is empty"
            raise CPruneError(
                f"no valid program for task {task.title} in {len(errors)} trials; "
                f"the first failed with: {cause}"
            )
    return measured_now


def _tune(
    task: Task, config: TuneConfig, pool: Measurer, log: RecordLog, seed: int
) -> Iterator[list[Measured]]:
    """Measure batch after batch of one task, what TVM takes without tuning first."""
    untuned = None if log.of(task.workload_key) else fallback_of(task.tvm_task)
    if untuned is not None:
        yield _measure(task, [untuned], pool)[0]
    np.random.seed((seed + zlib.crc32(task.workload_key.encode())) % (1 << 32))
    tuner = _make_tuner(task, config)
    known = log.of(task.workload_key)
    history = [*_transferred(config.transfer), *log.measured]
    if history and isinstance(tuner, XGBTuner):
        pairs = [autotvm.record.decode(each.line) for each in history if each.latency]
        tuner.load_history(pairs, min_seed_records=4 * config.batch)
    visited = {json.loads(each.line)["config"]["index"] for each in known}
    if isinstance(tuner, XGBTuner | GATuner):
        tuner.visited |= visited
    # The others do not know what was tried; how far they go is bounded by the size of their space.
    trials, since_best, asked = len(known), 0, 0
    best = min([each.latency.median for each in known if each.latency], default=float("inf"))
    space = task.tvm_task.config_space
    while trials < min(config.trials, len(space)) and since_best < config.early_stopping and tuner.has_next():
        configs = tuner.next_batch(min(config.batch, config.trials - trials))
        asked += len(configs)
        fresh = [each for each in configs if each.index not in visited]
        if not fresh:
            if not configs or asked > len(space):
                return
            continue
        measured, inputs, results = _measure(task, fresh, pool)
        visited |= {each.index for each in fresh}
        tuner.update(inputs, [to_autotvm(r) for r in results])
        now = min([best, *(each.latency.median for each in measured if each.latency)])
        since_best = 0 if now < best else since_best + len(measured)
        best, trials = now, trials + len(measured)
        yield measured


def _measure(
    task: Task, configs: Sequence[Any], pool: Measurer
) -> tuple[list[Measured], list[Any], list[Any]]:
    """Return records of configurations, and what they were measured by and gave."""
    target = task.tvm_task.target
    inputs = [autotvm.MeasureInput(target, task.tvm_task, each) for each in configs]
    results = pool.measure(inputs)
    return [dump(i, r) for i, r in zip(inputs, results, strict=True)], inputs, results


@functools.cache
def _transferred(path: str) -> tuple[Measured, ...]:
    """Return the records of another tuning."""
    if not path:
        return ()
    found = RecordLog(Path(path)).measured
    if not any("input" in json.loads(each.line) for each in found):
        raise CPruneError(f"{path} holds no records of AutoTVM to start from")
    return tuple(found)


class _EvenGrid(GridSearchTuner):
    """Walks over the whole grid in even strides, each configuration once.

    TVM's own goes through the configurations in order: in as many trials as anybody has it stays in a corner,
    where every inner loop is of length 1.
    """

    def __init__(self, task: Any) -> None:
        super().__init__(task)
        self._next = 0
        # Multiples of the golden section of a length lie evenly on it, however many there are.
        self._stride = max(1, round(self.range_length * (math.sqrt(5) - 1) / 2))
        while math.gcd(self._stride, self.range_length) > 1:
            self._stride += 1

    def next_batch(self, batch_size: int) -> list[Any]:
        found: list[Any] = []
        while len(found) < batch_size and self.has_next():
            if self.space.is_index_valid(self._next):
                self.visited.append(self._next)
                found.append(self.space.get(self._next))
            self._next = (self._next + self._stride) % self.range_length
        return found


def _make_tuner(task: Task, config: TuneConfig) -> Any:
    tvm_task = task.tvm_task
    if config.strategy == "ga":
        return GATuner(tvm_task, pop_size=min(config.trials, 50))
    if config.strategy == "random":
        return RandomTuner(tvm_task)
    if config.strategy == "gridsearch":
        return _EvenGrid(tvm_task)
    loss = "rank-binary" if config.strategy == "xgb-rank" else "reg"
    return XGBTuner(tvm_task, loss_type=loss, plan_size=config.batch, num_threads=host_threads())


def to_autotvm(result: Any) -> autotvm.MeasureResult:
    """Return a result of our measuring pool as AutoTVM has it."""
    if result.error_no:
        message = (str(result.error_msg or ""), RuntimeError(str(result.error_msg or "")))
        return autotvm.MeasureResult(message, int(result.error_no), float(result.all_cost), result.timestamp)
    costs = tuple(float(cost) for cost in result.costs)
    return autotvm.MeasureResult(costs, 0, float(result.all_cost), float(result.timestamp))
