# SPDX-License-Identifier: Apache-2.0
"""The search and its measuring processes, on real programs."""

import os
import signal

import numpy as np
import pytest
from conftest import FAST, KINDS, task_of
from tvm.auto_scheduler.measure import MeasureErrorNo

from tvm.contrib.cprune.config import TuneConfig
from tvm.contrib.cprune.measuring import local_worker, process
from tvm.contrib.cprune.measuring.local_pool import LocalMeasurer
from tvm.contrib.cprune.measuring.records import RecordLog, to_input
from tvm.contrib.cprune.tuning.ansor.search import Progress, search
from tvm.contrib.cprune.types import CPruneError

# Evaluated in a measuring process: a function of this file would import torch there.
ENVIRONMENT = (
    "(lambda os, sys: (os.environ['TVM_NUM_THREADS'], 'torch' in sys.modules, os.getpid()))"
    "(*map(__import__, ('os', 'sys')))"
)


def test_a_search_measures_its_budget_and_resumes_without_repeating(pool, target, tmp_path):
    task = task_of("1x1", 16, target)
    path, seen = tmp_path / "log.json", []
    assert search([task], FAST, pool, RecordLog(path), report=seen.append) == FAST.trials
    assert isinstance(seen[-1], Progress)
    assert seen[-1].total_trials == FAST.trials
    lines = path.read_text().splitlines()
    assert search([task], FAST, pool, RecordLog(path)) == 0
    more = TuneConfig(trials=6, batch=2, population=32, repeats=3)
    assert search([task], more, pool, RecordLog(path)) == 2
    after = path.read_text().splitlines()
    assert after[: len(lines)] == lines
    states = [each.split('"r":')[0] for each in after]
    assert len(set(states)) == len(states)


def test_measuring_processes_live_on_without_torch(tuned):
    task, best = tuned("1x1")
    with LocalMeasurer(FAST) as pool:
        first = pool.call(eval, ENVIRONMENT)
        assert [r.error_no for r in pool.measure([to_input(best.line, task.tvm_task)])] == [0]
        assert pool.call(eval, ENVIRONMENT) == first
        assert first[0] == str(pool.threads)
        assert first[1] is False


def test_a_process_that_compiled_much_is_replaced_between_batches(tuned, monkeypatch):
    monkeypatch.setattr(process, "MAX_PROGRAMS_PER_PROCESS", 1)
    task, best = tuned("1x1")
    data = to_input(best.line, task.tvm_task).serialize()
    with LocalMeasurer(FAST) as pool:
        worker, used = pool._pool.processes[0], []
        for batch in ((0, 1), (2, 3)):
            assert [pool._build(worker, number, data) for number in batch] == [None, None]
            # Within a batch, what it holds keeps it.
            assert worker.programs == set(batch)
            used.append(pool.call(os.getpid))
            outcomes = [pool.run(number, data) for number in batch]
            assert not [each for each in outcomes if isinstance(each, local_worker.Failure)]
        assert used[0] != used[1]


def test_programs_of_a_killed_process_are_built_again(tuned):
    task, best = tuned("1x1")
    with LocalMeasurer(FAST) as pool:
        inputs = [to_input(best.line, task.tvm_task)] * 3
        built = pool.build([each.serialize() for each in inputs])
        for worker in pool._pool.processes:
            os.kill(worker.popen._proc.pid, signal.SIGKILL)
            worker.popen._proc.wait()
        outcomes = [
            pool.run(number, inputs[0].serialize()) for number, failure, _ in built if failure is None
        ]
        assert len(outcomes) == 3
        assert not [each for each in outcomes if isinstance(each, local_worker.Failure)]
        assert [r.error_no for r in pool.measure(inputs)] == [0, 0, 0]


def test_a_hanging_build_is_a_result(tuned):
    task, best = tuned("direct 3x3")
    with LocalMeasurer(TuneConfig(build_timeout=0.001, repeats=3)) as pool:
        (result,) = pool.measure([to_input(best.line, task.tvm_task)])
        assert result.error_no == MeasureErrorNo.BUILD_TIMEOUT
        assert "longer than" in str(result.error_msg)


def test_a_task_without_any_valid_program_is_named(target):
    task = task_of("1x1", 24, target)
    config = TuneConfig(trials=32, batch=16, population=32, build_timeout=0.0001)
    with (
        LocalMeasurer(config) as pool,
        pytest.raises(CPruneError, match="no valid program for task conv in 16 trials"),
    ):
        search([task], config, pool, RecordLog(None))


def test_rivals_that_are_far_behind_get_no_more(target):
    # One thread: two of them wait for each other where other tests use the cores, and that for milliseconds.
    config = TuneConfig(trials=6, batch=4, population=32, repeats=3, threads=1)
    slow, quick = task_of("direct 3x3", 1024, target), task_of("1x1", 8, target)
    log = RecordLog(None)
    pairs = {slow.workload_key: quick.workload_key, quick.workload_key: slow.workload_key}
    with LocalMeasurer(config) as pool:
        search([slow, quick], config, pool, log, rivals=pairs)
    assert len(log.of(slow.workload_key)) == 2
    assert len(log.of(quick.workload_key)) == 10


def test_stock_functions_come_back_after_a_search(pool):
    import tvm

    names = ("auto_scheduler.local_builder.build", "auto_scheduler.local_runner.run")
    with pool.serve_auto_scheduler():
        pass
    stock = [tvm.get_global_func(name) for name in names]
    with pytest.raises(Exception, match="argument"):
        stock[1]()


@pytest.mark.parametrize("kind", list(KINDS))
def test_every_kind_of_anchor_can_be_tuned(kind, tuned):
    _, best = tuned(kind)
    assert np.isfinite(best.latency.median)
