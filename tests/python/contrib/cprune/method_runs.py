# SPDX-License-Identifier: Apache-2.0
"""Runs of pruning methods on a small network whose latencies do not depend on the machine."""

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from programs import FAST
from pruning import SHAPE, make_model
from pruning import training as constant_training
from torch import nn

from tvm.contrib.cprune.config import PruneConfig
from tvm.contrib.cprune.loop.journal import Journal
from tvm.contrib.cprune.loop.training import Training
from tvm.contrib.cprune.methods import knapsack, netadapt
from tvm.contrib.cprune.models.surgery import widths
from tvm.contrib.cprune.pruner import CPruner
from tvm.contrib.cprune.step import minimum_width
from tvm.contrib.cprune.table import TaskTable
from tvm.contrib.cprune.types import ChannelGroup


def predict_by_flops(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make predicted latencies independent of the machine, and multiples of a number the fitting widths."""
    monkeypatch.setattr(TaskTable, "predicted", property(lambda table: sum(seconds_by_layer(table).values())))
    monkeypatch.setattr(TaskTable, "by_layer", seconds_by_layer)
    monkeypatch.setattr(knapsack, "widths_to_measure", multiples_of_eight)
    monkeypatch.setattr(netadapt, "fitting_widths", partial(multiples, 16))


def seconds_by_layer(table: TaskTable) -> dict[str, float]:
    """Return seconds in proportion to the floating-point operations, for a network without repeated tasks."""
    return {row.task.title: row.task.flops * 1e-9 for row in table.rows}


def multiples(number: int, group: ChannelGroup, table: TaskTable, original: int, config: PruneConfig):
    return tuple(range(group.width, minimum_width(group, original, config) - 1, -number))


def multiples_of_eight(group: ChannelGroup, table: TaskTable, config: PruneConfig) -> tuple[int, ...]:
    return multiples(8, group, table, group.width, config)


def config(method: str, **changes: Any) -> PruneConfig:
    return PruneConfig(method=method, measure_repeats=5, tune=FAST, **changes)


def run(
    folder: Path,
    settings: PruneConfig,
    training: Training | None = None,
    report: Callable[[dict[str, Any]], None] = lambda _: None,
    resume: bool = False,
) -> dict[str, Any]:
    return CPruner(make_model(), SHAPE, training or constant_training(), settings, folder, report=report).run(
        resume
    )


def journal_of(folder: Path, kind: str) -> list[dict[str, Any]]:
    return [event for event in Journal(folder / "journal.jsonl").events if event["event"] == kind]


def interrupt_at(count: int, kind: str = "candidate") -> Callable[[dict[str, Any]], None]:
    """Return a report that interrupts the run after the ``count``-th event of a kind was written."""
    seen: list[dict[str, Any]] = []

    def report(event: dict[str, Any]) -> None:
        if event["event"] == kind:
            seen.append(event)
            if len(seen) == count:
                raise KeyboardInterrupt

    return report


def accuracy_by_width(model: nn.Module) -> float:
    """Return an accuracy that suffers most from channels of ``c``, and least from those of ``b``."""
    lost = {
        root: 1 - width / width_before
        for (root, width), width_before in zip(
            widths(model).items(), widths(make_model()).values(), strict=True
        )
    }
    return 0.9 - 0.3 * lost["c"] - 0.2 * lost["a"] - 0.1 * lost["b"]
