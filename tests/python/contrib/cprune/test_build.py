# SPDX-License-Identifier: Apache-2.0
"""Whole models with the programs of a table: outputs, coverage of tasks, and timing."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from networks import OneLayer

from tvm.contrib.cprune.building.build import ModelBuilder
from tvm.contrib.cprune.importers.from_torch import from_torch
from tvm.contrib.cprune.measuring import local_worker
from tvm.contrib.cprune.measuring.records import RecordLog
from tvm.contrib.cprune.measuring.timing import time_side_by_side
from tvm.contrib.cprune.table import TaskTable, make_table
from tvm.contrib.cprune.targets.presets import find_preset
from tvm.contrib.cprune.tasks import extract_from_program
from tvm.contrib.cprune.transform.pin_algorithms import winograd_algorithms
from tvm.contrib.cprune.types import INPUT, CPruneError

SHAPE = (1, 8, 8, 8)


@pytest.fixture(scope="module")
def tuned_model(pool, target, tuned_run):
    torch.manual_seed(0)
    model = OneLayer(8, 32).eval()
    relay_model = from_torch(model, SHAPE)
    (records,) = tuned_run("one layer", model, SHAPE).glob("records/*/search.json")
    log = RecordLog(records)
    # Both algorithms must build with packed weights, whichever is faster.
    tables = {}
    for name, algorithms in (("direct", {}), ("winograd", winograd_algorithms(relay_model.mod))):
        tasks = extract_from_program(relay_model.mod, None, target, algorithms)
        tables[name] = make_table(tasks, log.best, str(target), pool.threads, True)
    return model, relay_model, tables


@pytest.fixture
def builder(tmp_path):
    return ModelBuilder(tmp_path, find_preset(None))


def check_outputs(library, model, measurer):
    data = np.random.default_rng(0).standard_normal(SHAPE).astype("float32")
    expected = model(torch.tensor(data)).detach().numpy()
    np.testing.assert_allclose(measurer.run_model(library, data)[0], expected, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("algorithm", ["direct", "winograd"])
def test_a_tuned_model_computes_the_same_as_pytorch(algorithm, tuned_model, pool, builder):
    model, relay_model, tables = tuned_model
    check_outputs(builder.build(relay_model, tables[algorithm], "net"), model, pool)


def test_functions_that_did_not_change_are_lowered_and_compiled_once(tuned_model, pool, builder):
    model, relay_model, tables = tuned_model
    builder.build(relay_model, tables["direct"], "a")
    first, lowered = builder.objects.compiled, builder.functions.lowered
    assert lowered >= first
    again = builder.build(relay_model, tables["direct"], "b")
    assert (builder.objects.compiled, builder.objects.reused) == (first, first)
    assert (builder.functions.lowered, builder.functions.reused) == (lowered, lowered)
    check_outputs(again, model, pool)
    other = builder.build(relay_model, tables["winograd"], "c")
    assert builder.objects.compiled <= 2 * first
    assert builder.objects.reused > first
    check_outputs(other, model, pool)


def test_a_task_compiled_without_its_program_is_an_error_that_names_it(tuned_model, builder, tmp_path):
    _, relay_model, tables = tuned_model
    table = tables["direct"]
    missing = replace(table, rows=tuple(row for row in table.rows if "conv" not in row.task.layers))
    with pytest.raises(CPruneError, match=r"tasks were compiled with their program; without one: .*conv2d"):
        builder.build(relay_model, missing, "net")
    foreign = table.rows[0]
    foreign = replace(foreign, task=replace(foreign.task, workload_key='["0", [1]]'))
    with pytest.raises(CPruneError, match="3 of 4 tasks were compiled with their program"):
        builder.build(relay_model, replace(table, rows=(*table.rows, foreign)), "net")
    assert not list(tmp_path.glob("*.so"))


def test_models_are_timed_side_by_side(tuned_model, pool, builder):
    _, relay_model, tables = tuned_model
    libraries = {name: builder.build(relay_model, table, name) for name, table in tables.items()}
    latencies = time_side_by_side(pool, libraries, SHAPE, repeats=7)
    assert {name: len(latency.samples) for name, latency in latencies.items()} == {
        "direct": 7,
        "winograd": 7,
    }
    assert all(0 < sample < 1 for latency in latencies.values() for sample in latency.samples)


def test_a_library_without_weights_can_only_be_timed(tuned_model, pool, builder):
    model, relay_model, tables = tuned_model
    for table in tables.values():
        empty = builder.build(relay_model, table, "empty", weights=False)
        # The builder keeps functions that packed no weights apart from those that did.
        complete = builder.build(relay_model, table, "complete")
        weights = sum(parameter.nbytes for parameter in model.parameters())
        assert complete.stat().st_size - empty.stat().st_size > 0.9 * weights
        latencies = time_side_by_side(pool, {"empty": empty, "complete": complete}, SHAPE, repeats=5)
        assert all(0 < sample < 1 for latency in latencies.values() for sample in latency.samples)
        check_outputs(complete, model, pool)
        with pytest.raises(CPruneError, match=r"empty-\d+\.so was built without weights"):
            pool.run_model(empty, np.zeros(SHAPE, "float32"))


def test_only_missing_weights_are_random(tuned_model, builder):
    _, relay_model, tables = tuned_model
    paths = [str(builder.build(relay_model, tables["direct"], "net", weights)) for weights in (False, True)]
    (empty, has_none), (complete, has_all) = (local_worker._load_model(path, INPUT) for path in paths)
    assert (has_none, has_all) == (False, True)
    names = [name for name in complete.get_input_info()[0] if name != INPUT]
    assert names
    for name in names:
        values = [executor.get_input(name).numpy() for executor in (empty, complete)]
        assert np.isfinite(values[0]).all()
        assert 0 < np.abs(values[0]).max() < 1
        assert not np.array_equal(*values)


def test_a_loaded_table_equals_the_saved_one(tuned_model, tmp_path):
    _, _, tables = tuned_model
    table = tables["winograd"]
    table.save(tmp_path / "table.json")
    loaded = TaskTable.load(tmp_path / "table.json")
    assert [row.task for row in loaded.rows] == [row.task for row in table.rows]
    assert loaded.predicted == table.predicted
    assert [row.program.record for row in loaded.rows] == [row.program.record for row in table.rows]
    assert (loaded.target, loaded.threads, loaded.cold_weights) == (table.target, table.threads, True)
    impacts = [row.impact for row in loaded.by_impact()]
    assert impacts == sorted(impacts, reverse=True)


@pytest.mark.parametrize("text", ["", "{}", "[]", '{"format": 99}', "nonsense"])
def test_a_damaged_table_is_refused(text, tmp_path):
    path = tmp_path / "table.json"
    path.write_text(text)
    with pytest.raises(CPruneError, match=r"table\.json (is not a task table|has format)"):
        TaskTable.load(path)


def test_all_tasks_without_a_record_are_named(target):
    tasks = extract_from_program(from_torch(OneLayer(8, 16), SHAPE).mod, None, target)
    with pytest.raises(CPruneError, match="no program was measured for 3 tasks: conv; mean; fc"):
        make_table(tasks, lambda _: None, str(target), 2, True)
