# SPDX-License-Identifier: Apache-2.0
"""Imports point one way, and measuring processes never import torch."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import ROOT

PACKAGE = ROOT / "python" / "tvm" / "contrib" / "cprune"
# Every module, lowest first: each may import only those above it.
ORDER = [
    "types",
    "files",
    "config",
    "config_list",
    "decision",
    "_plugin",
    "folding",
    "transform.simplify",
    "transform.tile_factors",
    "algorithms",
    "frontend",
    "frontend_onnx",
    "torchvision_models",
    "strategy",
    "device",
    "presets",
    "axes",
    "structure",
    "tuning.records",
    "tuning.transplant",
    "tuning.worker",
    "tuning.workers",
    "tuning.remote_worker",
    "tuning.reference",
    "tuning.tracker",
    "tuning.devices",
    "tuning.search",
    "tuning.autotvm",
    "tuning.autotvm_search",
    "tuning.compute_dag",
    "tuning.tuners",
    "tuning.rescale",
    "extract",
    "table",
    "step",
    "transform.layouts",
    "transform.rules",
    "transform.channels",
    "transform.rewriting",
    "transform.rounding",
    "model_file",
    "groups",
    "importance",
    "surgery",
    "masks",
    "checkpoint",
    "objects",
    "measure",
    "bundle",
    "aot",
    "profile",
    "programs",
    "candidate",
    "journal",
    "report",
    "training",
    "result",
    "pruner",
    "commands.deploy",
    "commands.doctor",
    "commands.profile",
    "commands.round",
    "commands.tune",
]
WITH_TORCH = {
    "config_list", "frontend", "torchvision_models", "model_file", "groups", "importance", "surgery",
    "masks", "checkpoint", "candidate", "training", "result", "pruner", "commands.deploy",
}  # fmt: skip


def module_path(name: str) -> Path:
    return PACKAGE / f"{name.replace('.', '/')}.py"


def imports(path: Path) -> set[str]:
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            found.add(node.module)
            found.update(f"{node.module}.{alias.name}" for alias in node.names)
    return found


def test_every_module_has_its_place():
    names = {str(p.relative_to(PACKAGE).with_suffix("")).replace("/", ".") for p in PACKAGE.rglob("*.py")}
    assert names - {
        "__init__",
        "transform.__init__",
        "tuning.__init__",
        "commands.__init__",
        "__main__",
    } == set(ORDER)


@pytest.mark.parametrize("name", ORDER)
def test_a_module_imports_only_what_stands_above_it(name):
    prefix = "tvm.contrib.cprune."
    ours = {each.removeprefix(prefix) for each in imports(module_path(name)) if each.startswith(prefix)}
    wrong = {each for each in ours & set(ORDER) if ORDER.index(each) >= ORDER.index(name)}
    assert not wrong


@pytest.mark.parametrize("name", ORDER)
def test_only_what_handles_models_imports_torch(name):
    uses = any(each.split(".")[0] in ("torch", "torch_pruning") for each in imports(module_path(name)))
    assert not uses or name in WITH_TORCH


def test_a_measuring_process_does_not_load_torch():
    code = "import sys, tvm.contrib.cprune.tuning.workers; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
