# SPDX-License-Identifier: Apache-2.0
"""The start of a search: donors from the library, and the latencies at which searches end."""

import json
from collections import defaultdict
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from networks import KINDS, OneLayer
from programs import FAST, measured_table, random_records, table_of, task_of
from tvm.auto_scheduler import MeasureResult

from tvm.contrib.cprune import library_start
from tvm.contrib.cprune.compiler import Compiler
from tvm.contrib.cprune.config import PruneConfig
from tvm.contrib.cprune.library_start import SETTLED, latency_goals, measure_donors, with_trials
from tvm.contrib.cprune.measuring.records import Measured, RecordLog, dump, input_identity, parse
from tvm.contrib.cprune.program_library import table_files
from tvm.contrib.cprune.table import TaskTable
from tvm.contrib.cprune.tuning.ansor.transplant import transplant
from tvm.contrib.cprune.types import Latency

NEVER = float("inf")


def reached(latencies, expected):
    goals = latency_goals(expected, latencies)
    return {key for key, seconds in latencies.items() if seconds <= goals[key]}


def test_a_search_ends_when_a_task_is_as_fast_as_its_donors():
    expected = {"a": 1.0, "b": 1.0, "c": 1.0, "d": 1.0, "e": 0.0}
    # c is slower than its donor, d has no valid program, and nothing is known of e.
    assert reached({"a": 1.0, "b": 1.04, "c": 2.0, "d": NEVER, "e": 0.1}, expected) == {"a", "b"}
    # This machine has 0.7 of the speed of the donors' machine.
    latencies = {"a": 1 / 0.7, "b": 1 / 0.67, "c": 2.0, "d": 1 / 0.7, "e": 0.1}
    assert reached(latencies, expected) == {"a", "b", "d"}
    # Donors that are slow on all tasks reach nothing, and neither do few tasks.
    assert reached(dict.fromkeys("abcde", 3.0), expected) == set()
    assert reached({"a": 1.5, "b": 1.5}, {"a": 1.0, "b": 1.0}) == set()
    assert latency_goals({}, {}) == {}
    # A machine is faster than the donors' one if more than half of the tasks are faster.
    assert latency_goals(expected, dict.fromkeys("abcde", 0.5))["a"] == pytest.approx(0.5 / SETTLED)
    some = {"a": 0.5, "b": 1.0, "c": 1.0, "d": 1.2, "e": 0.1}
    assert latency_goals(expected, some)["a"] == pytest.approx(1 / SETTLED)


class Measurements:
    """A measurer whose programs take a given time, which may depend on the workload key."""

    def __init__(self, seconds):
        self.seconds = seconds if isinstance(seconds, dict) else defaultdict(lambda: seconds)
        self.count = 0

    def measure_new(self, inputs, log):
        new = [item for item in inputs if not log.holds(item)]
        self.count += len(new)
        seconds = [self.seconds[item.task.workload_key] for item in new]
        results = [MeasureResult([cost], 0, "", 0.0, 0.0) for cost in seconds]
        log.append([dump(item, result) for item, result in zip(new, results, strict=True)])


def start(tasks, rows, measurer, log, config=FAST, alternatives=None):
    """Measure donors; return the workload keys of the tasks that are as fast as their goals."""
    goals = measure_donors(tasks, rows, transplant, measurer, log, config, alternatives or {})
    return {key for key, goal in goals.items() if (best := log.best(key)) and best.latency.median <= goal}


def test_donors_of_a_shorter_search_and_of_distant_shapes_set_no_goal(tuned, target):
    task, best = tuned("direct 3x3")
    seconds = best.latency.median
    (row,) = measured_table(task, best).rows
    far = task_of("direct 3x3", 8 * KINDS["direct 3x3"].width, target)
    config = replace(FAST, trials=8)

    def settled(task, trials, seconds):
        rows = [replace(row, trials=trials)]
        return start([task], rows, Measurements(seconds), RecordLog(None), config)

    assert settled(task, 8, seconds) == {task.workload_key}
    assert settled(task, 7, seconds) == set()
    assert settled(task, 8, 2 * seconds) == set()
    assert settled(far, 8, seconds) == set()


def test_further_donors_are_measured_only_on_tasks_that_lack_speed(tuned, target):
    task, best = tuned("direct 3x3")
    seconds, trials = best.latency.median, FAST.trials
    (row,) = measured_table(task, best).rows
    # Programs of the same task, the nearest ones there are.
    others = [line for line in random_records(task) if input_identity(line) != input_identity(best.line)]
    lines = [best.line, *others[:2]]
    rows = [replace(row, program=replace(row.program, record=line), trials=trials) for line in lines]
    for slower, expected in ((1.0, 1), (2.0, 3)):
        measurer = Measurements(slower * seconds)
        start([task], rows, measurer, RecordLog(None))
        assert measurer.count == expected


def test_no_donor_is_measured_after_the_time_limit(tuned, target, monkeypatch):
    task, best = tuned("direct 3x3")
    (row,) = measured_table(task, best).rows
    tasks = [task_of("direct 3x3", width, target) for width in (16, 24, 32, 40)]
    rows = [replace(row, trials=FAST.trials)]
    now = 0.0
    monkeypatch.setattr(library_start, "time", SimpleNamespace(monotonic=lambda: now))

    class Slow(Measurements):
        def measure_new(self, inputs, log):
            nonlocal now
            super().measure_new(inputs, log)
            now += len(inputs)

    # Two programs in a batch. The clock is read before each batch.
    for seconds, expected in ((1.0, 2), (3.0, 4), (0.0, 4)):
        now, measurer, log = 0.0, Slow(best.latency.median), RecordLog(None)
        config = replace(FAST, max_seconds=seconds)
        goals = measure_donors(tasks, rows, transplant, measurer, log, config, {})
        assert measurer.count == expected
        # Tasks that were not reached have no goal, and do not make the machine look slow.
        assert [bool(goals[task.workload_key]) for task in tasks] == [
            log.of(task.workload_key) != [] for task in tasks
        ]


def test_a_task_whose_alternative_is_faster_than_its_goal_is_not_measured_further(tuned, target):
    task, best = tuned("direct 3x3")
    (row,) = measured_table(task, best).rows
    other = task_of("direct 3x3", KINDS["direct 3x3"].width // 2, target)
    line = next(line for line in random_records(task) if input_identity(line) != input_identity(best.line))
    rows = [
        replace(row, program=replace(row.program, record=x), trials=FAST.trials) for x in (best.line, line)
    ]
    pair = {task.workload_key: other.workload_key, other.workload_key: task.workload_key}
    # Both lack their own goals, but the smaller one is faster than the goal of the other.
    seconds = {task.workload_key: 2 * best.latency.median, other.workload_key: 0.9 * best.latency.median}
    for alternatives, expected in (({}, 4), (pair, 3)):
        measurer = Measurements(seconds)
        start([task, other], rows, measurer, RecordLog(None), alternatives=alternatives)
        assert measurer.count == expected


def test_a_resumed_start_measures_nothing_twice_and_decides_alike(tuned):
    """What the search found in the meantime does not count."""
    task, best = tuned("direct 3x3")
    rows = [replace(row, trials=FAST.trials) for row in measured_table(task, best).rows]
    log, measurer = RecordLog(None), Measurements(2 * best.latency.median)
    arguments = ([task], rows, transplant, measurer, log, FAST, {})
    goals = measure_donors(*arguments)
    other = next(line for line in random_records(task) if input_identity(line) != input_identity(best.line))
    log.append([replace(parse(other), latency=Latency((best.latency.median,)))])
    assert measure_donors(*arguments) == goals != {}
    assert measurer.count == 1


def test_a_donor_that_cannot_be_replayed_is_skipped(tuned):
    task, best = tuned("direct 3x3")
    (row,) = measured_table(task, best).rows
    for steps in ([["SP", 99, 0, 8, [2], 1]], [["XX", 0]], [["SP", 0]]):
        data = json.loads(best.line)
        data["i"][1][1] = steps
        broken = replace(row, program=replace(row.program, record=json.dumps(data)), trials=FAST.trials)
        measurer = Measurements(1.0)
        assert start([task], [broken], measurer, RecordLog(None)) == set()
        assert measurer.count == 0


def test_a_search_that_ran_out_of_time_counts_with_the_trials_that_it_had():
    rows, log = table_of(dict.fromkeys("abc", (2, 2))).rows, RecordLog(None)
    keys = ["a", "a", "a", "b"]
    log.append(Measured(key, json.dumps({"i": [[key], [[], [i]]]}), None) for i, key in enumerate(keys))
    assert [row.trials for row in with_trials(rows, {"c": 1.0}, log, 8)] == [2, 2, 8]
    # A task that misses its goal may have got few trials for that reason.
    assert [row.trials for row in with_trials(rows, {"b": 0.5, "c": 1.0}, log, 8)] == [3, 1, 8]
    assert [row.trials for row in with_trials(rows, {"c": 1.0}, log, 1)] == [1, 1, 1]


def test_a_second_network_starts_from_the_programs_of_the_first(tmp_path, monkeypatch):
    """Tasks that are settled get no trials; without the library, every task gets some."""
    monkeypatch.setattr("tvm.contrib.cprune.library_start.SETTLED", 1e-9)
    monkeypatch.setattr("tvm.contrib.cprune.program_library.STARTER_FILES", {})
    trials = {}
    for name, width, library in (("first", 16, "lib"), ("second", 24, "lib"), ("alone", 24, "none")):
        setting = str(tmp_path / "lib") if library == "lib" else library
        tune = replace(FAST, trials=6, library=setting)
        torch.manual_seed(0)
        with Compiler(PruneConfig(tune=tune, measure_repeats=3), (1, 8, 8, 8), tmp_path / name) as compiler:
            compiler.tune(OneLayer(8, width).eval())
            trials[name] = compiler.programs.trials()["search"]
    assert trials["second"] < trials["alone"]
    (path,) = table_files(tmp_path / "lib")
    keys = {row.task.workload_key for row in TaskTable.load(path).rows}
    assert len(keys) >= 4
