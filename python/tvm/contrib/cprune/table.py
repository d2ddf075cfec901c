# SPDX-License-Identifier: Apache-2.0
"""The task table: task <-> subgraphs <-> fastest program, and its impact on the model's latency."""

import json
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import tvm
from tvm.contrib.cprune.files import write_text
from tvm.contrib.cprune.measuring.records import Measured, parse
from tvm.contrib.cprune.tuning.backends import backend_of
from tvm.contrib.cprune.types import CPruneError, Latency, Program, Split, Subgraph, Task, TunerName

FORMAT = 3


@dataclass(frozen=True)
class Row:
    """A task and its fastest program."""

    task: Task
    program: Program

    @property
    def impact(self) -> float:
        """Seconds that the task takes of one inference."""
        return self.program.latency.median * self.task.weight

    @property
    def speed(self) -> float:
        """Operations a second."""
        return self.task.flops / self.program.latency.median


@dataclass(frozen=True)
class TaskTable:
    """All tasks of a model on one target.

    A latency belongs to a target, a number of threads and cold or warm weights; the table says which.
    """

    rows: tuple[Row, ...]
    target: str
    threads: int
    cold_weights: bool

    def by_impact(self) -> list[Row]:
        """Return the rows, the task that costs most first (Algorithm 1, line 4)."""
        return sorted(self.rows, key=lambda row: row.impact, reverse=True)

    def of_layer(self, layer: str) -> list[Row]:
        """Return the rows of the tasks that a layer's subgraphs belong to."""
        return [row for row in self.rows if layer in row.task.layers]

    @property
    def tuner(self) -> TunerName:
        """Which tuner the programs come from."""
        return self.rows[0].task.tuner if self.rows else "ansor"

    @property
    def predicted(self) -> float:
        """Seconds of one inference, if nothing but tasks took time."""
        return sum(row.impact for row in self.rows)

    def save(self, path: Path) -> None:
        """Write the table as JSON; the file is replaced as a whole."""
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
    def load(path: Path) -> "TaskTable":
        """Read what ``save`` wrote. The tasks come without what TVM needs to measure them (``tvm_task``).

        Raises
        ------
        CPruneError
            If the file is missing, damaged, of another format, or was made with another TVM.
        """
        try:
            data = json.loads(path.read_text())
            if data["format"] != FORMAT:
                raise CPruneError(f"{path} has format {data['format']}, expected {FORMAT}")
            if data["tvm"] != tvm.__version__:
                raise CPruneError(
                    f"{path} was made with TVM {data['tvm']}, this is {tvm.__version__}: tune again"
                )
            rows = tuple(_row(each) for each in data["rows"])
            return TaskTable(rows, data["target"], data["threads"], data["cold_weights"])
        except OSError as error:
            raise CPruneError(f"cannot read {path}: {error.strerror}") from None
        except (ValueError, KeyError, TypeError) as error:
            raise CPruneError(f"{path} is not a task table: {error!r}") from None


def _row(data: dict[str, Any]) -> Row:
    subgraphs = tuple(Subgraph(**{**each, "layers": tuple(each["layers"])}) for each in data["subgraphs"])
    axes = {name: tuple(data[name]) for name in ("out_axes", "in_axes")}
    every = tuple((op, name, extent) for op, name, extent in data["axes"])
    task = Task(
        data["workload_key"],
        subgraphs,
        data["flops"],
        **axes,
        groups=data["groups"],
        axes=every,
        tuner=data["tuner"],
    )
    parse(data["record"])
    splits = [tuple(_split(each) for each in data[side]) for side in ("out_splits", "in_splits")]
    return Row(task, Program(data["record"], Latency(tuple(data["latency_s"])), *splits))


def _split(data: dict[str, Any]) -> Split:
    return Split(**{**data, "axes": tuple(data["axes"]), "lengths": tuple(data["lengths"])})


def to_program(task: Task, measured: Measured) -> Program:
    """Return a measured record as the task's program, with the splits along its channels."""
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
    """Join tasks with the fastest record of their workload keys.

    Parameters
    ----------
    strict
        Whether a task without a record is an error; otherwise it is left out.

    Raises
    ------
    CPruneError
        If a task has no valid record; the message names all of them.
    """
    found = [(task, best(task.workload_key)) for task in tasks]
    missing = [task.title for task, measured in found if measured is None]
    if missing and strict:
        raise CPruneError(f"no program was measured for {len(missing)} tasks: {'; '.join(missing)}")
    rows = tuple(Row(task, to_program(task, measured)) for task, measured in found if measured is not None)
    return TaskTable(rows, target, threads, cold_weights)
