# SPDX-License-Identifier: Apache-2.0
"""Tasks at other widths, and the latency of a layer at many widths."""

import shutil

import pytest
import torch
from commands import run_cprune
from hypothesis import given, settings
from hypothesis import strategies as st
from networks import KINDS, OneLayer
from programs import FAST, measured_table, task_of

from tvm import auto_scheduler
from tvm.contrib.cprune import extract_from_program, from_torch
from tvm.contrib.cprune.compiler import Compiler
from tvm.contrib.cprune.config import PruneConfig
from tvm.contrib.cprune.measuring.context import RecordContext, local_device
from tvm.contrib.cprune.measuring.records import RecordLog
from tvm.contrib.cprune.models.groups import find_groups
from tvm.contrib.cprune.models.importance import score
from tvm.contrib.cprune.models.surgery import shrink
from tvm.contrib.cprune.profile import profile_widths, to_csv
from tvm.contrib.cprune.table import to_program
from tvm.contrib.cprune.targets.target import host_target, pinned_target
from tvm.contrib.cprune.transform.pin_algorithms import winograd_algorithms
from tvm.contrib.cprune.tuning.rescale import at_width, width_of
from tvm.contrib.cprune.types import ChannelStep, CPruneError

SHAPE, CONFIG = (1, 8, 8, 8), PruneConfig(tune=FAST, measure_repeats=3)


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind != "grouped"])
def test_task_at_another_width_equals_the_extracted_task(kind, target):
    base, side = task_of(kind, 64, target), KINDS[kind].side
    assert width_of(base, side) == 64
    for width in (48, 20):
        expected, actual = task_of(kind, width, target), at_width(base, width, side)
        assert actual.workload_key == expected.workload_key
        assert actual.axes == expected.axes
        assert actual.flops == expected.flops
        assert actual.tvm_task.compute_dag.workload_key() == expected.tvm_task.compute_dag.workload_key()


@settings(max_examples=4)
@given(st.integers(1, 70))
def test_tasks_at_other_widths_can_be_searched(width):
    task = at_width(task_of("direct 3x3", 64, pinned_target(host_target())), width)
    params = {"sample_init_min_population": 2, "evolutionary_search_population": 4}
    policy = auto_scheduler.SketchPolicy(task.tvm_task, params=params, verbose=0)
    assert policy.sample_initial_population()


def test_impossible_width_is_rejected(target):
    with pytest.raises(CPruneError, match="is a grouped convolution"):
        at_width(task_of("grouped", 64, target), 32)
    with pytest.raises(CPruneError, match="width is 0, expected at least 1"):
        at_width(task_of("1x1", 64, target), 0)


def test_profile_marks_the_widths_that_fit(tuned, pool, tmp_path):
    task, best = tuned("1x1")
    log, table = RecordLog(tmp_path / "profile.json"), measured_table(task, best)
    widths = [8, 16, 24, 30, 32, 48, 64]
    reports = []
    profile = profile_widths(table, "conv", pool, log, widths=widths, variants=2, report=reports.append)
    assert reports == profile
    assert [result.width for result in profile] == widths
    products = [split.product for split in to_program(task, best).out_splits]
    assert products
    for result in profile:
        assert result.fits == all(result.width % product == 0 for product in products)
        assert result.latency is not None and result.trials <= 2
    measured = len(log.measured)
    again = profile_widths(table, "conv", pool, RecordLog(log.path), widths=widths, variants=2)
    assert again == profile
    assert len(RecordLog(log.path).measured) == measured
    header, *lines = to_csv(profile).splitlines()
    assert header == "width,latency_us,spread_us,fits,trials,error"
    assert [line.split(",")[0] for line in lines] == [str(width) for width in widths]
    with pytest.raises(CPruneError, match="no layer 'nope'; it has conv"):
        profile_widths(table, "nope", pool, log)


@pytest.fixture(scope="module")
def searched(tuned_run, tmp_path_factory):
    """Return a model and the folder of a run that searched both algorithms of its convolution."""
    torch.manual_seed(0)
    model, folder = OneLayer(8, 32).eval(), tmp_path_factory.mktemp("run")
    shutil.copytree(tuned_run("one layer", model, SHAPE), folder, dirs_exist_ok=True)
    return model, folder


@pytest.mark.parametrize("algorithm", ["direct", "winograd"])
def test_candidate_at_a_profiled_width_is_not_measured_again(algorithm, searched, tmp_path):
    model, folder = searched
    algorithms = {} if algorithm == "direct" else winograd_algorithms(from_torch(model, SHAPE).mod)
    profile = RecordLog(tmp_path / "profile.json")
    group = next(g for g in find_groups(model, SHAPE).groups if g.root == "conv")
    small = shrink(model, SHAPE, [ChannelStep(group, 16, "")], lambda group: score(group, "l1", 0))
    with Compiler(CONFIG, SHAPE, folder) as compiler:
        table = compiler.tune(model, algorithms).table
        context = RecordContext(table.target, table.threads, table.cold_weights, local_device())
        context.save(tmp_path)
        profile_widths(table, "conv", compiler.measurer, profile, widths=[16])
        profile_widths(table, "fc", compiler.measurer, profile, "in", widths=[16])
    with Compiler(CONFIG, SHAPE, folder, profile=profile.path) as compiler:
        base = compiler.tune(model, algorithms)
        before = compiler.programs.trials()
        moved = compiler.move(base, small)
        after = compiler.programs.trials()
    # The mean over the channels may be a task without a layer, which no profile contains.
    others = [row for row in moved.table.rows if not row.task.layers]
    assert after["search"] - before["search"] <= FAST.batch * len(others)
    profiled = {record.line for record in profile.measured}
    assert {"conv", "fc"} <= {row.task.title for row in moved.table.rows}
    assert all(row.program.record in profiled for row in moved.table.rows if row.task.layers)


def test_profile_command_writes_table_and_plot(searched, tmp_path):
    model, folder = searched
    with Compiler(CONFIG, SHAPE, folder) as compiler:
        compiler.tune(model, {}).table.save(tmp_path / "table.json")
    path = tmp_path / "model.pt"
    torch.jit.trace(model, torch.zeros(SHAPE)).save(str(path))
    arguments = [str(path), "--table", str(tmp_path / "table.json"), "--input-shape", "1,8,8,8"]
    options = ["--layer", "conv", "--every", "8", "--variants", "1", "--out", str(tmp_path / "out")]
    done = run_cprune("profile", *arguments, *options)
    assert done.returncode == 0, done.stderr
    lines = (tmp_path / "out" / "profile-conv.csv").read_text().splitlines()
    assert [int(line.split(",")[0]) for line in lines[1:]] == [8, 16, 24, 32]
    assert (tmp_path / "out" / "profile-conv.png").read_bytes()[:4] == b"\x89PNG"
    # The file that the command read contains the tuned model.
    tasks = extract_from_program(from_torch(torch.jit.load(str(path)), SHAPE).mod, None, "llvm")
    assert {layer for task in tasks for layer in task.layers} == {"conv", "fc"}
