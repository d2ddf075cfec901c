# SPDX-License-Identifier: Apache-2.0
"""The programs measured in a run, and the donors tried on a task without a program."""

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from tvm.contrib.cprune.measuring.context import RecordContext
from tvm.contrib.cprune.measuring.measurer import Measurer
from tvm.contrib.cprune.measuring.records import Measured, RecordLog, faster
from tvm.contrib.cprune.table import Row, TaskTable
from tvm.contrib.cprune.tuning.backends import TuningBackend
from tvm.contrib.cprune.types import CPruneError, Task, TransplantError

# Programs borrowed from other tasks.
MAX_BORROWED = 3
# Slower programs of the same task, tried where the fastest one does not fit.
MAX_ALTERNATIVES = 2


class ProgramStore:
    """Every program measured in a run: by search, by transplant, or in a profile.

    Parameters
    ----------
    folder
        Has a folder for each context, with the logs ``search.json`` and ``transplant.json``.
    context
        What the measurer's latencies are valid for. Records of other contexts are donors, never results.
    profile
        Records written by the command ``profile`` in the same context, or None.

    Raises
    ------
    CPruneError
        If a log or the profile is damaged, or the profile does not exist or belongs to another context.
    """

    def __init__(
        self,
        backend: TuningBackend,
        measurer: Measurer,
        folder: Path,
        context: RecordContext,
        profile: Path | None = None,
    ) -> None:
        self._backend, self._measurer = backend, measurer
        own = folder / context.folder_name
        self.searched = RecordLog(own / "search.json")
        self.transplanted = RecordLog(own / "transplant.json")
        context.save(own)
        self._foreign = [
            RecordLog.read(path) for path in sorted(folder.glob("*/*.json")) if _is_foreign(path, own)
        ]
        self._profiled = RecordLog(None)
        if profile is not None:
            if not profile.is_file():
                raise CPruneError(
                    f"cannot read profile {profile}: expected the records that the command `profile` writes"
                )
            context.require(profile.parent, "a profile")
            self._profiled.append(RecordLog.read(profile).measured)

    def best(self, workload_key: str) -> Measured | None:
        """Return the fastest measured program of a workload, None if there is none."""
        measured = faster(self.searched.best(workload_key), self.transplanted.best(workload_key))
        return faster(measured, self._profiled.best(workload_key))

    def known(self) -> RecordLog:
        """Return the programs that a search can start from: transplants, and those of the profile."""
        log = RecordLog(None)
        log.append((*self.transplanted.measured, *self._profiled.measured))
        return log

    def trials(self) -> dict[str, int]:
        """Return the number of measured programs by origin, "search" or "transplant"."""
        return {"search": len(self.searched.measured), "transplant": len(self.transplanted.measured)}

    def seed(self, tasks: Sequence[Task], batch: int) -> None:
        """Measure the fastest programs that other contexts have for ``tasks``."""
        inputs: list[Any] = []
        for task in tasks:
            best: Measured | None = None
            for log in self._foreign:
                best = faster(best, log.best(task.workload_key))
            if best is not None:
                try:
                    inputs += self._backend.transplant(best.line, task, task, 1)
                except TransplantError:
                    continue
        self._measure(inputs, batch)

    def share(self, rows: Sequence[Row], slow: Sequence[Row], batch: int) -> None:
        """Measure on the tasks of slow rows the faster programs of other tasks with the same structure.

        A good program often suits all of them, and a few trials do not discover it for each task.

        Parameters
        ----------
        rows, slow
            All rows of a table, and those whose tasks may become faster.
        """
        inputs = []
        for row in slow:
            inputs += self._borrow(row.task, [other for other in rows if other.speed > row.speed])
        self._measure(inputs, batch)

    def move(self, task: Task, table: TaskTable, variants: int) -> bool:
        """Measure transplants of the table's programs on ``task``; return whether one is valid.

        If no program of the same layers fits, slower programs that fit and programs of other tasks with the
        same structure are tried as well.

        Parameters
        ----------
        variants
            Transplants per donor where tile factors must change.
        """
        rows, inputs, fits = donors(task, table), [], False
        for row in rows:
            try:
                inputs += self._backend.transplant(row.program.record, row.task, task, variants)
                fits = fits or self._backend.keeps_inner_loops(row.program.record, row.task, task)
            except TransplantError:
                continue
        if not fits:
            inputs += [item for row in rows for item in self._alternatives(task, row)]
            inputs += self._borrow(task, [row for row in table.rows if row not in rows])
        measured = self._measurer.measure_new(inputs, self.transplanted)
        return any(record.latency is not None for record in measured)

    def borrow(self, task: Task, table: TaskTable) -> None:
        """Measure the fastest programs of ``table`` that can be moved to ``task``."""
        self._measure(self._borrow(task, table.rows), MAX_BORROWED)

    def _measure(self, inputs: Sequence[Any], batch: int) -> None:
        for start in range(0, len(inputs), batch):
            self._measurer.measure_new(inputs[start : start + batch], self.transplanted)

    def _borrow(self, task: Task, rows: Iterable[Row]) -> list[Any]:
        """Return ``MeasureInput`` of the fastest programs of ``rows`` that can move to ``task``."""
        inputs: list[Any] = []
        for row in sorted(rows, key=lambda row: row.speed, reverse=True):
            try:
                inputs += self._backend.transplant(row.program.record, row.task, task, 1)
            except TransplantError:
                continue
            if len(inputs) == MAX_BORROWED:
                break
        return inputs

    def _alternatives(self, task: Task, row: Row) -> list[Any]:
        """Return ``MeasureInput`` of the fastest measured programs of a row's task that fit ``task``."""
        records = [
            record
            for log in (self.searched, self.transplanted)
            for record in log.of(row.task.workload_key)
            if record.latency
        ]
        inputs: list[Any] = []
        for record in sorted(records, key=_median):
            try:
                if self._backend.keeps_inner_loops(record.line, row.task, task):
                    inputs += self._backend.transplant(record.line, row.task, task, 1)
            except TransplantError:
                continue
            if len(inputs) == MAX_ALTERNATIVES:
                break
        return inputs


def _is_foreign(path: Path, own: Path) -> bool:
    return path.parent != own and path.name in ("search.json", "transplant.json")


def _median(record: Measured) -> float:
    assert record.latency is not None
    return record.latency.median


def donors(task: Task, table: TaskTable) -> list[Row]:
    """Return the rows whose programs may move to a task: those of its own layers, matched by name only.

    A subgraph without a layer, such as a pooling, matches rows with the same operators.
    """
    if task.layers:
        rows = [row for layer in task.layers for row in table.of_layer(layer)]
    else:
        ops = {subgraph.op for subgraph in task.subgraphs}
        rows = [row for row in table.rows if not row.task.layers and row.task.subgraphs[0].op in ops]
    return list({row.task.workload_key: row for row in rows}.values())
