# SPDX-License-Identifier: Apache-2.0
"""Whole models with the programs of a table: right numbers, every task covered, timed side by side."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from conftest import FAST, OneLayer

from tvm.contrib.cprune.building.build import build_to, time_side_by_side
from tvm.contrib.cprune.building.object_cache import ObjectCache
from tvm.contrib.cprune.importers.from_torch import from_torch
from tvm.contrib.cprune.measuring.records import RecordLog
from tvm.contrib.cprune.table import TaskTable, make_table
from tvm.contrib.cprune.tasks import extract_from_program
from tvm.contrib.cprune.tuning.ansor.search import search
from tvm.contrib.cprune.types import CPruneError

SHAPE = (1, 8, 8, 8)


@pytest.fixture(scope="module")
def tuned_model(pool, target):
    torch.manual_seed(0)
    model = OneLayer(8, 32).eval()
    relay_model = from_torch(model, SHAPE)
    # One convolution each way, whichever is faster: both must build with packed weights.
    tables = {}
    for algorithm in ("direct", "winograd"):
        tasks = extract_from_program(relay_model.mod, None, target, {"conv": algorithm})
        log = RecordLog(None)
        search(tasks, FAST, pool, log)
        tables[algorithm] = make_table(tasks, log.best, str(target), pool.threads, True)
    return model, relay_model, tables


@pytest.mark.parametrize("algorithm", ["direct", "winograd"])
def test_a_tuned_model_computes_what_torch_does(algorithm, tuned_model, pool, tmp_path):
    model, relay_model, tables = tuned_model
    library = build_to(relay_model, tables[algorithm], tmp_path / "net.so", ObjectCache(tmp_path / "objects"))
    data = np.random.default_rng(0).standard_normal(SHAPE).astype("float32")
    found = pool.run_model(library, data)
    expected = model(torch.tensor(data)).detach().numpy()
    np.testing.assert_allclose(found, expected, rtol=1e-3, atol=1e-4)


def test_functions_are_compiled_once(tuned_model, pool, tmp_path):
    model, relay_model, tables = tuned_model
    cache = ObjectCache(tmp_path / "objects")
    build_to(relay_model, tables["direct"], tmp_path / "a.so", cache)
    first = cache.compiled
    build_to(relay_model, tables["direct"], tmp_path / "b.so", cache)
    assert (cache.compiled, cache.reused) == (first, first)
    other = build_to(relay_model, tables["winograd"], tmp_path / "c.so", cache)
    assert cache.compiled <= 2 * first
    assert cache.reused > first
    data = np.random.default_rng(0).standard_normal(SHAPE).astype("float32")
    found = pool.run_model(other, data)
    np.testing.assert_allclose(found, model(torch.tensor(data)).detach().numpy(), rtol=1e-3, atol=1e-4)


def test_a_task_without_its_program_is_an_error_by_name(tuned_model, tmp_path):
    _, relay_model, tables = tuned_model
    table = tables["direct"]
    missing = replace(table, rows=tuple(row for row in table.rows if "conv" not in row.task.layers))
    with pytest.raises(CPruneError, match=r"tasks ran with their program; without one: .*conv2d"):
        build_to(relay_model, missing, tmp_path / "net.so", ObjectCache(tmp_path / "objects"))
    foreign = table.rows[0]
    foreign = replace(foreign, task=replace(foreign.task, workload_key='["0", [1]]'))
    with pytest.raises(CPruneError, match="3 of 4 tasks ran with their program"):
        build_to(
            relay_model,
            replace(table, rows=(*table.rows, foreign)),
            tmp_path / "net.so",
            ObjectCache(tmp_path / "objects"),
        )
    assert not list(tmp_path.glob("*.so"))


def test_models_are_timed_in_turn(tuned_model, pool, tmp_path):
    _, relay_model, tables = tuned_model
    libraries = {
        name: build_to(relay_model, tables[name], tmp_path / f"{name}.so", ObjectCache(tmp_path / "objects"))
        for name in tables
    }
    latencies = time_side_by_side(pool, libraries, SHAPE, repeats=7)
    assert {name: len(latency.samples) for name, latency in latencies.items()} == {"direct": 7, "winograd": 7}
    assert all(0 < sample < 1 for latency in latencies.values() for sample in latency.samples)


def test_a_table_survives_its_file(tuned_model, tmp_path):
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
def test_a_damaged_table_is_named(text, tmp_path):
    path = tmp_path / "table.json"
    path.write_text(text)
    with pytest.raises(CPruneError, match=r"table\.json (is not a task table|has format)"):
        TaskTable.load(path)


def test_tasks_without_a_record_are_all_named(target):
    tasks = extract_from_program(from_torch(OneLayer(8, 16), SHAPE).mod, None, target)
    with pytest.raises(CPruneError, match="no program was measured for 3 tasks: conv; mean; fc"):
        make_table(tasks, lambda _: None, str(target), 2, True)
