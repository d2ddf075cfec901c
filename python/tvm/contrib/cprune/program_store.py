# SPDX-License-Identifier: Apache-2.0
"""The programs that a run has measured, and which of them are tried on a task that has none."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tvm.contrib.cprune.measuring.local_pool import LocalMeasurer
from tvm.contrib.cprune.measuring.records import Measured, RecordLog, faster
from tvm.contrib.cprune.table import Row, TaskTable
from tvm.contrib.cprune.tuning.ansor.transplant import TransplantError
from tvm.contrib.cprune.tuning.backends import TuningBackend
from tvm.contrib.cprune.types import CPruneError, Task

# ProgramStore of other tasks that are tried on a task after the first search.
DONORS = 3
# Slower programs of a task that are tried at a width that the fastest one does not fit.
ALTERNATIVES = 2


class ProgramStore:
    """Every program measured in a run: found by search, transplanted, or read from a profile.

    Parameters
    ----------
    folder
        Of the logs ``search.json`` and ``transplant.json``.
    profile
        Records that ``profile_widths`` wrote; None for none.

    Raises
    ------
    CPruneError
        If a log or the profile is damaged, or there is no such profile.
    """

    def __init__(
        self, tuner: TuningBackend, pool: LocalMeasurer, folder: Path, profile: Path | None = None
    ) -> None:
        self._tuner, self._pool = tuner, pool
        self.searched = RecordLog(folder / "search.json")
        self.transplanted = RecordLog(folder / "transplant.json")
        self._profiled = RecordLog(None)
        if profile is not None:
            if not profile.is_file():
                raise CPruneError(
                    f"cannot read {profile}: expected the records that the command profile writes"
                )
            self._profiled.append(RecordLog(profile).measured)

    def best(self, workload_key: str) -> Measured | None:
        """Return the fastest program that was measured for a workload."""
        measured = faster(self.searched.best(workload_key), self.transplanted.best(workload_key))
        return faster(measured, self._profiled.best(workload_key))

    def trials(self) -> dict[str, int]:
        """Return how many programs were measured, by how they came about."""
        return {"search": len(self.searched.measured), "transplant": len(self.transplanted.measured)}

    def share(self, rows: Sequence[Row], batch: int) -> None:
        """Try on each row's task the programs of others that compute alike at other shapes.

        A good one often serves all of them, and a few trials do not find it for each.
        """
        inputs = []
        for row in rows:
            inputs += self._borrow(row.task, [each for each in rows if each.speed > row.speed])
        for start in range(0, len(inputs), batch):
            self._measurer.measure_new(inputs[start : start + batch], self.transplanted)

    def move(self, task: Task, table: TaskTable, variants: int) -> bool:
        """Measure the programs of ``table`` that may move to ``task``; return whether one was valid.

        Where none of them fits, slower ones that do, and those of other tasks that compute alike, are tried,
        too.
        """
        own, inputs, fitting = donors(task, table), [], False
        for row in own:
            try:
                inputs += self._backend.transplant(row.program.record, row.task, task, variants)
                fitting = fitting or self._backend.fits(row.program.record, row.task, task)
            except TransplantError:
                continue
        if not fitting:
            inputs += [each for row in own for each in self._alternatives(task, row)]
            inputs += self._borrow(task, [row for row in table.rows if row not in own])
        return any(each.latency is not None for each in self._measurer.measure_new(inputs, self.transplanted))

    def _borrow(self, task: Task, rows: Sequence[Row]) -> list[Any]:
        """Return ``MeasureInput`` of the quickest of other tasks' programs that can move to ``task``."""
        found: list[Any] = []
        for row in sorted(rows, key=lambda each: each.speed, reverse=True):
            try:
                found += self._backend.transplant(row.program.record, row.task, task, 1)
            except TransplantError:
                continue
            if len(found) == DONORS:
                break
        return found

    def _alternatives(self, task: Task, row: Row) -> list[Any]:
        """Return ``MeasureInput`` of the fastest other programs known of a row's task that fit ``task``."""
        key, found = row.task.workload_key, []
        measured = [
            (each.latency.median, each.line)
            for log in (self.searched, self.transplanted)
            for each in log.of(key)
            if each.latency
        ]
        for _, line in sorted(measured):
            try:
                if self._backend.fits(line, row.task, task):
                    found += self._backend.transplant(line, row.task, task, 1)
            except TransplantError:
                continue
            if len(found) == ALTERNATIVES:
                break
        return found


def donors(task: Task, table: TaskTable) -> list[Row]:
    """Return the rows whose programs may move to a task: those of its own layers, joined by name and nothing
    else.

    A subgraph without a layer, such as a pooling, takes those with the same operators.
    """
    if task.layers:
        rows = [row for layer in task.layers for row in table.of_layer(layer)]
    else:
        ops = {subgraph.op for subgraph in task.subgraphs}
        rows = [row for row in table.rows if not row.task.layers and row.task.subgraphs[0].op in ops]
    return list({row.task.workload_key: row for row in rows}.values())
