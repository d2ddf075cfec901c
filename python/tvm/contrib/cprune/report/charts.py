# SPDX-License-Identifier: Apache-2.0
"""The charts of a report: accuracy against latency, and latency by iteration."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from tvm.contrib.cprune.report.axes import Axis, make_axis, pareto_front, staircase
from tvm.contrib.cprune.report.markup import Element, element
from tvm.contrib.cprune.report.numbers import accuracies, accuracy, milliseconds
from tvm.contrib.cprune.report.plot import Key, Line, Mark, legend, plot
from tvm.contrib.cprune.report.values import VERDICTS, Attempt, RunReport, Side

SYMBOL_OF = {
    "accepted": "circle",
    "accuracy": "triangle",
    "latency": "cross",
    "impossible": "square",
    "measured": "square",
}
# Latencies beyond this multiple of those of interest do not extend an axis.
OUTLIER = 1.3
# Number of colors for runs or methods in ``page.css``.
COLORS = 6


@dataclass(frozen=True)
class Series:
    """Models made by one run or one method.

    Attributes
    ----------
    name, color : str
        Its entry in the legend, and a class that ``page.css`` gives a color.
    marks : tuple of Mark
        Latency in ms and accuracy in [0, 1] of each model.
    """

    name: str
    color: str
    marks: tuple[Mark, ...]


def accuracy_latency(title: str, series: Sequence[Series], keys: Sequence[Key], axis: str) -> Element:
    """Return a plot of accuracy against latency, with the Pareto front of each series.

    Parameters
    ----------
    keys
        Entries of the legend besides those of the series, which are listed if there is more than one.
    axis
        Title of the vertical axis.
    """
    marks = [mark for one in series for mark in one.marks]
    x = make_axis("latency (ms)", _without_outliers(marks))
    y = make_axis(axis, [mark.y for mark in marks if mark.y is not None], count=9)
    fronts = [pareto_front((mark.x, mark.y) for mark in one.marks if mark.y is not None) for one in series]
    lines = [Line(staircase(front), one.color) for one, front in zip(series, fronts, strict=True)]
    keys = [*keys, *_beyond([mark.x for mark in marks], x, "beyond-right")]
    if len(series) == 1:
        listed = [*keys, Key("Pareto front", series[0].color)]
    else:
        listed = [*keys, *(Key(f"Pareto front of {one.name}", one.color) for one in series)]
    return element("figure", legend(listed), plot(title, x, y, marks, lines))


def _without_outliers(marks: Sequence[Mark]) -> list[float]:
    """Return the latencies without those of models of unknown accuracy far beyond the others."""
    limit = OUTLIER * max((mark.x for mark in marks if mark.y is not None), default=math.inf)
    return [mark.x for mark in marks if mark.x <= limit]


def _beyond(values: Sequence[float], axis: Axis, symbol: str) -> list[Key]:
    """Return the legend of the arrows, if there are any."""
    return [Key("beyond the axis", "neutral", symbol)] if max(values) > axis.high else []


def run_series(run: RunReport, color: str | None = None) -> Series:
    """Return the candidates of a run that were timed, its unpruned model, and its final one.

    Parameters
    ----------
    color
        Color of all marks; by default, the verdict decides.
    """
    prefix = f"{run.name}\n" if color else ""
    marks = [
        Mark(
            attempt.latency_ms,
            attempt.accuracy,
            SYMBOL_OF[attempt.verdict],
            color or attempt.verdict,
            prefix + attempt_text(attempt),
            row_id(run, attempt),
        )
        # Accepted candidates are drawn last, on top of the others.
        for attempt in sorted(run.attempts, key=lambda attempt: attempt.accepted)
        if attempt.latency_ms is not None
    ]
    marks.append(_side_mark(run.start, "diamond", color or "unpruned", f"{prefix}Unpruned model"))
    if run.finished and run.after is not None:
        marks.append(
            _side_mark(run.after, "star", color or "final", f"{prefix}Final model, trained and tuned")
        )
    return Series(run.name, color or "accepted", tuple(marks))


def verdict_keys(runs: Sequence[RunReport], color: str | None = None) -> list[Key]:
    """Return the legend of the symbols that the runs' marks have; color None colors them by verdict."""
    timed = {attempt.verdict for run in runs for attempt in run.attempts if attempt.latency_ms is not None}
    keys = [Key("unpruned", color or "unpruned", "diamond")]
    keys += [Key(VERDICTS[v], color or v, SYMBOL_OF[v]) for v in VERDICTS if v in timed]
    if any(run.finished for run in runs):
        keys.append(Key("final model", color or "final", "star"))
    return keys


def latency_by_iteration(run: RunReport) -> Element:
    """Return a plot of every timed candidate's latency, with a line through the accepted ones."""
    marks = [Mark(0, run.start.latency_ms, "diamond", "unpruned", side_text("Unpruned model", run.start))]
    marks += [
        Mark(
            attempt.iteration,
            attempt.latency_ms,
            SYMBOL_OF[attempt.verdict],
            attempt.verdict,
            attempt_text(attempt),
            row_id(run, attempt),
        )
        for attempt in run.attempts
        if attempt.latency_ms is not None
    ]
    steps = [
        (mark.x, mark.y) for mark in marks if mark.color in ("unpruned", "accepted") and mark.y is not None
    ]
    last = max([1, *(attempt.iteration for attempt in run.attempts)])
    x = make_axis("iteration", [0, last], zero=True, count=min(last + 1, 8))
    limit = OUTLIER * max(latency for _, latency in steps)
    y = make_axis(
        "latency (ms)", [mark.y for mark in marks if mark.y is not None and mark.y <= limit], zero=True
    )
    line = Line(staircase([*steps, (last, steps[-1][1])]), "accepted")
    keys = [key for key in verdict_keys([run]) if key.symbol != "star"]
    keys += _beyond([mark.y for mark in marks if mark.y is not None], y, "beyond-top")
    title = "Latency of the candidates by iteration"
    return element(
        "figure", legend([*keys, Key("last accepted", "accepted")]), plot(title, x, y, marks, [line])
    )


def row_id(run: RunReport, attempt: Attempt) -> str:
    """Return the identifier of a candidate's row in the decision log."""
    return f"{run.name}-{attempt.iteration}"


def attempt_text(attempt: Attempt) -> str:
    """Return the description of a candidate, as lines."""
    lines = [
        f"Iteration {attempt.iteration}: {VERDICTS[attempt.verdict]}",
        f"Layers: {', '.join(attempt.layers) or attempt.task}",
        *(f"{root}: {old} → {new} channels" for root, old, new in attempt.widths),
        f"{milliseconds(attempt.latency_ms)}, accuracy {attempt_accuracy(attempt)}",
        attempt.reason,
    ]
    return "\n".join(lines)


def attempt_accuracy(attempt: Attempt) -> str:
    """Return the accuracy of a candidate, or what is known about it."""
    if attempt.accuracy is None and attempt.accuracy_part is not None:
        return accuracies(attempt.accuracy_part)
    if attempt.accuracy is None and attempt.accuracy_untrained is not None:
        return f"{accuracies(attempt.accuracy_untrained)} before training"
    return accuracy(attempt.accuracy)


def side_text(title: str, side: Side) -> str:
    """Return the description of a model, as lines."""
    latency = f"{milliseconds(side.latency_ms)} (± {milliseconds(side.spread_ms)})"
    return f"{title}\n{latency}, accuracy {accuracy(side.accuracy_val)}"


def _side_mark(side: Side, symbol: str, color: str, title: str) -> Mark:
    return Mark(side.latency_ms, side.accuracy_val, symbol, color, side_text(title, side))
