# SPDX-License-Identifier: Apache-2.0
"""The latency staircase of a layer: its program moved to every width, and measured.

Between two steps the program keeps its inner loops and only its outermost loop gets shorter; a step is where
its structure breaks.
"""

import json
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

from tvm.contrib.cprune.measuring.measurer import Measurer
from tvm.contrib.cprune.measuring.records import RecordLog
from tvm.contrib.cprune.table import Row, TaskTable
from tvm.contrib.cprune.tuning.ansor.transplant import TransplantError
from tvm.contrib.cprune.tuning.backends import backend_of
from tvm.contrib.cprune.tuning.rescale import at_width, width_of
from tvm.contrib.cprune.types import CPruneError, Latency, Side, Task

# Widths that are built and measured together.
BATCH = 8


@dataclass(frozen=True)
class WidthLatency:
    """What a layer takes at one width: ``latency`` is None where no moved program is valid."""

    width: int
    latency: Latency | None
    fits: bool
    trials: int
    error: str = ""


def profile_widths(
    table: TaskTable,
    layer: str,
    pool: Measurer,
    log: RecordLog,
    side: Side = "out",
    widths: Iterable[int] | None = None,
    variants: int = 3,
    report: Callable[[WidthLatency], None] = lambda _: None,
) -> list[WidthLatency]:
    """Measure the program of a layer at other widths, by transplants alone.

    Parameters
    ----------
    table
        Its tasks come from ``extract_from_program``, not from a file.
    log
        Takes the records; programs that it holds are not measured again. Give it to ``CPruner`` as its
        profile to prune by these measurements.
    side
        Whether the layer's output or input channels change.
    widths
        By default all from 1 to the present width.
    variants
        Programs to try at a width where tile factors must change: 1 to 3.
    report
        Is told each width when it was measured.

    Raises
    ------
    CPruneError
        If the table has no such layer, or its width cannot be changed.
    """
    rows = table.of_layer(layer)
    if not rows:
        known = sorted({name for row in table.rows for name in row.task.layers})
        raise CPruneError(f"the table has no layer {layer!r}; it has {', '.join(known)}")
    row, found = rows[0], []
    every = sorted(set(range(1, width_of(row.task, side) + 1) if widths is None else widths))
    at_width(row.task, every[0], side)
    for start in range(0, len(every), BATCH):
        for each in _measure(row, side, every[start : start + BATCH], variants, pool, log):
            found.append(each)
            report(each)
    return found


def _measure(
    row: Row, side: Side, widths: list[int], variants: int, pool: Measurer, log: RecordLog
) -> list[WidthLatency]:
    tasks = {width: at_width(row.task, width, side) for width in widths}
    inputs: dict[int, list[Any]] = {}
    errors: dict[int, str] = {}
    for width, task in tasks.items():
        try:
            inputs[width] = backend_of(row.task).transplant(row.program.record, row.task, task, variants)
        except TransplantError as error:
            inputs[width], errors[width] = [], str(error)
    pool.measure_new([each for found in inputs.values() for each in found], log)
    return [_result(row, tasks[w], w, len(inputs[w]), errors.get(w, ""), log) for w in widths]


def _result(row: Row, task: Task, width: int, trials: int, error: str, log: RecordLog) -> WidthLatency:
    best = log.best(task.workload_key)
    latency = best.latency if best else None
    if error or latency is None:
        failed = next((each.error for each in log.of(task.workload_key)), "")
        return WidthLatency(width, latency, False, trials, error or failed)
    return WidthLatency(width, latency, backend_of(row.task).fits(row.program.record, row.task, task), trials)


def to_csv(profile: Iterable[WidthLatency]) -> str:
    """Return a profile as comma-separated lines, latencies in microseconds."""
    lines = ["width,latency_us,spread_us,fits,trials,error"]
    for each in profile:
        numbers = ("", "")
        if each.latency:
            numbers = (f"{each.latency.median * 1e6:.2f}", f"{each.latency.spread * 1e6:.2f}")
        cells = [
            each.width,
            *numbers,
            int(each.fits),
            each.trials,
            json.dumps(each.error) if each.error else "",
        ]
        lines.append(",".join(str(cell) for cell in cells))
    return "\n".join(lines) + "\n"
