# SPDX-License-Identifier: Apache-2.0
"""The decision log: every candidate in a table that can be sorted and filtered."""

from collections.abc import Sequence

from tvm.contrib.cprune.report.charts import SYMBOL_OF, attempt_accuracy, row_id
from tvm.contrib.cprune.report.markup import Element, element, name
from tvm.contrib.cprune.report.numbers import duration, milliseconds
from tvm.contrib.cprune.report.values import VERDICTS, Attempt, RunReport


def decision_log(runs: Sequence[RunReport]) -> Element:
    """Return the controls and the table of all candidates of some runs."""
    heads = [*(["run"] if len(runs) > 1 else []), "#", "verdict", "layers", "channels"]
    heads += ["latency", "accuracy", "time", "reason"]
    numbers = {"#", "latency", "accuracy", "time"}
    head = [
        element(
            "th",
            element("button", text, type="button"),
            scope="col",
            aria_sort="none",
            class_="number" if text in numbers else None,
        )
        for text in heads
    ]
    rows = [_row(run, attempt, len(runs) > 1) for run in runs for attempt in run.attempts]
    table = element(
        "table",
        element("caption", "Candidates and decisions", class_="hidden"),
        element("thead", element("tr", *head)),
        element("tbody", *rows),
        id="log",
    )
    return element("div", _controls(runs), element("div", table, class_="scroll", tabindex="0"), class_="log")


def _controls(runs: Sequence[RunReport]) -> Element:
    attempts = [attempt for run in runs for attempt in run.attempts]
    counts = {verdict: sum(attempt.verdict == verdict for attempt in attempts) for verdict in VERDICTS}
    boxes = [
        element(
            "label",
            element("input", type="checkbox", value=verdict, checked="checked"),
            f" {VERDICTS[verdict]} ({number})",
        )
        for verdict, number in counts.items()
        if number
    ]
    search = element(
        "input", type="search", placeholder="layer or reason", aria_label="Show rows that contain"
    )
    return element(
        "form", search, *boxes, element("output", aria_live="polite"), class_="controls", id="filter"
    )


def _row(run: RunReport, attempt: Attempt, named: bool) -> Element:
    widths = [element("div", *name(root), f" {old}\u00a0→\u00a0{new}") for root, old, new in attempt.widths]
    symbol = element("use", href=f"#symbol-{SYMBOL_OF[attempt.verdict]}")
    color = f"symbol {SYMBOL_OF[attempt.verdict]} {attempt.verdict}"
    picture = element(
        "svg", symbol, viewBox="-9 -9 18 18", width=14, height=14, class_=color, aria_hidden="true"
    )
    return element(
        "tr",
        element("td", run.name) if named else None,
        _cell(str(attempt.iteration), attempt.iteration),
        element("td", picture, VERDICTS[attempt.verdict].removeprefix("rejected: "), class_="verdict"),
        element("td", *name(", ".join(attempt.layers) or attempt.task), class_="layers"),
        element("td", *widths, class_="widths"),
        _cell(milliseconds(attempt.latency_ms), attempt.latency_ms),
        _cell(attempt_accuracy(attempt), attempt.accuracy),
        _cell(duration(attempt.seconds), attempt.seconds),
        element("td", attempt.reason, class_="reason"),
        id=row_id(run, attempt),
        data_verdict=attempt.verdict,
    )


def _cell(text: str, value: float | None) -> Element:
    """Return a number; the table is sorted by ``value``, and rows without one come last."""
    return element("td", text, class_="number", data_value="" if value is None else repr(value))
