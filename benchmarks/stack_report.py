# SPDX-License-Identifier: Apache-2.0
"""Rows of ``stack.py``: their speedups and elbows, as a table and as plots."""

from collections.abc import Iterable, Sequence
from typing import NamedTuple

from stack_programs import ALGORITHMS, TUNING
from tvm.contrib.cprune.report.axes import make_axis
from tvm.contrib.cprune.report.charts import Series, accuracy_latency
from tvm.contrib.cprune.report.markup import Element, element
from tvm.contrib.cprune.report.page import document, section
from tvm.contrib.cprune.report.plot import Key, Line, Mark, legend, plot


class Row(NamedTuple):
    """A level of a network, compiled with one algorithm and timed with a number of threads.

    ``milliseconds`` is the median and ``spread`` half the interquartile range; ``unpruned`` is the median of
    the unpruned network, whose runs took turns with these. ``actual`` is the ratio of the two medians and
    ``expected`` that of the multiply-accumulates.
    """

    network: str
    percent: int
    algorithm: str
    tuning: str
    threads: int
    accuracy: float
    milliseconds: float
    spread: float
    unpruned: float
    actual: float
    expected: float


class Curve(NamedTuple):
    """What the rows of a curve have in common."""

    network: str
    threads: int
    tuning: str
    algorithm: str


def expected_speedup(unpruned_macs: int, macs: int) -> float:
    """Return how many times as fast a network would be if latency followed the multiply-accumulates."""
    return unpruned_macs / macs


def elbow(points: Sequence[tuple[int, float, float]]) -> int | None:
    """Return the level after which accuracy falls faster than latency.

    This is the knee of Kneedle (Satopaa et al., 2011) without smoothing: the losses of latency and of
    accuracy are scaled to [0, 1], and the knee is the point farthest above the chord between the first point
    and the last one. There, the slope passes that of the chord.

    Parameters
    ----------
    points
        Percentage of channels removed, latency in any unit, and accuracy, in ascending order of the first.

    Returns
    -------
    The percentage, or None if no point is above the chord.
    """
    if len(points) < 3:
        return None
    (_, slowest, best), (_, fastest, worst) = points[0], points[-1]
    if slowest <= fastest or best <= worst:
        return None

    def above(point: tuple[int, float, float]) -> float:
        _, latency, accuracy = point
        return (slowest - latency) / (slowest - fastest) - (best - accuracy) / (best - worst)

    knee = max(points[1:-1], key=above)
    return knee[0] if above(knee) > 0 else None


def curves(rows: Iterable[Row]) -> dict[Curve, list[Row]]:
    """Return the rows of each curve by level, in the order of threads, tuning and algorithms."""
    found: dict[Curve, list[Row]] = {}
    for row in rows:
        found.setdefault(Curve(row.network, row.threads, row.tuning, row.algorithm), []).append(row)
    names = list(ALGORITHMS)
    order = sorted(
        found, key=lambda c: (c.network, c.threads, TUNING.index(c.tuning), names.index(c.algorithm))
    )
    return {curve: sorted(found[curve], key=lambda row: row.percent) for curve in order}


def elbow_of(rows: Iterable[Row]) -> int | None:
    """Return the elbow of a curve. Its latencies are shares of the unpruned network's in the same session."""
    return elbow([(row.percent, 1 / row.actual, row.accuracy) for row in rows])


def table(rows: Sequence[Row]) -> str:
    """Return the rows of one network in Markdown: latencies and actual speedups by level, and elbows."""
    by_percent = {row.percent: row for row in sorted(rows, key=lambda row: row.percent)}
    head = ["threads", "programs", "algorithm", *(f"{percent} %" for percent in by_percent), "elbow"]
    lines = [f"| {' | '.join(head)} |", f"|{'---|' * len(head)}"]

    def add(*cells: object) -> None:
        lines.append(f"| {' | '.join(str(cell) for cell in cells)} |")

    by_macs = elbow([(row.percent, 1 / row.expected, row.accuracy) for row in by_percent.values()])
    add("", "", "test accuracy", *(f"{row.accuracy:.3f}" for row in by_percent.values()), "")
    expected = (f"{row.expected:.1f}" for row in by_percent.values())
    add("", "", "expected speedup", *expected, _percent(by_macs))
    for curve, own in curves(rows).items():
        cells = {row.percent: f"{row.milliseconds:.3f} ms, {row.actual:.1f}" for row in own}
        values = [cells.get(percent, "-") for percent in by_percent]
        add(curve.threads, curve.tuning, curve.algorithm, *values, _percent(elbow_of(own)))
    return "\n".join(lines)


def _percent(level: int | None) -> str:
    return "-" if level is None else f"{level} %"


def page(rows: Sequence[Row]) -> str:
    """Return an HTML page with the plots of all networks."""
    sections = []
    for network in dict.fromkeys(row.network for row in rows):
        for threads in sorted({row.threads for row in rows if row.network == network}):
            own = [row for row in rows if (row.network, row.threads) == (network, threads)]
            text = "Stars mark the elbows: from there, accuracy falls faster than latency."
            charts = [_accuracy(own, tuning) for tuning in TUNING if any(r.tuning == tuning for r in own)]
            title = f"{network}, {threads} thread{'s' if threads > 1 else ''}"
            sections.append(section(title, text, *charts, _shares(own)))
    return document("Across the stack", *sections)


def _accuracy(rows: Sequence[Row], tuning: str) -> Element:
    """Return accuracy against latency, with a series for each algorithm."""
    series = []
    for curve, own in curves(row for row in rows if row.tuning == tuning).items():
        knee, color = elbow_of(own), _color(curve)
        marks = [Mark(row.milliseconds, row.accuracy, _symbol(row, knee), color, _text(row)) for row in own]
        series.append(Series(curve.algorithm, color, tuple(marks)))
    keys = [Key("elbow", "neutral", "star")]
    chart = accuracy_latency(f"{tuning}: accuracy and latency", series, keys, "test accuracy")
    return element("div", element("h3", f"Accuracy and latency, {tuning} programs"), chart)


def _shares(rows: Sequence[Row]) -> Element:
    """Return the share of the latency that remains at each level, with that of the multiply-accumulates."""
    marks, lines, keys = [], [], [Key("expected", "neutral")]
    expected = dict(sorted((row.percent, 1 / row.expected) for row in rows))
    lines.append(Line(tuple(expected.items()), "neutral"))
    for curve, own in curves(rows).items():
        color = _color(curve)
        points = [(float(row.percent), 1 / row.actual) for row in own]
        marks += [Mark(*point, "circle", color, _text(row)) for point, row in zip(points, own, strict=True)]
        lines.append(Line(tuple(points), color))
        keys.append(Key(f"{curve.algorithm}, {curve.tuning}", color, "circle"))
    x = make_axis("channels removed (%)", [row.percent for row in rows], zero=True)
    y = make_axis("share of the unpruned latency", [mark.y for mark in marks if mark.y], zero=True)
    title = "Actual and expected latency by level"
    return element(
        "div", element("h3", title), element("figure", legend(keys), plot(title, x, y, marks, lines))
    )


def _color(curve: Curve) -> str:
    return f"run-{2 * list(ALGORITHMS).index(curve.algorithm) + TUNING.index(curve.tuning)}"


def _symbol(row: Row, knee: int | None) -> str:
    return "star" if row.percent == knee else "circle"


def _text(row: Row) -> str:
    return (
        f"{row.algorithm}, {row.tuning}, {row.percent} % of the channels removed\n"
        f"{row.milliseconds:.3f} ms, accuracy {row.accuracy:.4f}\n"
        f"{row.actual:.2f} times as fast, expected {row.expected:.2f}"
    )
