# SPDX-License-Identifier: Apache-2.0
"""AutoTVM as the tuning backend: tasks, configurations, transplants, search and commands."""

import numpy as np
import pytest
import torch
from commands import error_of, run_cprune
from networks import KINDS, TEMPLATE_KINDS, Branches, OneLayer
from programs import extract, measured_table, random_configurations, template_task_of

import tvm
from tvm import autotvm
from tvm.contrib.cprune import extract_from_program, from_torch
from tvm.contrib.cprune.building.build import algorithms_of
from tvm.contrib.cprune.compiler import Compiler
from tvm.contrib.cprune.config import PruneConfig, TuneConfig
from tvm.contrib.cprune.measuring.records import RecordLog
from tvm.contrib.cprune.models.groups import find_groups
from tvm.contrib.cprune.models.importance import score
from tvm.contrib.cprune.models.surgery import shrink
from tvm.contrib.cprune.profile import profile_widths
from tvm.contrib.cprune.table import TaskTable
from tvm.contrib.cprune.targets.target import host_target
from tvm.contrib.cprune.tuning.autotvm.configuration import (
    channel_splits,
    keeps_inner_loops,
    knobs_of,
    transplant,
)
from tvm.contrib.cprune.tuning.autotvm.search import search
from tvm.contrib.cprune.tuning.rescale import at_width, width_of
from tvm.contrib.cprune.types import ChannelStep, TransplantError

TUNE = TuneConfig(tuner="autotvm", trials=2, batch=2, repeats=3)
ARM = "llvm -device=arm_cpu -mtriple=aarch64-linux-gnu -mattr=+neon"
MALI = tvm.target.Target("opencl -device=mali", host="llvm -mtriple=aarch64-linux-gnu")


def test_every_layer_has_a_task_for_each_of_its_templates():
    tasks = extract(Branches(16).eval(), (1, 3, 16, 16), host_target(), "autotvm")
    templates = {}
    for task in tasks:
        for subgraph in task.subgraphs:
            templates.setdefault(subgraph.layers[0], []).append(subgraph.algorithm)
    assert templates == {
        **{name: ["conv2d_NCHWc.x86"] for name in ("stem.0", "left", "right", "mix", "squeeze", "excite")},
        "depthwise": ["depthwise_conv2d_NCHWc.x86"],
        "grouped": ["group_conv2d_nchw.x86"],
        "fc": ["dense_nopack.x86", "dense_pack.x86"],
    }
    mod = from_torch(Branches(16).eval(), (1, 3, 16, 16), "NCHW").mod
    chosen = {"fc": "dense_pack.x86"}
    pinned = extract_from_program(mod, None, host_target(), chosen, tuner="autotvm")
    assert [task.subgraphs[0].algorithm for task in pinned if "fc" in task.layers] == ["dense_pack.x86"]


@pytest.mark.parametrize("target", [ARM, MALI], ids=["arm_cpu", "mali"])
def test_templates_of_other_targets_are_understood_and_compiled(target):
    tasks = extract(OneLayer(8, 32).eval(), (1, 8, 8, 8), target, "autotvm")
    task = next(task for task in tasks if "conv" in task.layers)
    assert task.subgraphs[0].algorithm.startswith("conv2d_nchw_")
    names = [name for _, name, _ in task.axes]
    assert [names[i] for i in task.out_axes] == ["tile_co"]
    space = task.tvm_task.config_space
    built = 0
    for index in range(0, len(space), max(1, len(space) // 8)):
        with task.tvm_task.target:
            schedule, args = task.tvm_task.instantiate(space.get(index))
        module = tvm.build(schedule, args, target=task.tvm_task.target)
        built += 1
        assert "opencl" not in str(target) or module.imported_modules[0].type_key == "opencl"
    assert built >= 8


@pytest.mark.parametrize("kind", TEMPLATE_KINDS)
def test_transplants_to_fitting_widths_keep_every_inner_length(kind):
    base, side = template_task_of(kind, 64), KINDS[kind].side
    for line in random_configurations(base, 6):
        out_splits, in_splits = channel_splits(base, line)
        splits = out_splits if side == "out" else in_splits
        assert splits and all(split.extent == 64 for split in splits)
        for width in (16, 32, 48, 50):
            new = template_task_of(kind, width)
            try:
                moved = transplant(line, base, new)
            except TransplantError:
                continue
            fits = all(width % split.product == 0 for split in splits)
            assert keeps_inner_loops(line, base, new) == fits
            if not fits:
                continue
            (measure_input,) = moved
            old = {name: value for name, _, value in knobs_of(line)}
            for name, knob_kind, value in measure_input.config.to_json_dict()["entity"]:
                assert knob_kind != "sp" or list(value)[1:] == list(old[name])[1:]


@pytest.mark.parametrize("kind", TEMPLATE_KINDS)
def test_transplanted_configurations_compute_the_right_numbers(kind):
    base = template_task_of(kind, 64)
    (line,) = random_configurations(base, 1)
    new = template_task_of(kind, 48)
    for measure_input in transplant(line, base, new):
        with new.tvm_task.target:
            schedule, args = new.tvm_task.instantiate(measure_input.config)
            moved = tvm.build(schedule, args)
            plain, plain_args = new.tvm_task.instantiate(new.tvm_task.config_space.get(0))
            reference = tvm.build(plain, plain_args)
        rng = np.random.default_rng(0)
        # The first argument of a template is its output.
        values = [rng.standard_normal([int(n) for n in arg.shape]).astype("float32") for arg in args[1:]]
        results = []
        for module, output in ((moved, args[0]), (reference, plain_args[0])):
            empty = np.zeros([int(n) for n in output.shape], "float32")
            arrays = [tvm.nd.array(value) for value in (empty, *values)]
            module(*arrays)
            result = arrays[0].numpy()
            if result.ndim == 5:  # NCHWc, where c depends on the configuration
                result = result.transpose(0, 1, 4, 2, 3).reshape(1, -1, *result.shape[2:4])
            results.append(result)
        np.testing.assert_allclose(results[0], results[1], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("target", [None, ARM, MALI], ids=["x86", "arm_cpu", "mali"])
@pytest.mark.parametrize("kind", TEMPLATE_KINDS)
def test_task_at_another_width_equals_the_extracted_task(kind, target):
    side, base = KINDS[kind].side, template_task_of(kind, 64, target)
    assert width_of(base, side) == 64
    for width in (48, 20):
        expected, actual = template_task_of(kind, width, target), at_width(base, width, side)
        assert actual.workload_key == expected.workload_key
        assert (actual.axes, actual.flops) == (expected.axes, expected.flops)


def test_profile_measures_configurations_at_other_widths(pool):
    task, log = template_task_of("1x1", 32), RecordLog(None)
    search([task], TUNE, pool, log)
    table = measured_table(task, log.best(task.workload_key))
    profile = profile_widths(table, "conv", pool, RecordLog(None), widths=[8, 16, 32], variants=1)
    assert [result.width for result in profile if result.latency] == [8, 16, 32]
    assert profile[-1].fits


def test_transplant_to_another_template_is_rejected():
    base = template_task_of("direct 3x3", 64)
    (line,) = random_configurations(base, 1)
    with pytest.raises(TransplantError, match=r"the templates differ: conv2d_NCHWc.x86 and depthwise"):
        transplant(line, base, template_task_of("depthwise", 64))


def test_model_is_tuned_built_and_transplanted(tmp_path):
    torch.manual_seed(0)
    model, shape = OneLayer(8, 32).eval(), (1, 8, 8, 8)
    data = np.random.default_rng(0).standard_normal(shape).astype("float32")
    config = PruneConfig(tune=TUNE, measure_repeats=3)
    with Compiler(config, shape, tmp_path) as compiler:
        base = compiler.tune(model)
        layers = {layer for row in base.table.rows for layer in row.task.layers}
        assert set(algorithms_of(base.table)) == layers
        group = next(g for g in find_groups(model, shape).groups if g.root == "conv")
        step = ChannelStep(group, 16, "half of the channels")
        small = shrink(model, shape, [step], lambda group: score(group, "l1", 0))
        before = compiler.programs.trials()
        moved = compiler.move(base, small)
        assert compiler.programs.trials()["search"] == before["search"]
        assert compiler.programs.trials()["transplant"] > before["transplant"]
        for candidate in (base, moved):
            actual = compiler.measurer.run_model(candidate.library, data)[0]
            expected = candidate.model(torch.tensor(data)).detach().numpy()
            np.testing.assert_allclose(actual, expected, rtol=1e-4, atol=1e-4)
        base.table.save(tmp_path / "table.json")
    loaded = TaskTable.load(tmp_path / "table.json")
    assert loaded.tuner == "autotvm"
    assert [row.program for row in loaded.rows] == [row.program for row in base.table.rows]


def test_tune_command_writes_library_table_and_records(tmp_path):
    arguments = ("tune", "--network", "squeezenet_v1.1", "--image-size", "32", "--tuner", "random")
    options = (
        "--trials",
        "1",
        "--repeats",
        "3",
        "--full-coverage",
        "--out",
        str(tmp_path),
        "--format",
        "tar",
    )
    done = run_cprune(*arguments, *options)
    assert done.returncode == 0, done.stderr
    assert "tasks ran with a tuned program" in done.stdout
    assert "standard deviation" in done.stdout
    assert tvm.runtime.load_module(str(tmp_path / "net.tar"))["default"](tvm.cpu()) is not None
    count = len(TaskTable.load(tmp_path / "table.json").rows)
    assert f"{count} of {count} tasks ran" in done.stdout
    assert len(list(autotvm.record.load_from_file(str(tmp_path / "best.json")))) == count


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("tune", "--network", "nonet"), "unknown model 'nonet'"),
        (("tune", "--network", "missing.onnx"), "cannot read missing.onnx"),
        (("tune", "--network", "mobilenet", "--target", "abacus"), "target 'abacus' is not a TVM target"),
        (
            ("tune", "--network", "mobilenet", "--transfer", "x"),
            "--transfer requires --tuner autotvm with --strategy xgb or xgb-rank",
        ),
        (("tune", "--network", "mobilenet", "--trials", "0"), "trials is 0, expected at least 1"),
        (("profile", "m.onnx", "--table", "no.json"), "cannot read no.json"),
        (("round", "m.onnx", "--table", "no.json", "--out", "o.pt"), "--out is o.pt, expected a .onnx file"),
    ],
)
def test_invalid_input_to_commands_is_reported_in_one_line(arguments, message, tmp_path):
    assert message in error_of(run_cprune(*arguments, cwd=tmp_path))
    # TVM creates an empty .pkl_memoize_py3 in the working directory when it is imported.
    assert [path.name for path in tmp_path.iterdir() if not path.name.startswith(".pkl")] == []
