# SPDX-License-Identifier: Apache-2.0
"""Programs, transplants and the whole loop on the GPUs of this machine, or on what acts as one.

PoCL runs OpenCL programs on the CPU, and Mesa's lavapipe does so for Vulkan.
"""

import json
from collections.abc import Iterator

import numpy as np
import pytest
import torch
from commands import SMALLEST_RUN, as_arguments, run_cprune, run_tutorial
from networks import KINDS
from programs import random_configurations, random_records, reference, task_of, tasks_of
from rpc_site import KEY, Site, running_site

import tvm
from tvm.contrib.cprune.measuring.records import to_input
from tvm.contrib.cprune.targets.presets import DEVICES, PRESETS
from tvm.contrib.cprune.targets.target import pinned_target
from tvm.contrib.cprune.tuning.ansor.transplant import transplant
from tvm.contrib.cprune.tuning.autotvm import configuration
from tvm.contrib.cprune.types import Task, TransplantError

GPUS = [
    name
    for name, device in DEVICES.items()
    if device != "cpu" and tvm.runtime.enabled(device) and tvm.device(device, 0).exist
]
MALI = "opencl -device=mali"
OPTIONS = {
    **SMALLEST_RUN,
    "--trials": 4,
    "--repeats": 3,
    "--min-time": 0,
    "--cool-down": 0,
    "--library": "none",
}

pytestmark = pytest.mark.skipif(
    not GPUS,
    reason="no GPU for this TVM: tools/build_tvm.py CHECKOUT --opencl, apt install pocl-opencl-icd, "
    "make test VENV=.venv-source",
)


def run(task, measure_input, target, inputs):
    """Compile a program for a GPU, run it there, and return its output."""
    schedule, args = task.tvm_task.compute_dag.apply_steps_from_state(measure_input.state)
    function = tvm.build(schedule, args, target=target)
    device = tvm.device(target.kind.name, 0)
    arrays = [tvm.nd.array(value, device) for value in inputs]
    output = tvm.nd.array(np.full([int(n) for n in args[-1].shape], np.nan, "float32"), device)
    function(*arrays, output)
    return output.numpy()


@pytest.mark.parametrize("gpu", GPUS)
@pytest.mark.parametrize("kind", KINDS)
def test_programs_and_their_transplants_compute_the_right_numbers(kind, gpu):
    target = pinned_target(PRESETS[gpu].make_target())
    base = task_of(kind, 64, target)
    generator = np.random.default_rng(0)
    valid = moved = 0
    for line in random_records(base)[:3]:
        for width in (64, 56):
            task = task_of(kind, width, target)
            shapes = [[int(n) for n in tensor.shape] for tensor in task.tvm_task.compute_dag.tensors]
            inputs = [generator.standard_normal(shape).astype("float32") for shape in shapes[:-1]]
            program = to_input(line, task.tvm_task) if width == 64 else transplant(line, base, task, 1)[0]
            try:
                actual = run(task, program, target, inputs)
            except RuntimeError:
                # Ansor samples some programs that exceed the limits of a GPU, and measures them as failed.
                assert width == 64, line
                correct = False
            else:
                expected = reference(task, inputs)
                correct = np.allclose(actual, expected, rtol=1e-3, atol=1e-3 * np.abs(expected).max())
                # With Mesa 22.3's lavapipe, some of Ansor's own programs write only a part of their output.
                assert correct or (gpu == "vulkan" and width == 64), (line, width)
            if width == 64 and not correct:
                break
            valid, moved = valid + (width == 64), moved + (correct and width != 64)
    assert valid >= 2 and moved >= 2, (valid, moved)


def run_template(task: Task, config, target):
    """Run a configuration of AutoTVM's template on the GPU.

    Returns
    -------
    The input and the weights of the layer, and its output.
    """
    with task.tvm_task.target:
        schedule, args = task.tvm_task.instantiate(config)
    function = tvm.build(schedule, args, target=target)
    device, generator = tvm.device(target.kind.name, 0), np.random.default_rng(0)
    # The first argument of a template is its output.
    output, *shapes = [[int(n) for n in arg.shape] for arg in args]
    values = [generator.standard_normal(shape).astype("float32") for shape in shapes]
    result = tvm.nd.array(np.full(output, np.nan, "float32"), device)
    function(result, *(tvm.nd.array(value, device) for value in values))
    by_shape = {tuple(shape): value for shape, value in zip(shapes, values, strict=True)}
    return [by_shape[tuple(map(int, arg[1]))] for arg in task.tvm_task.args[:2]], result.numpy()


def mali_tasks(kind: str, width: int, target) -> dict[str, Task]:
    """Return the tasks of a kind's layer at a width by the name of AutoTVM's template."""
    return {str(task.subgraphs[0].algorithm): task for task in tasks_of(kind, width, target, "autotvm")}


@pytest.mark.skipif("opencl" not in GPUS, reason="needs OpenCL")
@pytest.mark.parametrize(
    ("kind", "templates"),
    [
        ("direct 3x3", {"conv2d_nchw_spatial_pack.mali", "conv2d_nchw_winograd.mali"}),
        ("1x1", {"conv2d_nchw_spatial_pack.mali"}),
        ("strided", {"conv2d_nchw_spatial_pack.mali"}),
        ("depthwise", {"depthwise_conv2d_nchw.mali"}),
        ("reduction", {"conv2d_nchw_spatial_pack.mali", "conv2d_nchw_winograd.mali"}),
        ("dense", {"dense.mali"}),
    ],
)
def test_configurations_of_mali_templates_and_their_transplants_compute_the_right_numbers(kind, templates):
    target = tvm.target.Target(MALI, host="llvm")
    bases, others = (mali_tasks(kind, width, target) for width in (64, 48))
    assert bases.keys() == others.keys() == templates
    for name, base in bases.items():
        new, moved = others[name], 0
        for line in random_configurations(base, 8):
            try:
                (program, *_) = configuration.transplant(line, base, new, 1)
            except TransplantError:
                continue
            original = base.tvm_task.config_space.get(json.loads(line)["config"]["index"])
            for task, config in ((base, original), (new, program.config)):
                try:
                    (data, weight), actual = run_template(task, config, target)
                except tvm.TVMError as error:
                    # OpenCL has no vectors of more than 16 numbers, but the template's space has.
                    assert task is base and "to OpenCL type" in str(error), line
                    break
                expected = layer(task, torch.tensor(data), torch.tensor(weight)).numpy()
                np.testing.assert_allclose(actual, expected, rtol=1e-3, atol=1e-3)
            else:
                moved += 1
        assert moved >= 2, (name, moved)


def layer(task: Task, data: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    """Return the output of a task's layer."""
    if data.dim() == 2:
        return torch.nn.functional.linear(data, weight)
    groups = data.shape[1] if "depthwise" in task.subgraphs[0].algorithm else 1
    _, _, strides, padding, *_ = task.tvm_task.args
    return torch.nn.functional.conv2d(data, weight, None, list(strides), list(padding)[:2], groups=groups)


@pytest.fixture
def site() -> Iterator[Site]:
    with running_site() as running:
        running.add(0)
        running.wait(1)
        yield running


RUNS = [(gpu, "ansor") for gpu in GPUS]
if "opencl" in GPUS:
    RUNS += [(MALI, "ansor"), (MALI, "autotvm"), ("opencl -device=adreno", "ansor")]


@pytest.mark.parametrize(("gpu", "tuner"), RUNS)
def test_a_network_is_pruned_and_deployed(gpu, tuner, latency_by_macs, site, tmp_path):
    run_dir, bundle = tmp_path / "run", tmp_path / "bundle"
    device = ("--tracker", site.address, "--device-key", KEY)
    done = run_cprune("doctor", "--target", gpu, *device)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "ok   round trip" in done.stdout
    options = as_arguments(OPTIONS)
    options += ["--target", gpu, "--tuner", tuner, *device, "--experiment-data-dir", str(run_dir)]
    done = run_tutorial(*options)
    assert done.returncode == 0, done.stdout + done.stderr
    result = json.loads((run_dir / "result.json").read_text())
    assert all(part in result["target"].split() for part in gpu.split()), result["target"]
    assert result["accepted"] >= 1, done.stdout
    rows = json.loads((run_dir / "table.json").read_text())["rows"]
    algorithms = {str(row["subgraphs"][0]["algorithm"]) for row in rows}
    assert (tuner == "autotvm") == any(name.endswith(".mali") for name in algorithms), algorithms
    assert result["output_error"]["net.so"]["max_rel"] < 1e-3
    assert result["trials"]["pruning_and_final_tuning"]["transplant"] > 0
    # It compares the outputs on the device with the model's.
    done = run_cprune("deploy", str(run_dir), *device, "--repeats", "3", "--out", str(bundle))
    assert done.returncode == 0, done.stdout + done.stderr
    assert json.loads((bundle / "manifest.json").read_text())["preset"] == gpu
