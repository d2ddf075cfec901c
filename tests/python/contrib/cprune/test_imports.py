# SPDX-License-Identifier: Apache-2.0
"""Imports point one way, and measuring processes never import torch."""

import ast
from graphlib import TopologicalSorter

import pytest
from commands import ROOT, run_python

from tvm.contrib import cprune

PACKAGE = ROOT / "python" / "tvm" / "contrib" / "cprune"
PREFIX = "tvm.contrib.cprune."
# The folders and the modules beside them, lowest first: each imports only from what precedes it.
ORDER = [
    "types",
    "files",
    "numerics",
    "messages",
    "checks",
    "method_settings",
    "config",
    "stopwatch",
    "options",
    "_plugin",
    "targets",
    "measuring",
    "tuning",
    "table",
    "constraints",
    "transform",
    "importers",
    "lowering",
    "tasks",
    "program_store",
    "program_library",
    "library_start",
    "profile",
    "building",
    "models",
    "nni",
    "step",
    "lagging",
    "algorithm_choice",
    "task_tuner",
    "compiler",
    "loop",
    "report",
    "methods",
    "pruner",
    "commands",
]
WITH_TORCH = {
    "importers.from_torch",
    "importers.model_file",
    "importers.torch_graph",
    "models.checkpoint",
    "models.groups",
    "models.importance",
    "models.layers",
    "models.macs",
    "models.modes",
    "models.prunable",
    "models.reference",
    "models.surgery",
    "models.torchvision_models",
    "models.tracing",
    "nni.config_list",
    "nni.masks",
    "compiler",
    "loop.attempt",
    "loop.evaluation",
    "loop.export",
    "loop.result",
    "loop.scoring",
    "loop.run",
    "loop.verification",
    "loop.training",
    "methods.global_ranking",
    "methods.knapsack",
    "methods.one_shot",
    "methods.planned",
    "methods.prediction",
    "methods.progressive",
    "pruner",
    "commands.deploy",
    "commands.round",
}
MODULES = sorted(
    ".".join(path.relative_to(PACKAGE).with_suffix("").parts)
    for path in PACKAGE.rglob("*.py")
    if path.name not in ("__init__.py", "__main__.py")
)


def place_of(module: str) -> str:
    """Return the entry of ``ORDER`` that a module belongs to."""
    return module.split(".")[0]


def imports(module: str) -> set[str]:
    """Return every module that a module imports, at its top or inside a function."""
    found = set()
    for node in ast.walk(ast.parse((PACKAGE / f"{module.replace('.', '/')}.py").read_text())):
        if isinstance(node, ast.Import):
            found.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            found.add(node.module)
            found.update(f"{node.module}.{alias.name}" for alias in node.names)
    return found


def own_imports(module: str) -> set[str]:
    """Return the modules of the package that a module imports."""
    return {name.removeprefix(PREFIX) for name in imports(module)} & set(MODULES)


def test_every_module_belongs_to_the_order():
    assert {place_of(module) for module in MODULES} == set(ORDER)


@pytest.mark.parametrize("module", MODULES)
def test_a_module_imports_only_from_lower_layers(module):
    own = place_of(module)
    others = {name for name in own_imports(module) if place_of(name) != own}
    assert not {name for name in others if ORDER.index(place_of(name)) > ORDER.index(own)}


@pytest.mark.parametrize("place", ORDER)
def test_the_modules_of_a_folder_do_not_import_each_other_in_a_cycle(place):
    members = [module for module in MODULES if place_of(module) == place]
    graph = {module: own_imports(module) & set(members) for module in members}
    assert set(TopologicalSorter(graph).static_order()) == set(members)


@pytest.mark.parametrize("module", MODULES)
def test_only_modules_that_handle_models_import_torch(module):
    uses = any(name.split(".")[0] in ("torch", "torch_pruning") for name in imports(module))
    assert not uses or module in WITH_TORCH


@pytest.mark.parametrize("name", cprune.__all__)
def test_every_public_name_can_be_imported(name):
    assert getattr(cprune, name).__name__ == name


def test_a_measuring_process_does_not_load_torch():
    code = "import sys, tvm.contrib.cprune.measuring.local_pool; sys.exit('torch' in sys.modules)"
    assert run_python("-c", code).returncode == 0
