# SPDX-License-Identifier: Apache-2.0
"""Latency of a layer at many widths, measured by transplanting its program to each of them.

The latency is a staircase. At widths that fit the program, only the outermost loop becomes shorter. At other
widths, tile factors must change, and the layer may run slower than a wider one.
"""

import json
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

from tvm.contrib.cprune.measuring.measurer import Measurer
from tvm.contrib.cprune.measuring.records import RecordLog
from tvm.contrib.cprune.table import Row, TaskTable
from tvm.contrib.cprune.tuning.backends import backend_of
from tvm.contrib.cprune.tuning.rescale import at_width, width_of
from tvm.contrib.cprune.types import CPruneError, Latency, Side, Task, TransplantError

# Widths whose programs are built and measured together.
WIDTHS_PER_BATCH = 8


@dataclass(frozen=True)
class WidthLatency:
    """Latency of a layer at one width.

    Attributes
    ----------
    width : int
        Number of channels.
    latency : Latency, optional
        Latency of the fastest transplant; None if no transplant is valid.
    fits : bool
        Whether the width fits the program, so that all inner lengths stay the same.
    trials : int
        Number of transplants for this width.
    error : str
        Reason why no transplant is valid.
    """

    width: int
    latency: Latency | None
    fits: bool
    trials: int
    error: str = ""


def profile_widths(
    table: TaskTable,
    layer: str,
    measurer: Measurer,
    log: RecordLog,
    side: Side = "out",
    widths: Iterable[int] | None = None,
    variants: int = 3,
    report: Callable[[WidthLatency], None] = lambda _: None,
) -> list[WidthLatency]:
    """Measure a layer's program at other widths by transplants, without a search.

    Parameters
    ----------
    table
        A task table whose tasks come from ``extract_from_program``, not from a file.
    layer
        Name of the layer. If it has several tasks, the first is profiled.
    measurer
        Builds and times the programs.
    log
        Receives the records. Programs that it already holds are not measured again. Pass its file to
        ``CPruner`` as ``profile`` to reuse the measurements for pruning.
    side
        Whether the number of output or input channels varies.
    widths
        Widths to measure; by default, all from 1 to the current width.
    variants
        Maximum number of programs per width if tile factors must change.
    report
        Called with each result.

    Returns
    -------
    One result per width, in ascending order.

    Raises
    ------
    CPruneError
        If the table has no such layer, or its width cannot be changed.
    """
    rows = table.of_layer(layer)
    if not rows:
        layers = sorted({name for row in table.rows for name in row.task.layers})
        raise CPruneError(f"the table has no layer {layer!r}; it has {', '.join(layers)}")
    row = rows[0]
    ordered = sorted(set(range(1, width_of(row.task, side) + 1) if widths is None else widths))
    at_width(row.task, ordered[0], side)  # raises an error before anything is measured
    profile = []
    for start in range(0, len(ordered), WIDTHS_PER_BATCH):
        batch = ordered[start : start + WIDTHS_PER_BATCH]
        for result in _measure(row, side, batch, variants, measurer, log):
            profile.append(result)
            report(result)
    return profile


def _measure(
    row: Row, side: Side, widths: list[int], variants: int, measurer: Measurer, log: RecordLog
) -> list[WidthLatency]:
    tasks = {width: at_width(row.task, width, side) for width in widths}
    inputs: dict[int, list[Any]] = {}
    errors: dict[int, str] = {}
    for width, task in tasks.items():
        try:
            inputs[width] = backend_of(row.task).transplant(row.program.record, row.task, task, variants)
        except TransplantError as error:
            inputs[width], errors[width] = [], str(error)
    measurer.measure_new([measure_input for batch in inputs.values() for measure_input in batch], log)
    return [
        _result(row, tasks[width], width, len(inputs[width]), errors.get(width, ""), log) for width in widths
    ]


def _result(row: Row, task: Task, width: int, trials: int, error: str, log: RecordLog) -> WidthLatency:
    best = log.best(task.workload_key)
    latency = best.latency if best else None
    if error or latency is None:
        first_failure = next((record.error for record in log.of(task.workload_key)), "")
        return WidthLatency(width, latency, False, trials, error or first_failure)
    fits = backend_of(row.task).keeps_inner_loops(row.program.record, row.task, task)
    return WidthLatency(width, latency, fits, trials)


def to_csv(profile: Iterable[WidthLatency]) -> str:
    """Return a profile as comma-separated values with a header, latencies in microseconds."""
    lines = ["width,latency_us,spread_us,fits,trials,error"]
    for result in profile:
        latency = spread = ""
        if result.latency:
            latency, spread = f"{result.latency.median * 1e6:.2f}", f"{result.latency.spread * 1e6:.2f}"
        error = json.dumps(result.error) if result.error else ""
        lines.append(f"{result.width},{latency},{spread},{int(result.fits)},{result.trials},{error}")
    return "\n".join(lines) + "\n"
