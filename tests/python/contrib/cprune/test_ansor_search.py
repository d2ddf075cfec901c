# SPDX-License-Identifier: Apache-2.0
"""Ansor's search and the local measurer, on real programs."""

import os
import signal
from dataclasses import replace

import numpy as np
import pytest
from networks import KINDS
from programs import FAST, task_of
from tvm.auto_scheduler.measure import MeasureErrorNo

import tvm
from tvm import auto_scheduler, te, topi
from tvm.contrib.cprune.config import TuneConfig
from tvm.contrib.cprune.measuring import local_worker
from tvm.contrib.cprune.measuring import process as process_module
from tvm.contrib.cprune.measuring.local_pool import LocalMeasurer
from tvm.contrib.cprune.measuring.records import Measured, RecordLog, identity, to_input
from tvm.contrib.cprune.tuning.ansor import allocation
from tvm.contrib.cprune.tuning.ansor import search as search_module
from tvm.contrib.cprune.tuning.ansor.axes import counted_flops
from tvm.contrib.cprune.tuning.ansor.lending import lend
from tvm.contrib.cprune.tuning.ansor.search import search, start_searches
from tvm.contrib.cprune.tuning.ansor.tiled_programs import TiledPrograms
from tvm.contrib.cprune.tuning.progress import Progress, SearchProgress, TaskSearch
from tvm.contrib.cprune.types import CPruneError, Latency, Task

# Evaluated in a worker process. A function of this file would import torch there.
ENVIRONMENT = (
    "(lambda os, sys: (os.environ['TVM_NUM_THREADS'], 'torch' in sys.modules, os.getpid()))"
    "(*map(__import__, ('os', 'sys')))"
)


def test_search_uses_its_budget_and_resumes_without_repeating_programs(pool, target, tmp_path):
    task = task_of("1x1", 16, target)
    path, reports = tmp_path / "log.json", []
    assert search([task], FAST, pool, RecordLog(path), report=reports.append) == FAST.trials
    assert isinstance(reports[-1], Progress)
    assert reports[-1].total_trials == FAST.trials
    lines = path.read_text().splitlines()
    assert search([task], FAST, pool, RecordLog(path)) == 0
    more = replace(FAST, trials=4)
    assert search([task], more, pool, RecordLog(path)) == 2
    after = path.read_text().splitlines()
    assert after[: len(lines)] == lines
    states = [line.split('"r":')[0] for line in after]
    assert len(set(states)) == len(states)


@pytest.mark.parametrize(("budget", "left"), [(4, 0), (20, 13)])
def test_progress_counts_earlier_trials_and_estimates_the_time_by_new_ones(budget, left, monkeypatch):
    """A search can take more trials than its budget: every algorithm gets some."""
    task, program, reports = Task("[]", (), 0), Measured("[]", "", Latency((1e-3,))), []
    of_task = TaskSearch(task, budget)
    of_task.start([program], [program] * 6)
    progress = SearchProgress([of_task], reports.append)
    monkeypatch.setattr(SearchProgress, "seconds", 2.0)
    of_task.add([program])
    progress.report(of_task)
    assert reports == [Progress(task, 7, 1e-3, 7, 7 + left, 2.0 * left)]


def test_a_task_whose_operations_cannot_be_counted_has_no_speed():
    data = te.placeholder((1, 7, 7, 8))
    dag = auto_scheduler.ComputeDAG([data, topi.nn.adaptive_pool(data, (3, 3), "avg", "NHWC")])
    assert dag.flop_ct == -1
    task = Task("[]", (), counted_flops(dag))
    assert Progress(task, 1, 1e-3, 1, 1, 1.0).speed == "-"
    assert Progress(replace(task, flops=2e6), 1, 1e-3, 1, 1, 1.0).speed == "2.0"


def test_workers_are_reused_and_do_not_import_torch(tuned):
    task, best = tuned("1x1")
    with LocalMeasurer(FAST) as pool:
        first = pool.call(eval, ENVIRONMENT)
        assert [r.error_no for r in pool.measure([to_input(best.line, task.tvm_task)])] == [0]
        assert pool.call(eval, ENVIRONMENT) == first
        assert first[0] == str(pool.threads)
        assert first[1] is False


def test_worker_is_restarted_between_batches_after_compiling_many_programs(tuned, monkeypatch):
    monkeypatch.setattr(process_module, "MAX_PROGRAMS_PER_PROCESS", 1)
    task, best = tuned("1x1")
    data = to_input(best.line, task.tvm_task).serialize()
    with LocalMeasurer(FAST) as pool:
        process, pids = pool._pool.processes[0], []
        for batch in ((0, 1), (2, 3)):
            assert [pool._build(process, number, data) for number in batch] == [None, None]
            # It must not be restarted while it holds programs of the batch.
            assert process.programs == set(batch)
            pids.append(pool.call(os.getpid))
            outcomes = [pool.run(number, data) for number in batch]
            assert not any(isinstance(outcome, local_worker.Failure) for outcome in outcomes)
        assert pids[0] != pids[1]


def test_programs_of_a_killed_worker_are_built_again(tuned):
    task, best = tuned("1x1")
    with LocalMeasurer(FAST) as pool:
        inputs = [to_input(best.line, task.tvm_task)] * 3
        built = pool.build([each.serialize() for each in inputs])
        for process in pool._pool.processes:
            os.kill(process.popen._proc.pid, signal.SIGKILL)
            process.popen._proc.wait()
        outcomes = [
            pool.run(number, inputs[0].serialize()) for number, failure, _ in built if failure is None
        ]
        assert len(outcomes) == 3
        assert not any(isinstance(outcome, local_worker.Failure) for outcome in outcomes)
        assert [r.error_no for r in pool.measure(inputs)] == [0, 0, 0]


def test_build_timeout_is_returned_as_a_result(tuned):
    task, best = tuned("direct 3x3")
    with LocalMeasurer(TuneConfig(build_timeout=0.001, repeats=3)) as pool:
        (result,) = pool.measure([to_input(best.line, task.tvm_task)])
        assert result.error_no == MeasureErrorNo.BUILD_TIMEOUT
        assert "longer than" in str(result.error_msg)


def test_error_names_the_task_without_a_valid_program(target, monkeypatch):
    monkeypatch.setattr(allocation, "MAX_INITIAL_FAILURES", 4)
    task = task_of("1x1", 24, target)
    config = TuneConfig(trials=8, batch=4, population=16, build_timeout=0.0001)
    with (
        LocalMeasurer(config) as pool,
        pytest.raises(CPruneError, match="no valid program for task conv in 4 trials"),
    ):
        search([task], config, pool, RecordLog(None))


def test_a_much_slower_alternative_gets_a_fair_number_of_trials_and_no_more(target, monkeypatch):
    monkeypatch.setattr(search_module, "FAIR_TRIALS", 4)
    # With two threads, other tests on the same cores would delay programs by milliseconds.
    config = TuneConfig(trials=8, batch=4, population=16, repeats=3, threads=1)
    slow, fast = task_of("direct 3x3", 1024, target), task_of("1x1", 8, target)
    log = RecordLog(None)
    alternatives = {slow.workload_key: fast.workload_key, fast.workload_key: slow.workload_key}
    with LocalMeasurer(config) as pool:
        search([slow, fast], config, pool, log, alternatives=alternatives)
    assert len(log.of(slow.workload_key)) == 6
    assert len(log.of(fast.workload_key)) == 10


def test_a_program_is_lent_to_a_slower_task_once(tuned, pool, target):
    task, best = tuned("direct 3x3")
    other = task_of("direct 3x3", 32, target)
    log, config = RecordLog(None), replace(FAST, population=16)
    log.append([best])
    lender, borrower = start_searches([task, other], config, log, 0, {})
    assert best.latency is not None and lender.best == best.latency.median
    borrower.learn(pool.measure_new(lend(borrower, [lender, borrower], log, 2), log))
    (lent,) = log.of(other.workload_key)
    assert lent.latency is not None and borrower.best == lent.latency.median
    learned = [identity(measure_input) for measure_input in borrower.model.inputs]
    expected = ((best.line, task), (lent.line, other))
    assert learned == [identity(to_input(line, owner.tvm_task)) for line, owner in expected]
    assert not lend(borrower, [lender, borrower], log, 2)
    lender.best = 1.0  # too slow to be worth a trial
    borrower.lent.clear()
    assert not lend(borrower, [lender, borrower], log, 2)


def test_a_search_starts_from_known_programs_and_counts_only_its_own(tuned, pool, target, monkeypatch):
    task, best = tuned("direct 3x3")
    known, log, varied, reports = RecordLog(None), RecordLog(None), [], []
    known.append([best])
    generate = TiledPrograms.generate

    def recorded(programs, measured):
        varied.append(list(measured))
        return generate(programs, varied[-1])

    monkeypatch.setattr(TiledPrograms, "generate", recorded)
    (one,) = start_searches([task], FAST, log, 0, {}, known=known)
    assert (one.trials, one.best) == (0, best.latency.median)
    assert [identity(i) for i in one.model.inputs] == [identity(to_input(best.line, task.tvm_task))]
    assert search([task], FAST, pool, log, report=reports.append, known=known) == FAST.trials
    assert len(log.measured) == FAST.trials
    assert varied[0] == [best]
    assert reports[-1].best == min(r.latency.median for r in (best, *log.measured) if r.latency)


def test_a_task_with_a_known_program_is_no_error_if_all_new_ones_fail(tuned, target, monkeypatch):
    task, best = tuned("direct 3x3")
    monkeypatch.setattr(allocation, "MAX_INITIAL_FAILURES", 2)
    known = RecordLog(None)
    known.append([best])
    config = TuneConfig(trials=4, batch=4, population=16, build_timeout=0.0001)
    with LocalMeasurer(config) as pool:
        log = RecordLog(None)
        assert search([task], config, pool, log, known=known) == 4
        assert all(record.latency is None for record in log.measured)
        with pytest.raises(CPruneError, match="no valid program"):
            search([task], config, pool, RecordLog(None))


def registered_functions():
    """Return the addresses of the functions that auto_scheduler builds and runs programs with."""
    names = ("auto_scheduler.local_builder.build", "auto_scheduler.local_runner.run")
    return [tvm.get_global_func(name).handle.value for name in names]


def test_tvms_own_functions_are_restored_after_a_search(pool):
    stock = registered_functions()
    assert registered_functions() == stock
    with pool.serve_auto_scheduler(lambda given: given):
        assert not set(registered_functions()) & set(stock)
    assert registered_functions() == stock
    with pytest.raises(RuntimeError, match="interrupted"), pool.serve_auto_scheduler(lambda given: given):
        raise RuntimeError("interrupted")
    assert registered_functions() == stock


@pytest.mark.parametrize("kind", list(KINDS))
def test_every_kind_of_anchor_can_be_tuned(kind, tuned):
    _, best = tuned(kind)
    assert np.isfinite(best.latency.median)
