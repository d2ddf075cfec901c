# SPDX-License-Identifier: Apache-2.0
"""Rows, tables and plots of ``methods.py``."""

from collections.abc import Iterable, Sequence
from typing import NamedTuple

from common import latency_at, median
from tvm.contrib.cprune.report.charts import Series, accuracy_latency
from tvm.contrib.cprune.report.markup import Element
from tvm.contrib.cprune.report.page import section
from tvm.contrib.cprune.report.plot import Mark

# Methods of this project. All rows are compared with each of them.
OWN_METHODS = ("knapsack", "progressive", "cprune")


class Row(NamedTuple):
    """A pruned network.

    ``tvm`` and ``onnx_runtime`` are latencies over that of the unpruned network in ONNX Runtime, which takes
    ``reference_ms``; each is followed by its spread. ``speedup`` is the latency of the unpruned network in
    TVM over that of the pruned one, as the run measured it. Trials and seconds are those after the first
    tuning; epochs are those of all trainings of candidates and of the pruned network.
    """

    method: str
    strength: str
    macs: float
    accuracy: float
    tvm: float
    tvm_spread: float
    onnx_runtime: float
    onnx_runtime_spread: float
    reference_ms: float
    speedup: float
    trials: int
    seconds: float
    epochs: float


def methods_of(rows: Iterable[Row]) -> list[str]:
    """Return the methods that have rows, in their order."""
    return list(dict.fromkeys(row.method for row in rows))


def table(rows: Sequence[Row]) -> str:
    """Return all rows as a table in Markdown."""
    columns = [name.replace("_", " ") for name in Row._fields]
    lines = [f"| {' | '.join(columns)} |", f"|{'---|' * len(columns)}"]
    for row in rows:
        cells = [f"{value:.4f}" if isinstance(value, float) else str(value) for value in row]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def latency_over(row: Row, runtime: str, method: str, rows: Iterable[Row]) -> float | None:
    """Return a row's latency in a runtime over that of a method in TVM at the row's accuracy.

    None means that no row of the method is as accurate. The latency of the method is interpolated between
    its rows, without the unpruned network, which would be far from them. For a row that is less accurate than
    all of them, it is that of the fastest one.
    """
    latency = latency_at(
        row.accuracy, [(other.accuracy, other.tvm) for other in rows if other.method == method]
    )
    return None if latency is None else float(getattr(row, runtime)) / latency


def equal_accuracy_table(rows: Sequence[Row]) -> str:
    """Return a table in Markdown that compares each row with this project's methods, "" if they have no row.

    A cell has two ratios: the row's latency in TVM and in ONNX Runtime over that of a method in TVM at the
    same accuracy.
    """
    methods = [method for method in methods_of(rows) if method in OWN_METHODS]
    if not methods:
        return ""
    lines = [
        f"| method | strength | accuracy | {' | '.join(f'over {method}' for method in methods)} |",
        f"|{'---|' * (3 + len(methods))}",
    ]
    for row in rows:
        cells = []
        for method in methods:
            found = [latency_over(row, runtime, method, rows) for runtime in ("tvm", "onnx_runtime")]
            cells.append(", ".join("-" if ratio is None else f"{ratio:.2f}" for ratio in found))
        lines.append(f"| {row.method} | {row.strength} | {row.accuracy:.4f} | {' | '.join(cells)} |")
    return "\n".join(lines)


def page_section(network: str, dataset: str, rows: Sequence[Row]) -> Element:
    """Return the plot of a network as a section of a page: one series for each method."""
    reference, series = median([row.reference_ms for row in rows]), []
    for number, method in enumerate(methods_of(rows)):
        marks = []
        for row in (row for row in rows if row.method == method):
            latency = row.tvm * reference
            text = f"{method}, {row.strength}\n{latency:.3f} ms, accuracy {row.accuracy:.4f}"
            marks.append(Mark(latency, row.accuracy, "circle", f"run-{number}", text))
        series.append(Series(method, f"run-{number}", tuple(marks)))
    text = f"Accuracy on {dataset} and latency in TVM of {network} pruned by each method."
    return section(
        network, text, accuracy_latency(f"{network}: accuracy and latency", series, [], "accuracy")
    )
