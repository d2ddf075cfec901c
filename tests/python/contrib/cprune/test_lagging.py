# SPDX-License-Identifier: Apache-2.0
"""Tasks whose transplanted programs are much slower than their work predicts."""

import pytest
import torch
from networks import OneLayer
from programs import FAST
from torch import nn

from tvm.contrib.cprune import lagging
from tvm.contrib.cprune.compiler import Compiler
from tvm.contrib.cprune.config import PruneConfig
from tvm.contrib.cprune.lagging import SpeedChange, lagging_rows, speed_losses
from tvm.contrib.cprune.table import Row, TaskTable
from tvm.contrib.cprune.transform.pin_algorithms import winograd_algorithms
from tvm.contrib.cprune.types import Latency, Program, Subgraph, Task

SHAPE = (1, 8, 8, 8)


def table(*rows: tuple[str, str, float, float]) -> TaskTable:
    """Return a table of rows of layer, algorithm, operations and seconds."""
    return TaskTable(
        tuple(
            Row(
                Task(f"{layer}-{flops}", (Subgraph("f", "nn.conv2d", (layer,), algorithm),), flops),
                Program("{}", Latency((seconds,))),
            )
            for layer, algorithm, flops, seconds in rows
        ),
        "llvm",
        2,
        True,
    )


@pytest.fixture(autouse=True)
def usual_limit(monkeypatch):
    monkeypatch.setattr(lagging, "MIN_LATENCY", 50e-6)


BEFORE = table(("a", "winograd-4", 1e9, 1e-3), ("b", "direct", 1e9, 1e-3), ("c", "direct", 1e9, 1e-3))


@pytest.mark.parametrize(
    ("row", "lags"),
    [
        (("a", "winograd-4", 4e8, 0.9e-3), True),  # the work falls by 60 %, the latency by 10 %
        (("a", "winograd-4", 4e8, 0.4e-3), False),  # proportional
        (("a", "winograd-4", 4e8, 0.6e-3), False),  # two thirds of the speed
        (("a", "direct", 4e8, 0.9e-3), False),  # another algorithm counts other operations
        (("a", "winograd-4", 1e6, 40e-6), False),  # so short that fixed costs dominate
        (("new", "winograd-4", 4e8, 0.9e-3), False),  # nothing to compare with
    ],
)
def test_a_program_lags_if_its_latency_does_not_follow_its_work(row, lags):
    after = table(row, ("b", "direct", 1e9, 1e-3), ("c", "direct", 1e9, 1e-3))
    assert [r.task.layers for r in lagging_rows(after, BEFORE)] == ([(row[0],)] if lags else [])


def test_a_small_part_of_the_model_does_not_count():
    after = table(("a", "winograd-4", 4e7, 90e-6), ("b", "direct", 1e10, 10e-3))
    assert lagging_rows(after, BEFORE) == []


def test_speed_losses_are_listed_in_gflops():
    after = table(("a", "winograd-4", 4e8, 0.8e-3), ("b", "direct", 1e9, 1e-3))
    assert speed_losses(after, BEFORE) == [SpeedChange(("a",), 1000.0, 500.0)]


class TwoConvolutions(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.first, self.second = nn.Conv2d(8, width, 3, padding=1), OneLayer(width, 16)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.second(torch.relu(self.first(x)))


def test_a_lagging_task_tries_the_other_algorithm_and_a_short_search(tmp_path, monkeypatch):
    """Every program lags: afterwards both algorithms of each lagging convolution were measured."""
    torch.manual_seed(0)
    monkeypatch.setattr(lagging, "MIN_LATENCY", 1.0)
    with Compiler(PruneConfig(tune=FAST, measure_repeats=3), SHAPE, tmp_path) as compiler:
        model = TwoConvolutions(32).eval()
        compiler.tune(model)
        base = compiler.tune(model, {})  # direct convolutions, from the records of the search
        assert {row.task.subgraphs[0].algorithm for row in base.table.rows} <= {"direct", None}
        before = compiler.programs.trials()["search"]
        compiler.move(base, TwoConvolutions(24).eval())
        assert compiler.programs.trials()["search"] == before
        monkeypatch.setattr(lagging, "MIN_LATENCY", 0.0)
        monkeypatch.setattr(lagging, "MIN_SHARE", 0.0)
        monkeypatch.setattr(lagging, "SPEED_FRACTION", float("inf"))
        moved = compiler.move(base, TwoConvolutions(16).eval())
        assert compiler.programs.trials()["search"] > before
        for layer in ("first", "second.conv"):
            other = {layer: winograd_algorithms(moved.relay.mod)[layer]}
            tasks = [compiler.tuner.extract(moved.relay, algorithms) for algorithms in ({}, other)]
            for group in tasks:
                (task,) = [task for task in group if layer in task.layers]
                assert compiler.programs.best(task.workload_key) is not None
            (row,) = moved.table.of_layer(layer)
            best = [compiler.programs.best(t.workload_key) for g in tasks for t in g if layer in t.layers]
            assert row.program.latency.median == min(r.latency.median for r in best)
