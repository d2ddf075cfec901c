# SPDX-License-Identifier: Apache-2.0
"""Tuning logs in TVM's own format, one record a line, that survive a process killed while it wrote."""

import json
import time
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from tvm.auto_scheduler.measure_record import dump_record_to_string, load_record_from_string

from tvm import auto_scheduler, autotvm
from tvm.contrib.cprune.files import append_lines, read_lines
from tvm.contrib.cprune.types import CPruneError, Latency


@dataclass(frozen=True)
class Measured:
    """One line of a log. ``latency`` is None where the program failed."""

    workload_key: str
    line: str
    latency: Latency | None
    error: str = ""


def faster(a: Measured | None, b: Measured | None) -> Measured | None:
    """Return the faster one of two records, the first where they are equal; a failed one is None."""
    if b is None or b.latency is None:
        return a
    return b if a is None or a.latency is None or b.latency.median < a.latency.median else a


def parse(line: str) -> Measured:
    """Read one line of a log of auto_scheduler or AutoTVM.

    Raises
    ------
    CPruneError
        If it is not one.
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
    """Return the line for a measured program."""
    if isinstance(measure_input, autotvm.MeasureInput):
        costs = [float(cost) for cost in result.costs]
        plain = autotvm.MeasureResult(costs, int(result.error_no), float(result.all_cost), time.time())
        line = autotvm.record.encode(measure_input, plain)
    else:
        line = dump_record_to_string(measure_input, result).strip()
    return replace(parse(line), error=str(result.error_msg or ""))


def identity(measure_input: Any) -> str:
    """Return what tells one program from another: its record without what was measured."""
    return input_identity(dump(measure_input, auto_scheduler.MeasureResult([0.0], 0, "", 0.0, 0.0)).line)


def input_identity(line: str) -> str:
    """Return the ``identity`` of the program that a record measured."""
    record = json.loads(line)
    if "input" in record:
        return json.dumps([record["input"], record["config"]["entity"]])
    return json.dumps(record["i"])


def state_of(line: str) -> Any:
    """Return the state that a record describes, its steps alone."""
    measure_input, _ = load_record_from_string(line)
    return measure_input.state


def to_input(line: str, tvm_task: Any) -> auto_scheduler.MeasureInput:
    """Return what measures the record's program for ``tvm_task``."""
    return auto_scheduler.MeasureInput(tvm_task, state_of(line))


class RecordLog:
    """A log of measured programs: appended to durably, a torn last line cut off when it is opened.

    Parameters
    ----------
    path
        The file; None keeps records in memory only.
    """

    def __init__(self, path: Path | None) -> None:
        self.path = path
        self.measured: list[Measured] = []
        self._best: dict[str, Measured | None] = {}
        self._identities: set[str] = set()
        if path is not None:
            for line in read_lines(path):
                self._add(parse(line))

    def _add(self, measured: Measured) -> None:
        self.measured.append(measured)
        self._identities.add(input_identity(measured.line))
        self._best[measured.workload_key] = faster(self._best.get(measured.workload_key), measured)

    def append(self, measured: Iterable[Measured]) -> None:
        """Add records and flush them to the disk."""
        new = list(measured)
        if self.path is not None:
            append_lines(self.path, [each.line for each in new])
        for each in new:
            self._add(each)

    def holds(self, measure_input: Any) -> bool:
        """Whether a program was measured before."""
        return identity(measure_input) in self._identities

    def best(self, workload_key: str) -> Measured | None:
        """Return the fastest valid record of a workload."""
        return self._best.get(workload_key)

    def of(self, workload_key: str) -> list[Measured]:
        """Return every record of a workload."""
        return [each for each in self.measured if each.workload_key == workload_key]
