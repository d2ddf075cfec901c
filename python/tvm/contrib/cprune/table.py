# SPDX-License-Identifier: Apache-2.0
"""The task table: the tasks of a model with their fastest programs and impact on its latency."""

import json
import math
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import tvm
from tvm.contrib.cprune.files import write_text
from tvm.contrib.cprune.measuring.records import Measured, parse
from tvm.contrib.cprune.tuning.backends import backend_of
from tvm.contrib.cprune.types import (
    CandidateError,
    CPruneError,
    Latency,
    Program,
    Split,
    Subgraph,
    Task,
    TunerName,
)

# Version of the file format.
FORMAT = 5


@dataclass(frozen=True)
class Row:
    """A task and its fastest program.

    Attributes
    ----------
    task : Task
        The tuning task, with the subgraphs that share it.
    program : Program
        The fastest program measured for it.
    trials : int
        In a library of programs: trials per task of the search that found the program.
    """

    task: Task
    program: Program
    trials: int = 0

    @property
    def impact(self) -> float:
        """Seconds that the task contributes to one inference: latency times the number of subgraphs."""
        return self.program.latency.median * self.task.weight

    @property
    def speed(self) -> float:
        """Throughput of the program in FLOP/s."""
        return self.task.flops / self.program.latency.median


@dataclass(frozen=True)
class TaskTable:
    """All tasks of a model on one target.

    Attributes
    ----------
    rows : tuple of Row
        One row per task.
    target : str
        The target, as ``tvm.target.Target`` parses it.
    threads : int
        Number of threads that the programs were timed with.
    cold_weights : bool
        Whether weights were flushed from the cache before each timed run.
    """

    rows: tuple[Row, ...]
    target: str
    threads: int
    cold_weights: bool

    def by_impact(self) -> list[Row]:
        """Return the rows in descending order of impact (Algorithm 1, line 5)."""
        return sorted(self.rows, key=lambda row: row.impact, reverse=True)

    def of_layer(self, layer: str) -> list[Row]:
        """Return the rows of the tasks that contain a layer."""
        return [row for row in self.rows if layer in row.task.layers]

    @property
    def tuner(self) -> TunerName:
        """The tuner that produced the programs."""
        return self.rows[0].task.tuner if self.rows else "ansor"

    @property
    def predicted(self) -> float:
        """Predicted seconds per inference: the sum of the impacts."""
        return sum(row.impact for row in self.rows)

    def by_layer(self) -> dict[str, float]:
        """Return the seconds per inference of each layer; those of subgraphs without a layer under ""."""
        seconds: dict[str, float] = {}
        for row in self.rows:
            for subgraph in row.task.subgraphs:
                name = subgraph.layers[0] if subgraph.layers else ""
                seconds[name] = seconds.get(name, 0.0) + row.program.latency.median
        return seconds

    def save(self, path: Path) -> None:
        """Write the table as JSON. The file is replaced atomically."""
        rows = [
            {
                "workload_key": row.task.workload_key,
                "subgraphs": [asdict(subgraph) for subgraph in row.task.subgraphs],
                "flops": row.task.flops,
                "out_axes": row.task.out_axes,
                "in_axes": row.task.in_axes,
                "groups": row.task.groups,
                "axes": row.task.axes,
                "tuner": row.task.tuner,
                "trials": row.trials,
                "latency_s": row.program.latency.samples,
                "record": row.program.record,
                "out_splits": [asdict(split) for split in row.program.out_splits],
                "in_splits": [asdict(split) for split in row.program.in_splits],
            }
            for row in self.rows
        ]
        head = {
            "format": FORMAT,
            "tvm": tvm.__version__,
            "target": self.target,
            "threads": self.threads,
            "cold_weights": self.cold_weights,
        }
        write_text(path, json.dumps({**head, "rows": rows}, indent=1))

    @staticmethod
    def load(path: Path, same_version: bool = True) -> "TaskTable":
        """Read a table written by ``save``.

        The tasks have no ``tvm_task``, so they cannot be measured.

        Parameters
        ----------
        same_version
            Whether the table must have been made with this version of TVM.

        Raises
        ------
        CPruneError
            If the file is missing or damaged, or was written in another format or by another version of TVM.
        """
        try:
            data = json.loads(path.read_text())
            if data["format"] != FORMAT:
                raise CPruneError(f"{path} has format {data['format']}, expected {FORMAT}: tune again")
            if same_version and data["tvm"] != tvm.__version__:
                raise CPruneError(
                    f"{path} was made with TVM {data['tvm']}, this is {tvm.__version__}: tune again"
                )
            rows = tuple(_parse_row(row) for row in data["rows"])
            return TaskTable(rows, data["target"], data["threads"], data["cold_weights"])
        except OSError as error:
            raise CPruneError(f"cannot read {path}: {error.strerror}") from None
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise CPruneError(f"{path} is not a task table: {error!r}") from None


def _parse_row(data: dict[str, Any]) -> Row:
    task = Task(
        workload_key=data["workload_key"],
        subgraphs=tuple(Subgraph(**{**item, "layers": tuple(item["layers"])}) for item in data["subgraphs"]),
        flops=data["flops"],
        out_axes=tuple(data["out_axes"]),
        in_axes=tuple(data["in_axes"]),
        groups=data["groups"],
        axes=tuple((op, name, extent) for op, name, extent in data["axes"]),
        tuner=data["tuner"],
    )
    record = parse(data["record"])  # raises an error if the record is damaged
    if task.tuner not in ("ansor", "autotvm") or record.line.startswith('{"i"') != (task.tuner == "ansor"):
        raise ValueError(f"tuner {task.tuner!r} with the record {record.line[:40]!r}")
    samples = tuple(float(sample) for sample in data["latency_s"])
    if not samples or not all(0 < sample < math.inf for sample in samples):
        raise ValueError(f"latency_s {data['latency_s']!r}")
    out_splits, in_splits = (
        tuple(_parse_split(split) for split in data[side]) for side in ("out_splits", "in_splits")
    )
    return Row(task, Program(record.line, Latency(samples), out_splits, in_splits), int(data["trials"]))


def _parse_split(data: dict[str, Any]) -> Split:
    return Split(**{**data, "axes": tuple(data["axes"]), "lengths": tuple(data["lengths"])})


def to_program(task: Task, measured: Measured) -> Program:
    """Return the program of a measured record, with its splits along the task's channels.

    Raises
    ------
    CPruneError
        If the program failed when it was measured.
    """
    if measured.latency is None:
        raise CPruneError(f"the program of {task.title} failed when it was measured: {measured.error}")
    out_splits, in_splits = backend_of(task).channel_splits(task, measured.line)
    return Program(measured.line, measured.latency, out_splits, in_splits)


def make_table(
    tasks: Iterable[Task],
    best: Callable[[str], Measured | None],
    target: str,
    threads: int,
    cold_weights: bool,
    strict: bool = True,
) -> TaskTable:
    """Join tasks with their fastest records by workload key.

    Parameters
    ----------
    tasks
        Tasks of the model.
    best
        Returns the fastest record of a workload key, or None.
    target, threads, cold_weights
        Conditions of the measurements; see ``TaskTable``.
    strict
        Whether a task without a record is an error. Otherwise it is omitted.

    Raises
    ------
    CandidateError
        If tasks have no record; the message names all of them.
    """
    records = [(task, best(task.workload_key)) for task in tasks]
    missing = [task.title for task, record in records if record is None]
    if missing and strict:
        raise CandidateError(f"no program was measured for {len(missing)} tasks: {'; '.join(missing)}")
    rows = tuple(Row(task, to_program(task, record)) for task, record in records if record is not None)
    return TaskTable(rows, target, threads, cold_weights)
