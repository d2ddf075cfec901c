# SPDX-License-Identifier: Apache-2.0
"""Small networks, a measuring pool and tuned programs that several test files use."""

import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

os.environ.setdefault("TVM_NUM_THREADS", "2")

import pytest
import torch
from hypothesis import settings
from torch import nn

import tvm.contrib.cprune  # noqa: F401  (before any part of TVM that would look for a network)
from tvm import auto_scheduler
from tvm.contrib.cprune import lagging
from tvm.contrib.cprune.config import TuneConfig
from tvm.contrib.cprune.importers.from_torch import from_torch
from tvm.contrib.cprune.measuring.local_pool import LocalMeasurer
from tvm.contrib.cprune.measuring.records import Measured, RecordLog, dump
from tvm.contrib.cprune.table import Row, TaskTable
from tvm.contrib.cprune.targets.target import host_target, pinned_target
from tvm.contrib.cprune.tasks import extract_from_program
from tvm.contrib.cprune.tuning.ansor.search import search
from tvm.contrib.cprune.types import Latency, Program, Split, Subgraph, Task

ROOT = Path(__file__).parents[4]
TUTORIAL = ROOT / "tutorials" / "frontend"
sys.path.insert(0, str(TUTORIAL))

# The same examples in every run, however slow the machine; HYPOTHESIS_PROFILE=explore draws others each time.
settings.register_profile("same", derandomize=True, deadline=None)
settings.register_profile("explore", deadline=None)
settings.load_profile(os.getenv("HYPOTHESIS_PROFILE", "same"))

# Whether a program of some microseconds lags depends on the machine: only the tests of lagging.py look at it.
lagging.MIN_LATENCY = 1.0
FAST = TuneConfig(trials=4, batch=4, population=32, repeats=3)


class OneLayer(nn.Module):
    """A convolution, a rectifier, and a linear layer over the mean: one task of each anchor."""

    def __init__(self, inputs: int, outputs: int, kernel: int = 3, stride: int = 1, groups: int = 1) -> None:
        super().__init__()
        self.conv = nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, groups=groups)
        self.fc = nn.Linear(outputs, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.fc(torch.relu(self.conv(x)).mean((2, 3)))


class Branches(nn.Module):
    """Residual, concatenating, depthwise, grouped and squeeze-and-excitation, small."""

    def __init__(self, width: int = 16) -> None:
        super().__init__()
        self.stem = nn.Sequential(
            nn.Conv2d(3, width, 3, padding=1, bias=False), nn.BatchNorm2d(width), nn.ReLU()
        )
        self.left = nn.Conv2d(width, width, 3, padding=1)
        self.right = nn.Conv2d(width, width, 1)
        self.depthwise = nn.Conv2d(2 * width, 2 * width, 3, padding=1, groups=2 * width, bias=False)
        self.norm = nn.BatchNorm2d(2 * width)
        self.mix = nn.Conv2d(2 * width, width, 1)
        self.grouped = nn.Conv2d(width, width, 3, stride=2, padding=1, groups=4)
        self.squeeze = nn.Conv2d(width, 8, 1)
        self.excite = nn.Conv2d(8, width, 1)
        self.fc = nn.Linear(width, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.stem(x)
        x = torch.cat([torch.relu(self.left(x)) + x, self.right(x)], 1)
        x = torch.relu(self.mix(torch.relu(self.norm(self.depthwise(x)))))
        x = torch.relu(self.grouped(x))
        gate = torch.sigmoid(self.excite(torch.relu(self.squeeze(x.mean((2, 3), keepdim=True)))))
        return self.fc((x * gate).mean((2, 3)))


def randomize_norms(model: nn.Module) -> nn.Module:
    """Give batch norms statistics that matter, so that folding them wrongly shows."""
    generator = torch.Generator().manual_seed(0)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.normal_(0, 0.1, generator=generator)
            module.running_var.uniform_(0.5, 1.5, generator=generator)
            module.weight.data.uniform_(0.5, 1.5, generator=generator)
            module.bias.data.normal_(0, 0.1, generator=generator)
    return model.eval()


def table_of(products: dict[str, tuple[int, int]]) -> TaskTable:
    """Return a table whose programs have inner products (output channels, input channels) for each layer."""
    rows = []
    for layer, (out, into) in products.items():
        task = Task(layer, (Subgraph("f#0", "nn.conv2d", (layer,), "direct"),), 1.0)
        splits = [(Split(0, "conv", (0,), 0, (size,)),) for size in (out, into)]
        rows.append(Row(task, Program("{}", Latency((1.0,)), *splits)))
    return TaskTable(tuple(rows), "llvm -mcpu=skylake-avx512", 2, True)


@pytest.fixture(scope="session")
def target():
    return pinned_target(host_target())


@pytest.fixture(scope="session")
def pool() -> Iterator[LocalMeasurer]:
    with LocalMeasurer(FAST) as measuring:
        yield measuring


# Anchor kind -> (how to make the network at a width, the algorithm of "conv", layer that is looked at, base
# width).
KINDS: dict[str, tuple[Callable[[int], nn.Module], str, str, int]] = {
    "direct 3x3": (lambda w: OneLayer(8, w), "direct", "conv", 64),
    "winograd 3x3": (lambda w: OneLayer(8, w), "winograd", "conv", 64),
    "1x1": (lambda w: OneLayer(16, w, kernel=1), "direct", "conv", 64),
    "strided": (lambda w: OneLayer(8, w, stride=2), "direct", "conv", 64),
    "grouped": (lambda w: OneLayer(8, w, groups=4), "direct", "conv", 64),
    "depthwise": (lambda w: OneLayer(w, w, groups=w), "direct", "conv", 64),
    "reduction": (lambda w: OneLayer(w, 32), "direct", "conv", 64),
    "dense": (lambda w: OneLayer(8, w), "direct", "fc", 64),
}


def task_of(kind: str, width: int, target) -> Task:
    """Return the task of a kind's layer at a width."""
    make, algorithm, layer, _ = KINDS[kind]
    model = make(width)
    inputs = model.conv.in_channels
    relay_model = from_torch(model, (1, inputs, 8, 8))
    tasks = extract_from_program(relay_model.mod, None, target, {"conv": algorithm})
    return next(task for task in tasks if layer in task.layers)


def sampled_states(task: Task) -> list:
    """Return states that the search would start from."""
    policy = auto_scheduler.SketchPolicy(
        task.tvm_task, params={"sample_init_min_population": 30}, seed=7, verbose=0
    )
    return list(policy.sample_initial_population())


def record_of(task: Task, state) -> str:
    """Return the record of a state, as if it had been measured."""
    result = auto_scheduler.MeasureResult([1.0], 0, "", 0.1, 0.0)
    return dump(auto_scheduler.MeasureInput(task.tvm_task, state), result).line


def random_records(task: Task) -> list[str]:
    return [record_of(task, state) for state in sampled_states(task)]


@pytest.fixture(scope="session")
def tuned(pool, target) -> Callable[[str], tuple[Task, Measured]]:
    """Return a function from an anchor kind to its task at the base width and a tuned program of it."""
    known: dict[str, tuple[Task, Measured]] = {}

    def tune(kind: str) -> tuple[Task, Measured]:
        if kind not in known:
            task, log = task_of(kind, KINDS[kind][3], target), RecordLog(None)
            search([task], FAST, pool, log)
            best = log.best(task.workload_key)
            assert best is not None
            known[kind] = task, best
        return known[kind]

    return tune
