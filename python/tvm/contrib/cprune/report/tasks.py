# SPDX-License-Identifier: Apache-2.0
"""The tasks of both models side by side."""

from collections import defaultdict
from collections.abc import Iterable

from tvm.contrib.cprune.report.values import TaskChange, Work
from tvm.contrib.cprune.table import Row, TaskTable
from tvm.contrib.cprune.types import Subgraph

_Part = tuple[Row, Subgraph]


def compare_tasks(before: TaskTable, after: TaskTable | None) -> tuple[TaskChange, ...]:
    """Return the time of each task of the unpruned model, and of the same layers in the pruned one.

    Pruning separates layers that shared a task, and lets others share one. Each row therefore has the layers
    of one task of the unpruned model, wherever they run in the pruned one. Subgraphs without a layer, such
    as poolings, are matched by their operators.

    Returns
    -------
    changes
        In descending order of the time before pruning.
    """
    title_of = {_key(sub): row.task.title for row in before.rows for sub in row.task.subgraphs}
    parts = [_by_title(table, title_of) if table else {} for table in (before, after)]
    titles = dict.fromkeys(title for by_title in parts for title in by_title)
    changes = [TaskChange(title, *(_work(by_title.get(title, ())) for by_title in parts)) for title in titles]
    return tuple(sorted(changes, key=lambda change: -change.before.seconds if change.before else 0.0))


def _key(subgraph: Subgraph) -> str:
    """Return what identifies a subgraph in both models."""
    return ", ".join(subgraph.layers) or subgraph.op


def _by_title(table: TaskTable, title_of: dict[str, str]) -> dict[str, list[_Part]]:
    parts: dict[str, list[_Part]] = defaultdict(list)
    for row in table.rows:
        for subgraph in row.task.subgraphs:
            parts[title_of.get(_key(subgraph), _key(subgraph))].append((row, subgraph))
    return parts


def _work(parts: Iterable[_Part]) -> Work | None:
    parts = tuple(parts)
    algorithms = dict.fromkeys(subgraph.algorithm for _, subgraph in parts if subgraph.algorithm)
    seconds = sum(row.program.latency.median for row, _ in parts)
    return Work(seconds, sum(row.task.flops for row, _ in parts), tuple(algorithms)) if parts else None
