# SPDX-License-Identifier: Apache-2.0
"""Tuning logs in TVM's format, one record per line, which survive a process that is killed while writing."""

import contextlib
import json
import time
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from tvm.auto_scheduler.measure_record import dump_record_to_string, load_record_from_string

from tvm import auto_scheduler, autotvm
from tvm.contrib.cprune.files import append_lines, recover_lines
from tvm.contrib.cprune.types import CPruneError, Latency, Task


@dataclass(frozen=True)
class Measured:
    """One line of a log; ``latency`` is None if the program failed."""

    workload_key: str
    line: str
    latency: Latency | None
    error: str = ""


def faster(a: Measured | None, b: Measured | None) -> Measured | None:
    """Return the faster of two records, the first one on a tie; None and failed records lose."""
    if b is None or b.latency is None:
        return a
    return b if a is None or a.latency is None or b.latency.median < a.latency.median else a


def parse(line: str) -> Measured:
    """Parse one line of an auto_scheduler or AutoTVM log.

    Raises
    ------
    CPruneError
        If the line is not a record.
    """
    try:
        record = json.loads(line)
        if "input" in record:
            key, (costs, error) = json.dumps(record["input"][1:3]), record["result"][:2]
        else:
            key, (costs, error) = record["i"][0][0], record["r"][:2]
    except (ValueError, KeyError, IndexError, TypeError):
        raise CPruneError(f"not a record of auto_scheduler or AutoTVM: {line[:80]!r}") from None
    latency = Latency(tuple(float(cost) for cost in costs)) if error == 0 else None
    return Measured(key, line, latency, "" if error == 0 else f"error {error}")


def dump(measure_input: Any, result: Any) -> Measured:
    """Return the record of a measured program.

    Parameters
    ----------
    measure_input
        A ``MeasureInput`` of auto_scheduler or AutoTVM.
    result
        Its ``MeasureResult``.
    """
    if isinstance(measure_input, autotvm.MeasureInput):
        costs = [float(cost) for cost in result.costs]
        plain = autotvm.MeasureResult(costs, int(result.error_no), float(result.all_cost), time.time())
        line = autotvm.record.encode(measure_input, plain)
    else:
        line = dump_record_to_string(measure_input, result).strip()
    return replace(parse(line), error=str(result.error_msg or ""))


def identity(measure_input: Any) -> str:
    """Return a string that identifies a program: its record without the measurement."""
    return input_identity(dump(measure_input, auto_scheduler.MeasureResult([0.0], 0, "", 0.0, 0.0)).line)


def input_identity(line: str) -> str:
    """Return the ``identity`` of a record's program."""
    record = json.loads(line)
    if "input" in record:
        return json.dumps([record["input"], record["config"]["entity"]])
    return json.dumps(record["i"])


def state_of(line: str) -> Any:
    """Return the ``State`` of an auto_scheduler record; only its transform steps are set."""
    measure_input, _ = load_record_from_string(line)
    return measure_input.state


def to_input(line: str, tvm_task: Any) -> auto_scheduler.MeasureInput:
    """Return a ``MeasureInput`` for an auto_scheduler record's program on ``tvm_task``."""
    return auto_scheduler.MeasureInput(tvm_task, state_of(line))


def training_data(task: Task, records: Iterable[Measured]) -> tuple[list[Any], list[Any]]:
    """Return the measure inputs and results of a task's records, for the training of a cost model."""
    pairs = [load_record_from_string(record.line) for record in records]
    inputs = [auto_scheduler.MeasureInput(task.tvm_task, measured.state) for measured, _ in pairs]
    return inputs, [result for _, result in pairs]


class RecordLog:
    """An append-only log of measured programs.

    Opening it removes an incomplete last line, which a killed process may have left. Read the files of others
    with ``RecordLog.read``, which never writes to them.

    Parameters
    ----------
    path
        The log file; None keeps the records in memory only.

    Raises
    ------
    CPruneError
        If a line of the file is not a record.
    """

    def __init__(self, path: Path | None) -> None:
        self.path = path
        self.measured: list[Measured] = []
        self._best: dict[str, Measured | None] = {}
        self._by_identity: dict[str, Measured] = {}
        if path is not None:
            for line in recover_lines(path):
                self._add(parse(line))

    @classmethod
    def read(cls, path: Path) -> "RecordLog":
        """Return the records of a file in memory, and leave the file unchanged.

        A last line without a newline counts if it is a record; it is ignored if a killed process left it
        incomplete.

        Raises
        ------
        CPruneError
            If the file cannot be read, or a line of it is not a record.
        """
        try:
            *complete, last = path.read_text().split("\n")
        except (OSError, UnicodeDecodeError) as error:
            raise CPruneError(f"cannot read the records in {path}: {error}") from error
        log = cls(None)
        log.append(parse(line) for line in complete if line.strip())
        with contextlib.suppress(CPruneError):
            log.append([parse(last)])
        return log

    def _add(self, measured: Measured) -> None:
        self.measured.append(measured)
        self._by_identity[input_identity(measured.line)] = measured
        self._best[measured.workload_key] = faster(self._best.get(measured.workload_key), measured)

    def append(self, measured: Iterable[Measured]) -> None:
        """Append records and flush them to disk."""
        records = list(measured)
        if self.path is not None:
            append_lines(self.path, [record.line for record in records])
        for record in records:
            self._add(record)

    def holds(self, measure_input: Any) -> bool:
        """Return whether a program has been measured."""
        return self.find(measure_input) is not None

    def find(self, measure_input: Any) -> Measured | None:
        """Return the record of a program, None if it has not been measured."""
        return self._by_identity.get(identity(measure_input))

    def best(self, workload_key: str) -> Measured | None:
        """Return the fastest valid record of a workload."""
        return self._best.get(workload_key)

    def of(self, workload_key: str) -> list[Measured]:
        """Return all records of a workload."""
        return [record for record in self.measured if record.workload_key == workload_key]
