# SPDX-License-Identifier: Apache-2.0
"""The library of programs: storing, merging, donors for other networks, and the command."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from networks import KINDS, OneLayer
from programs import FAST, extract, measured_table, random_records, table_of, task_of
from tvm.auto_scheduler import MeasureResult

from tvm.contrib.cprune import program_library
from tvm.contrib.cprune.compiler import Compiler
from tvm.contrib.cprune.config import PruneConfig
from tvm.contrib.cprune.files import partial_path
from tvm.contrib.cprune.library_start import measure_donors, settled, with_trials
from tvm.contrib.cprune.measuring.records import Measured, RecordLog, dump, input_identity, parse
from tvm.contrib.cprune.program_library import (
    ProgramLibrary,
    distance,
    file_name,
    library_folder,
    merge,
    nearest,
    table_files,
)
from tvm.contrib.cprune.table import TaskTable
from tvm.contrib.cprune.tuning.ansor.transplant import transplant
from tvm.contrib.cprune.types import CPruneError, Latency


def with_latency(table, seconds):
    rows = [replace(row, program=replace(row.program, latency=Latency((seconds,)))) for row in table.rows]
    return replace(table, rows=tuple(rows))


def test_the_folder_comes_from_the_option_the_environment_or_the_cache(monkeypatch, tmp_path):
    monkeypatch.setenv("CPRUNE_LIBRARY", "none")
    assert library_folder() is None
    assert library_folder("here").name == "here"
    monkeypatch.setenv("CPRUNE_LIBRARY", str(tmp_path))
    assert library_folder() == tmp_path
    assert library_folder("none") is None
    monkeypatch.delenv("CPRUNE_LIBRARY")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert library_folder() == tmp_path / "cprune" / "programs"


def test_a_library_keeps_the_fastest_program_of_each_task(tuned, tmp_path):
    task, best = tuned("direct 3x3")
    table = measured_table(task, best)
    library = ProgramLibrary(tmp_path, table.target, 2, True)
    before = len(library.rows())
    for seconds in (2.0, 1.0, 3.0):
        library.add(with_latency(table, seconds).rows)
    own = [row for row in library.rows() if row.task.workload_key == task.workload_key]
    assert [row.program.latency.median for row in own if row.program.record == best.line] == [1.0]
    assert len(library.rows()) == before + 1
    # Another context has another file.
    assert len(ProgramLibrary(tmp_path, table.target, 1, True).rows()) == before


def test_a_library_that_is_turned_off_stores_nothing(tuned, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    library = ProgramLibrary(None, "llvm", 2, True)
    library.add(measured_table(*tuned("direct 3x3")).rows)
    assert library.rows() == ()
    assert not list(tmp_path.iterdir())


def test_a_damaged_library_is_an_error_that_names_the_file(tuned, tmp_path):
    table = measured_table(*tuned("direct 3x3"))
    library = ProgramLibrary(tmp_path, table.target, 2, True)
    library.add(table.rows)
    (path,) = table_files(tmp_path)
    path.write_text(path.read_text()[:100])
    for act in (library.rows, lambda: library.add(table.rows)):
        with pytest.raises(CPruneError, match=f"{path.name}.*delete the file"):
            act()


def test_half_written_files_are_no_tables(tuned, tmp_path):
    measured_table(*tuned("direct 3x3")).save(tmp_path / "table.json")
    partial_path(tmp_path / "table.json").write_text("{")
    assert table_files(tmp_path) == [tmp_path / "table.json"]


def test_merge_prefers_faster_programs():
    slow, fast = table_of({"a": (2, 2), "b": (2, 2)}), with_latency(table_of({"b": (4, 4)}), 0.5)
    merged = merge(slow, fast.rows)
    assert [row.program.latency.median for row in merged.rows] == [1.0, 0.5]
    assert merge(merged, slow.rows) == merged


def test_the_nearest_task_has_the_most_similar_shape(target):
    task = task_of("direct 3x3", 32, target)
    others = [task_of("direct 3x3", width, target) for width in (128, 64, 48, 32)]
    distances = [distance(task, other) for other in others]
    assert distances == sorted(distances, reverse=True)
    assert distances[-1] == 0
    assert distance(task, task_of("winograd 3x3", 32, target)) > distances[0]
    assert distance(others[0], task) == pytest.approx(distances[0])


def test_programs_of_the_other_tuner_are_no_donors(tuned):
    task, best = tuned("direct 3x3")
    rows = measured_table(task, best).rows
    assert nearest(task, rows) == list(rows)
    assert nearest(replace(task, tuner="autotvm"), rows) == []


@pytest.mark.parametrize("algorithm", ["direct", "winograd-4"])
def test_a_program_moves_to_another_image_size_width_and_epilogue(algorithm, pool, target):
    """All at once, as the networks that share a library require."""
    small = extract(OneLayer(16, 32), (1, 16, 8, 8), target, algorithms={"conv": algorithm})
    large = extract(ResidualLayer(32), (1, 32, 24, 24), target, algorithms={"conv": algorithm})
    old, new = (next(task for task in tasks if "conv" in task.layers) for tasks in (small, large))
    moved = [
        transplant(record, donor, other, 1)[0]
        for donor, other in ((old, new), (new, old))
        for record in random_records(donor)[:2]
    ]
    assert all(result.error_no == 0 for result in pool.measure(moved))


class ResidualLayer(OneLayer):
    """A convolution that is added to its input."""

    def __init__(self, width):
        super().__init__(width, width)

    def forward(self, x):
        return self.fc((self.conv(x) + x).mean((2, 3)))


def test_a_task_is_settled_if_it_is_as_fast_as_its_donors():
    expected = {"a": 1.0, "b": 1.0, "c": 1.0, "d": 1.0, "e": 0.0}
    # c is slower than its donor, d has no valid program, and nothing is known of e.
    assert settled({"a": 1.0, "b": 0.95, "c": 0.5, "d": 0.0, "e": 9.0}, expected) == {"a", "b"}
    # This machine has 0.7 of the speed of the donors' machine.
    assert settled({"a": 0.7, "b": 0.66, "c": 0.5, "d": 0.7, "e": 9.0}, expected) == {"a", "b", "d"}
    # Donors that are slow on all tasks settle none of them, and neither do few tasks.
    assert settled({"a": 0.3, "b": 0.3, "c": 0.3, "d": 0.3, "e": 9.0}, expected) == set()
    assert settled({"a": 0.7, "b": 0.7}, {"a": 1.0, "b": 1.0}) == set()
    assert settled({}, {}) == set()


class Measurements:
    """A measurer whose programs take a given time."""

    def __init__(self, seconds):
        self.seconds, self.count = seconds, 0

    def measure_new(self, inputs, log):
        new = [item for item in inputs if not log.holds(item)]
        self.count += len(new)
        log.append([dump(item, MeasureResult([self.seconds], 0, "", 0.0, 0.0)) for item in new])


def test_donors_of_a_shorter_search_and_of_distant_shapes_settle_nothing(tuned, target):
    task, best = tuned("direct 3x3")
    seconds = best.latency.median
    (row,) = measured_table(task, best).rows
    far = task_of("direct 3x3", 8 * KINDS["direct 3x3"].width, target)
    config = replace(FAST, trials=8)

    def start(tasks, trials, seconds):
        measurer = Measurements(seconds)
        return measure_donors(
            tasks, [replace(row, trials=trials)], transplant, measurer, RecordLog(None), config
        )

    assert start([task], 8, seconds) == {task.workload_key}
    assert start([task], 7, seconds) == set()
    assert start([task], 8, 2 * seconds) == set()
    assert start([far], 8, seconds) == set()


def test_a_resumed_start_measures_nothing_twice_and_decides_alike(tuned):
    """What the search found in the meantime does not count."""
    task, best = tuned("direct 3x3")
    rows = [replace(row, trials=FAST.trials) for row in measured_table(task, best).rows]
    log, measurer = RecordLog(None), Measurements(2 * best.latency.median)
    assert measure_donors([task], rows, transplant, measurer, log, FAST) == set()
    other = next(line for line in random_records(task) if input_identity(line) != input_identity(best.line))
    log.append([replace(parse(other), latency=Latency((best.latency.median,)))])
    assert measure_donors([task], rows, transplant, measurer, log, FAST) == set()
    assert measurer.count == 1


def test_a_donor_that_cannot_be_replayed_is_skipped(tuned):
    task, best = tuned("direct 3x3")
    (row,) = measured_table(task, best).rows
    for steps in ([["SP", 99, 0, 8, [2], 1]], [["XX", 0]], [["SP", 0]]):
        data = json.loads(best.line)
        data["i"][1][1] = steps
        broken = replace(row, program=replace(row.program, record=json.dumps(data)))
        log, measurer = RecordLog(None), Measurements(1.0)
        assert measure_donors([task], [broken], transplant, measurer, log, FAST) == set()
        assert measurer.count == 0


@pytest.mark.parametrize(
    "damage", [{"latency_s": []}, {"latency_s": [0.0]}, {"tuner": "autotvm"}, {"trials": "x"}], ids=str
)
def test_rows_with_impossible_values_are_refused(damage, tuned, tmp_path):
    path = tmp_path / "table.json"
    measured_table(*tuned("direct 3x3")).save(path)
    data = json.loads(path.read_text())
    data["rows"][0].update(damage)
    path.write_text(json.dumps(data))
    with pytest.raises(CPruneError, match="not a task table"):
        TaskTable.load(path)


def test_a_search_that_ran_out_of_time_counts_with_the_trials_that_it_had():
    rows, log = table_of(dict.fromkeys("abc", (2, 2))).rows, RecordLog(None)
    keys = ["a", "a", "a", "b"]
    log.append(Measured(key, json.dumps({"i": [[key], [[], [i]]]}), None) for i, key in enumerate(keys))
    assert [row.trials for row in with_trials(rows, {"c"}, log, 8)] == [2, 2, 8]
    assert [row.trials for row in with_trials(rows, {"c"}, log, 1)] == [1, 1, 1]


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


def test_a_library_that_cannot_be_used_is_reported_and_costs_no_run(tmp_path):
    events = []
    (tmp_path / "file").write_text("")
    tune = replace(FAST, library=str(tmp_path / "file" / "lib"))
    config = PruneConfig(tune=tune, measure_repeats=3)
    with Compiler(config, (1, 8, 8, 8), tmp_path / "run", report=events.append) as compiler:
        assert compiler.tune(OneLayer(8, 16).eval()).table.rows
    (message,) = [event["message"] for event in events if event["event"] == "library"]
    assert "not updated" in message and str(tmp_path / "file") in message


def test_a_damaged_library_is_reported_and_costs_no_run(tuned, tmp_path):
    table = measured_table(*tuned("direct 3x3"))
    for path in (file_name(replace(table, threads=threads)) for threads in (1, 2, 4)):
        (tmp_path / path).write_text("{}")
    events = []
    config = PruneConfig(tune=replace(FAST, library=str(tmp_path)), measure_repeats=3)
    with Compiler(config, (1, 8, 8, 8), tmp_path / "run", report=events.append) as compiler:
        assert compiler.tune(OneLayer(8, 16).eval()).table.rows
    messages = [event["message"] for event in events if event["event"] == "library"]
    assert len(messages) == 2
    assert "not used" in messages[0] and "not updated" in messages[1]
    assert all("delete the file" in message for message in messages)


def test_the_package_has_starters_for_this_target_and_none_for_others(tmp_path):
    files = sorted((Path(program_library.__file__).parent / "starters").glob("*.json"))
    assert files
    for path in files:
        assert path.name in program_library.STARTER_FILES.values()
        rows = TaskTable.load(path, same_version=False).rows
        assert rows and all(row.trials >= 16 for row in rows)
    avx2 = ProgramLibrary(tmp_path, "llvm -keys=cprune,cpu -mcpu=core-avx2 -num-cores=2", 2, True)
    assert len(avx2.rows()) == len(TaskTable.load(files[0], same_version=False).rows)
    android = ProgramLibrary(tmp_path, "llvm -mtriple=aarch64-linux-android -mattr=+neon", 2, True)
    assert android.rows() == ()


@pytest.mark.parametrize("algorithm", ["direct", "winograd-6"])
def test_starters_are_programs_of_the_present_definitions(algorithm, tmp_path):
    """A layer of VGG-16 at 224x224 is one of their tasks."""
    target = "llvm -keys=cprune,cpu -mcpu=skylake-avx512 -num-cores=2"
    tasks = extract(OneLayer(256, 256).eval(), (1, 256, 56, 56), target, algorithms={"conv": algorithm})
    (task,) = [task for task in tasks if "conv" in task.layers]
    rows = ProgramLibrary(tmp_path, target, 2, True).rows()
    assert task.workload_key in {row.task.workload_key for row in rows}
