# SPDX-License-Identifier: Apache-2.0
"""Tasks whose transplanted program is much slower than their work predicts."""

from dataclasses import dataclass

from tvm.contrib.cprune.table import Row, TaskTable

# A program lags if it runs at less than this fraction of the speed of the layer's program in the donor, ...
SPEED_FRACTION = 0.6
# ... unless its task is a small part of the model, or so short that fixed costs dominate (in seconds).
MIN_SHARE, MIN_LATENCY = 0.03, 50e-6


@dataclass(frozen=True)
class SpeedChange:
    """The speed of a layer's program before and after pruning, in GFLOP/s."""

    layers: tuple[str, ...]
    before: float
    after: float


def lagging_rows(table: TaskTable, donor: TaskTable) -> list[Row]:
    """Return the rows of ``table`` whose programs are much slower than those of the same layers in ``donor``.

    Speeds are only compared between programs of the same algorithm.
    """
    total = table.predicted
    return [
        row
        for row in table.rows
        if row.impact > MIN_SHARE * total
        and row.program.latency.median > MIN_LATENCY
        and row.speed < SPEED_FRACTION * _donor_speed(row, donor)
    ]


def speed_losses(table: TaskTable, donor: TaskTable) -> list[SpeedChange]:
    """Return the layers of ``lagging_rows`` with their speeds, for the summary of a run."""
    return [
        SpeedChange(row.task.layers, _donor_speed(row, donor) / 1e9, row.speed / 1e9)
        for row in lagging_rows(table, donor)
    ]


def _donor_speed(row: Row, donor: TaskTable) -> float:
    """Return the highest speed of the donor's programs for the row's layers, 0 if there is none."""
    algorithm = row.task.subgraphs[0].algorithm
    return max(
        (
            other.speed
            for layer in row.task.layers
            for other in donor.of_layer(layer)
            if other.task.subgraphs[0].algorithm == algorithm
        ),
        default=0.0,
    )
