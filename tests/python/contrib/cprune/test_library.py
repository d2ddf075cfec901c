# SPDX-License-Identifier: Apache-2.0
"""The library of programs: storing, merging, donors for other networks, and the command."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
from networks import OneLayer
from programs import FAST, extract, measured_table, random_records, table_of, task_of

from tvm.contrib.cprune import program_library
from tvm.contrib.cprune.compiler import Compiler
from tvm.contrib.cprune.config import PruneConfig
from tvm.contrib.cprune.files import partial_path
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
    monkeypatch.delenv("XDG_CACHE_HOME")

    def no_home():
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.setattr(Path, "home", no_home)
    assert library_folder() is None


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


def test_the_form_of_a_bias_does_not_change_the_distance_but_a_residual_does(target):
    def axes(bias, *residual):
        conv = [("p0", "dim0", 56), ("conv2d_nhwc", "yy", 56), ("conv2d_nhwc", "ff", 16)]
        ends = [("T_add", "ax0", 56), ("T_add", "ax1", 16)]
        return (*conv, *bias, *residual, *ends)

    task = task_of("1x1", 16, target)
    vector, image = [("p2", "dim0", 16)], [("p2", "dim0", 1), ("p2", "dim1", 16)]
    one = replace(task, axes=axes(vector))
    assert distance(one, replace(task, axes=axes(image))) == 0
    assert distance(one, replace(task, axes=axes(image, ("p3", "dim0", 56)))) == 1
    # Operators of another kind are no donors, although they have additions, too.
    depthwise = [("DepthwiseConv2d" if op == "conv2d_nhwc" else op, *rest) for op, *rest in axes(vector)]
    assert distance(one, replace(task, axes=tuple(depthwise))) == float("inf")
    # An extent that is twice as large counts once, although several operations have it.
    doubled = [(op, axis, extent * 2 if extent == 56 else extent) for op, axis, extent in axes(vector)]
    assert distance(one, replace(task, axes=tuple(doubled))) == 1


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
