# SPDX-License-Identifier: Apache-2.0
"""Tests of the search for AutoTVM's configurations."""

import gc
import json
import random
from collections.abc import Sequence
from typing import Any

import numpy as np
import psutil
import pytest
from programs import random_configurations, template_task_of
from tvm.autotvm.tuner import GATuner, XGBTuner

from tvm import auto_scheduler, autotvm
from tvm.contrib.cprune.config import STRATEGIES, TuneConfig
from tvm.contrib.cprune.measuring.records import RecordLog, parse
from tvm.contrib.cprune.tuning.autotvm.configuration import fallback_config
from tvm.contrib.cprune.tuning.autotvm.search import search
from tvm.contrib.cprune.tuning.autotvm.tuners import StridedGridTuner
from tvm.contrib.cprune.tuning.progress import Progress

POPEN_WORKER = "tvm.exec.popen_worker"


class ConstantMeasurer:
    """Returns 2 s for every configuration, without building it."""

    def measure(self, inputs: Sequence[Any]) -> list[auto_scheduler.MeasureResult]:
        return [auto_scheduler.MeasureResult([2.0], 0, "", 0.1, 0.0) for _ in inputs]


def record_of(task, configuration, cost):
    measured = autotvm.MeasureInput(task.tvm_task.target, task.tvm_task, configuration)
    return parse(autotvm.record.encode(measured, autotvm.MeasureResult((cost,), 0, 0.0, 0.0)))


def index_of(record) -> int:
    return json.loads(record.line)["config"]["index"]


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_every_strategy_finds_programs_and_resumes_from_its_records(strategy, pool, tmp_path):
    task = template_task_of("1x1", 32)
    config = TuneConfig(tuner="autotvm", strategy=strategy, trials=4, batch=2, repeats=3)
    log, reports = RecordLog(tmp_path / "log.json"), []
    assert search([task], config, pool, log, report=reports.append) == 4
    assert isinstance(reports[-1], Progress) and reports[-1].trials == 4
    # TVM's fallback configuration is measured first, so that no strategy ends with a slower one.
    (untuned, *_) = log.measured
    assert index_of(untuned) == fallback_config(task.tvm_task).index
    assert 0 < log.best(task.workload_key).latency.median <= untuned.latency.median
    indices = [index_of(record) for record in log.measured]
    assert len(set(indices)) == 4
    # TVM can read the log.
    assert len(list(autotvm.record.load_from_file(str(tmp_path / "log.json")))) == 4
    assert search([task], config, pool, RecordLog(tmp_path / "log.json")) == 0


def test_processes_that_extract_features_end_with_their_task(pool):
    """They would stay until the garbage collector finds the cost model."""

    def extractors():
        return {child.pid for child in psutil.Process().children() if POPEN_WORKER in child.cmdline()}

    learned, log, running = template_task_of("1x1", 32), RecordLog(None), []
    search([learned], TuneConfig(tuner="autotvm", trials=4, batch=1, repeats=3), pool, log)
    gc.collect()
    before = extractors()
    gc.disable()
    try:
        # With the first task's records, the second one starts with a plan, and ends before the next one.
        config = TuneConfig(tuner="autotvm", trials=2, batch=1, repeats=3)
        search(
            [template_task_of("1x1", 64)], config, pool, log, report=lambda _: running.append(extractors())
        )
        assert running[-1] - before
        assert extractors() <= before
    finally:
        gc.enable()


def test_no_batch_is_planned_that_is_not_measured(pool, monkeypatch):
    """The cost model of a tuner learns from all batches but the last one."""
    learned, update = [], XGBTuner.update

    def count(tuner, inputs, results):
        learned.append(len(inputs))
        update(tuner, inputs, results)

    monkeypatch.setattr(XGBTuner, "update", count)
    config = TuneConfig(tuner="autotvm", trials=5, batch=2, repeats=3)
    assert search([template_task_of("1x1", 32)], config, pool, RecordLog(None)) == 5
    # The fallback configuration comes first.
    assert learned == [2]


def test_only_the_fallback_configuration_of_a_task_at_its_goal_is_measured(pool):
    """It is measured although donors count as trials of the task."""
    task = template_task_of("1x1", 32)
    fallback = fallback_config(task.tvm_task).index
    config, log = TuneConfig(tuner="autotvm", trials=4, batch=2, repeats=3), RecordLog(None)
    donors = [parse(line) for line in random_configurations(task, 3)]
    donors = [donor for donor in donors if index_of(donor) != fallback]
    log.append(donors)
    assert search([task], config, pool, log, goals={task.workload_key: float("inf")}) == 1
    *_, last = log.measured
    assert index_of(last) == fallback
    assert search([task], config, pool, log, goals={task.workload_key: float("inf")}) == 0


def test_known_configurations_count_as_no_trials_and_are_not_measured_again(pool):
    task = template_task_of("1x1", 32)
    config = TuneConfig(tuner="autotvm", strategy="gridsearch", trials=3, batch=3, repeats=3)
    known, log, reports = RecordLog(None), RecordLog(None), []
    tuner = StridedGridTuner(task.tvm_task)
    first = [measured.index for measured in tuner.next_batch(2)]
    known.append([record_of(task, task.tvm_task.config_space.get(index), 1e-9) for index in first])
    assert search([task], config, pool, log, report=reports.append, known=known) == 3
    indices = [index_of(record) for record in log.measured]
    assert len(indices) == 3 and not set(indices) & set(first)
    assert (reports[-1].trials, reports[-1].best) == (3, 1e-9)


def test_grid_tuner_takes_even_strides_and_visits_each_configuration_once():
    space = template_task_of("1x1", 32).tvm_task.config_space
    tuner = StridedGridTuner(template_task_of("1x1", 32).tvm_task)
    first = [config.index for config in tuner.next_batch(4)]
    assert max(first) - min(first) > len(space) / 2
    rest = [config.index for config in tuner.next_batch(len(space))]
    assert sorted(first + rest) == list(range(len(space)))
    assert not tuner.has_next()


def global_states():
    return random.getstate(), np.random.get_state()[1].tolist(), np.random.get_state()[2]


@pytest.mark.parametrize("strategy", ["random", "ga"])
def test_the_seed_alone_decides_the_configurations(strategy):
    task = template_task_of("1x1", 32)
    config = TuneConfig(tuner="autotvm", strategy=strategy, trials=6, batch=3)

    def searched(seed, state):
        random.seed(state)
        np.random.seed(state)
        before, log = global_states(), RecordLog(None)
        search([task], config, ConstantMeasurer(), log, seed)
        assert global_states() == before
        return [index_of(record) for record in log.measured]

    assert searched(0, 1) == searched(0, 2)
    assert searched(0, 1) != searched(1, 1)


def test_the_genetic_algorithm_learns_from_its_whole_generation_in_order(monkeypatch):
    """It assigns results to genes by position, and needs one for every gene before it evolves."""
    task, proposed, learned = template_task_of("1x1", 32), [], []
    space, fallback = task.tvm_task.config_space, fallback_config(task.tvm_task).index
    next_batch, update = GATuner.next_batch, GATuner.update

    def spy_on_batch(tuner, size):
        configs = next_batch(tuner, size)
        proposed.extend(config.index for config in configs)
        return configs

    def spy_on_update(tuner, inputs, results):
        pairs = zip(inputs, results, strict=True)
        learned.extend((measured.config.index, result.costs[0]) for measured, result in pairs)
        update(tuner, inputs, results)

    monkeypatch.setattr(GATuner, "next_batch", spy_on_batch)
    monkeypatch.setattr(GATuner, "update", spy_on_update)
    known = RecordLog(None)
    even = [index for index in range(0, len(space), 2) if index != fallback]
    known.append([record_of(task, space.get(index), 1.0) for index in even])
    config, log = TuneConfig(tuner="autotvm", strategy="ga", trials=20, batch=4), RecordLog(None)
    assert search([task], config, ConstantMeasurer(), log, known=known) == 20
    assert len({index_of(record) for record in log.measured}) == 20
    # The last batch is measured, but nothing is planned from it.
    assert 20 < len(learned) < len(proposed)
    assert [index for index, _ in learned] == proposed[: len(learned)]
    assert all(cost == (1.0 if index in even else 2.0) for index, cost in learned)


def test_the_time_limit_ends_a_tuner_that_proposes_only_known_configurations(monkeypatch):
    task, batches = template_task_of("1x1", 32), []
    fallback, log = fallback_config(task.tvm_task), RecordLog(None)
    log.append([record_of(task, fallback, 1.0)])

    def same_again(*_):
        batches.append([fallback])
        return batches[-1]

    monkeypatch.setattr(GATuner, "next_batch", same_again)
    config = TuneConfig(tuner="autotvm", strategy="ga", trials=20, batch=4, max_seconds=1e-9)
    reports = []
    assert search([task], config, ConstantMeasurer(), log, report=reports.append) == 0
    assert len(batches) == 1
    assert not reports
