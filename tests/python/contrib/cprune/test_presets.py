# SPDX-License-Identifier: Apache-2.0
"""Presets, and programs for devices that this machine does not have."""

import contextlib
import math
import shutil

import numpy as np
import pytest
import torch
from programs import random_records, task_of
from torch import nn

import tvm
from tvm import relay
from tvm.contrib.cprune.importers.from_torch import from_torch
from tvm.contrib.cprune.measuring import local_worker, throttling
from tvm.contrib.cprune.measuring.records import to_input
from tvm.contrib.cprune.targets.presets import PRESETS, Preset, find_preset
from tvm.contrib.cprune.targets.target import pinned_target, vector_lanes
from tvm.contrib.cprune.transform.tile_factors import read_tile_factors
from tvm.contrib.cprune.tuning.ansor.steps import channel_splits
from tvm.contrib.cprune.tuning.ansor.transplant import transplant
from tvm.contrib.cprune.types import CPruneError, InfrastructureError, TransplantError


@pytest.mark.parametrize(
    ("target", "lanes"),
    [
        ("llvm -mcpu=skylake-avx512", 16),
        ("llvm -mcpu=core-avx2", 8),
        (str(PRESETS["android-cpu"].make_target()), 4),
        (str(PRESETS["android-opencl-mali"].make_target()), 1),
    ],
)
def test_vector_lanes_follow_from_the_target(target, lanes):
    assert vector_lanes(target) == lanes
    assert vector_lanes(str(pinned_target(target))) == lanes


def test_a_preset_is_found_by_name_or_by_target_string():
    assert find_preset("cpu") == find_preset(None)
    for name, preset in PRESETS.items():
        target = preset.make_target()
        assert find_preset(name) is preset
        assert target.kind.name == ("llvm" if preset.device == "cpu" else preset.device)
    assert find_preset("llvm -mtriple=aarch64-linux-gnu").linker == "aarch64"
    assert find_preset("llvm -mtriple=aarch64-linux-android").linker == "ndk"
    vulkan = find_preset('{"kind": "vulkan", "host": {"kind": "llvm", "mtriple": "aarch64-linux-android"}}')
    assert (vulkan.linker, vulkan.device) == ("ndk", "vulkan")
    with pytest.raises(CPruneError, match="'hexagon' has kind hexagon, expected llvm, opencl, vulkan, cuda"):
        find_preset("hexagon")
    with pytest.raises(CPruneError, match=r"is not a TVM target.*; the presets are cpu, arm64-linux"):
        find_preset("android-tpu")


@pytest.mark.parametrize(
    ("target", "message"),
    [
        ("llvm -mcpu=nosuch", "has -mcpu=nosuch: expected one of .*skylake-avx512"),
        ("llvm -mtriple=aarch64-linux-gnu -mcpu=core-avx2", "has -mcpu=core-avx2: expected .*cortex-a72"),
        ("llvm -mattr=+avx2,+nosuch", r"has -mattr=\+nosuch: LLVM has no such feature for x86_64"),
        ("llvm -mtriple=aarch64-linux-gnu -mattr=-avx2", "has -mattr=-avx2: LLVM has no such feature"),
        ("llvm -mtriple=nosuch-linux-gnu", "LLVM has no architecture 'nosuch'"),
        ('{"kind": "opencl", "host": {"kind": "llvm", "mcpu": "nosuch"}}', "has -mcpu=nosuch"),
    ],
)
def test_processors_and_features_that_llvm_does_not_know_are_refused(target, message):
    with pytest.raises(CPruneError, match=message):
        find_preset(target)


class Pooled(nn.Sequential):
    """Every operator whose layout TVM can convert, apart from deformable convolutions."""

    def __init__(self) -> None:
        pools = (
            nn.MaxPool2d(2, 1),
            nn.AvgPool2d(2, 1),
            nn.ConvTranspose2d(8, 8, 2),
            nn.Upsample(scale_factor=2),
        )
        super().__init__(nn.Conv2d(3, 8, 3), *pools, nn.Conv2d(8, 8, 1), nn.AdaptiveAvgPool2d(1))


def test_an_import_prints_no_warning(capfd):
    """TVM prints warnings from C++, with the path of its builder."""
    torch.manual_seed(0)
    model, data = Pooled().eval(), np.random.default_rng(0).random((1, 3, 12, 12), "float32")
    mod = from_torch(model, data.shape).mod
    assert "Warning" not in capfd.readouterr().err
    actual = relay.create_executor("graph", mod, tvm.cpu(), "llvm").evaluate()(data).numpy()
    np.testing.assert_allclose(actual, model(torch.tensor(data)).detach().numpy(), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", ["android-opencl-mali", "android-opencl-adreno"])
def test_gpu_programs_are_transplanted_and_compiled(name):
    """Their splits are read from blocks, threads and inner loops. No GPU is needed."""
    target = pinned_target(PRESETS[name].make_target())
    base, smaller = (task_of("direct 3x3", width, target) for width in (64, 32))
    inspected = compiled = 0
    for line in random_records(base)[:8]:
        out, _ = channel_splits(base, line)
        lengths = [split.lengths for split in out if len(split.lengths) >= 3]
        if not lengths:
            continue
        state = to_input(line, base.tvm_task).state
        schedule, args = base.tvm_task.compute_dag.apply_steps_from_state(state)
        stores = [accesses[0] for accesses in read_tile_factors(schedule, args) if len(accesses) == 3]
        factors = stores[0].dims[-1]
        boundaries = {64} | {math.prod(inner[i:]) for inner in lengths for i in range(len(inner) + 1)}
        assert {factor.stride for factor in factors} <= boundaries
        inspected += 1
        with contextlib.suppress(TransplantError, tvm.error.TVMError):
            (variant, *_) = transplant(line, base, smaller, 1)
            schedule, args = smaller.tvm_task.compute_dag.apply_steps_from_state(variant.state)
            library = tvm.build(schedule, args, target=target)
            assert "__kernel" in library.imported_modules[0].get_source()
            compiled += 1
    assert inspected >= 3 and compiled >= 1, (inspected, compiled)


@pytest.mark.skipif(not shutil.which("aarch64-linux-gnu-g++"), reason="needs g++-aarch64-linux-gnu")
@pytest.mark.parametrize("device", ["mali", "adreno"])
def test_gpu_libraries_contain_their_kernels(device, tmp_path):
    """The reference program and programs of a task, built as a worker does, with GNU's linker."""
    host = "llvm -mtriple=aarch64-linux-gnu"
    preset = Preset("board", f"opencl -device={device}", "aarch64", host, "opencl")
    specs = throttling.build_reference(preset, tmp_path / "reference.so")
    assert len(specs) == 3
    task = task_of("1x1", 64, pinned_target(preset.make_target()))
    built = []
    for number, line in enumerate(random_records(task)[:6]):
        path = tmp_path / f"{number}.so"
        measure_input = to_input(line, task.tvm_task)
        if not isinstance(
            local_worker.build_file(measure_input.serialize(), str(path), preset), local_worker.Failure
        ):
            built.append(path)
    assert built
    for path in (tmp_path / "reference.so", *built):
        content = path.read_bytes()
        assert content[:5] == b"\x7fELF\x02" and content[18] == 0xB7, "not a library for AArch64"
        assert b"__kernel" in content


def test_a_missing_ndk_is_reported_with_the_expected_compiler(monkeypatch):
    monkeypatch.delenv("TVM_NDK_CC", raising=False)
    with pytest.raises(CPruneError, match="TVM_NDK_CC is not set: expected the NDK's compiler"):
        PRESETS["android-cpu"].compiler()


def test_a_linker_that_fails_is_not_the_fault_of_the_program(tmp_path, monkeypatch):
    compiler = tmp_path / "g++"
    compiler.write_text("#!/bin/sh\necho 'ld: final link failed: No space left on device' >&2\nexit 1\n")
    compiler.chmod(0o755)
    monkeypatch.setenv("CXX", str(compiler))
    with pytest.raises(InfrastructureError, match="No space left on device"):
        throttling.build_reference(find_preset(None), tmp_path / "reference.so")
    monkeypatch.setenv("CXX", "no-such-compiler")
    with pytest.raises(InfrastructureError, match="no-such-compiler is not installed"):
        throttling.build_reference(find_preset(None), tmp_path / "reference.so")
    monkeypatch.delenv("CXX")
    with pytest.raises(InfrastructureError, match=r"cannot link reference\.so"):
        throttling.build_reference(find_preset(None), tmp_path / "missing" / "reference.so")
