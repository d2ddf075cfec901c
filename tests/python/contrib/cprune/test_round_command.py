# SPDX-License-Identifier: Apache-2.0
"""The command `round` on an ONNX file and on a TorchScript file, with a table of tuned programs."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from commands import Done, error_of, run_cprune
from networks import randomize_norms
from torch import nn

import tvm
from tvm.contrib.cprune.importers.from_onnx import from_onnx
from tvm.contrib.cprune.models.groups import find_groups
from tvm.contrib.cprune.models.importance import score
from tvm.contrib.cprune.models.surgery import shrink
from tvm.contrib.cprune.types import ChannelStep

SHAPE = (1, 3, 8, 8)


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 32, 3, padding=1, bias=False), nn.BatchNorm2d(32), nn.ReLU())
        self.body = nn.Conv2d(32, 32, 1)
        self.fc = nn.Linear(32, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.stem(x)
        return self.fc(torch.relu(self.body(x) + x).mean((2, 3)))


class DepthwiseNet(Net):
    """The same layers, and a depthwise convolution behind the stem."""

    def __init__(self) -> None:
        super().__init__()
        self.stem.append(nn.Conv2d(32, 32, 3, padding=1, groups=32))


def pruned(model: nn.Module) -> nn.Module:
    """Return the model with 27 channels in its only group."""
    (group,) = find_groups(model, SHAPE).groups
    return shrink(model, SHAPE, [ChannelStep(group, 27, "")], lambda layer: score(layer, "l1", 0)).eval()


@pytest.fixture(scope="module")
def run(tuned_run, tmp_path_factory) -> Path:
    """Return a folder with the table of a tuned network, and two files of it pruned to 27 channels."""
    folder = tmp_path_factory.mktemp("run")
    torch.manual_seed(0)
    model = randomize_norms(Net())
    shutil.copy(tuned_run("round", model, SHAPE) / "table.json", folder)
    small = pruned(model)
    torch.jit.trace(small, torch.zeros(SHAPE)).save(str(folder / "small.pt"))
    torch.onnx.export(small, (torch.zeros(SHAPE),), str(folder / "small.onnx"), dynamo=False)
    return folder


def command(*arguments: str) -> Done:
    return run_cprune("round", *arguments)


def outputs(path: Path, data: np.ndarray) -> np.ndarray:
    if path.suffix == ".pt":
        return torch.jit.load(str(path))(torch.tensor(data)).detach().numpy()
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    return session.run(None, {session.get_inputs()[0].name: data})[0]


@pytest.mark.parametrize(("suffix", "timing"), [(".onnx", True), (".pt", False)])
def test_a_rounded_file_has_the_same_outputs(run, suffix, timing):
    out = run / f"rounded{suffix}"
    options = ["--table", str(run / "table.json"), "--out", str(out), "--max-growth", "4"]
    options += [] if timing else ["--no-timing"]
    options += ["--input-shape", "1,3,8,8"] if suffix == ".pt" else []
    done = command(str(run / f"small{suffix}"), *options)
    assert done.returncode == 0, done.stderr
    assert "stem.0, body" in done.stdout
    assert ("times as fast" in done.stdout) == timing
    data = np.random.default_rng(0).standard_normal(SHAPE).astype("float32")
    expected = outputs(run / f"small{suffix}", data)
    np.testing.assert_allclose(outputs(out, data), expected, rtol=1e-5, atol=1e-5)


def test_a_rounded_depthwise_convolution_runs_in_onnx_runtime(run, tmp_path):
    model, out = tmp_path / "model.onnx", tmp_path / "out.onnx"
    torch.onnx.export(pruned(DepthwiseNet()), (torch.zeros(SHAPE),), str(model), dynamo=False)
    options = ["--table", str(run / "table.json"), "--out", str(out), "--max-growth", "4", "--no-timing"]
    done = command(str(model), *options)
    assert done.returncode == 0, done.stderr
    width = onnx_groups(out)
    assert width > onnx_groups(model) == 27 and width % 8 == 0
    data = np.random.default_rng(0).standard_normal(SHAPE).astype("float32")
    np.testing.assert_allclose(outputs(out, data), outputs(model, data), rtol=1e-5, atol=1e-5)


def onnx_groups(path: Path) -> int:
    """Return the groups of the convolution that has more than one."""
    nodes = [node for node in onnx.load(str(path)).graph.node if node.op_type == "Conv"]
    groups = [attribute.i for node in nodes for attribute in node.attribute if attribute.name == "group"]
    return max(groups)


def test_channels_that_reach_the_outputs_are_kept_and_reported(run):
    out = run / "again.onnx"
    done = command(
        str(run / "small.onnx"), "--table", str(run / "table.json"), "--out", str(out), "--no-timing"
    )
    text = " ".join(done.stdout.replace("│", " ").split())  # The table wraps long reasons.
    assert "the model's output requires the original channel count" in text
    assert set(from_onnx(out).layers) == {"stem.0", "body", "fc"}


@pytest.mark.parametrize(
    ("name", "content", "arguments", "message"),
    [
        ("model.onnx", b"not a model", (), "is not an ONNX model"),
        ("model.pt", b"not a model", ("--input-shape", "1,3,8,8"), "is not a TorchScript file"),
        ("model.pt", b"not a model", (), "has no input shape"),
        (
            "model.pt",
            b"not a model",
            ("--input-shape", "1,x"),
            "--input-shape is '1,x', expected positive integers",
        ),
        ("model.txt", b"", (), "expected an .onnx or .pt file"),
    ],
)
def test_a_file_that_is_no_model_is_refused_in_one_line(run, tmp_path, name, content, arguments, message):
    path = tmp_path / name
    path.write_bytes(content)
    out = tmp_path / f"out{path.suffix}"
    done = command(str(path), "--table", str(run / "table.json"), "--out", str(out), *arguments)
    assert message in error_of(done)
    assert not out.exists()


def change(**values: object) -> Callable[[dict], None]:
    return lambda table: table.update(values)


def rename(table: dict) -> None:
    for row in table["rows"]:
        for subgraph in row["subgraphs"]:
            subgraph["layers"] = [f"other.{layer}" for layer in subgraph["layers"]]


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (rename, "the table belongs to another model: its layers are other.body, other.fc, other.stem.0"),
        (change(tvm="0.16.0"), f"was made with TVM 0.16.0, this is {tvm.__version__}: tune again"),
        (change(target="abacus -model=1"), "target 'abacus -model=1' is not a TVM target"),
        (
            change(target="llvm -mtriple=aarch64-linux-gnu"),
            "programs for llvm -mtriple=aarch64-linux-gnu do not run on this machine's CPU",
        ),
    ],
)
def test_a_table_of_another_model_version_or_target_is_refused_in_one_line(run, tmp_path, damage, message):
    table = json.loads((run / "table.json").read_text())
    damage(table)
    (tmp_path / "table.json").write_text(json.dumps(table))
    out = tmp_path / "out.onnx"
    done = command(str(run / "small.onnx"), "--table", str(tmp_path / "table.json"), "--out", str(out))
    assert message in error_of(done)
    assert [path.name for path in tmp_path.iterdir()] == ["table.json"]


def test_an_unsupported_operator_is_reported_by_name(run, tmp_path):
    square = onnx.helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, [1, 4, 4])
    result = onnx.helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, [1])
    graph = onnx.helper.make_graph([onnx.helper.make_node("Det", ["x"], ["y"])], "g", [square], [result])
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 13)])
    onnx.save(model, str(tmp_path / "det.onnx"))
    done = command(
        str(tmp_path / "det.onnx"), "--table", str(run / "table.json"), "--out", str(tmp_path / "out.onnx")
    )
    assert "Det" in error_of(done)
    assert not (tmp_path / "out.onnx").exists()
