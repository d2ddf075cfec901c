# SPDX-License-Identifier: Apache-2.0
"""The report of several runs."""

from collections.abc import Sequence

from tvm.contrib.cprune.report.charts import COLORS, accuracy_latency, run_series, verdict_keys
from tvm.contrib.cprune.report.headline import title_of
from tvm.contrib.cprune.report.log import decision_log
from tvm.contrib.cprune.report.markup import Element, element
from tvm.contrib.cprune.report.numbers import MISSING, accuracy, count, milliseconds
from tvm.contrib.cprune.report.page import document, section
from tvm.contrib.cprune.report.run_page import untimed_note
from tvm.contrib.cprune.report.values import RunReport, Side


def comparison_page(runs: Sequence[RunReport]) -> str:
    """Return the page that compares some runs."""
    series = [run_series(run, f"run-{number % COLORS}") for number, run in enumerate(runs)]
    title = "Validation accuracy against latency of all candidates of all runs"
    keys = verdict_keys(runs, color="neutral")
    text = (
        "Every candidate that was timed; up and to the left is better. The color is the run, the symbol the "
        "verdict." + untimed_note(list(runs))
    )
    return document(
        f"CPrune: comparison of {len(runs)} runs",
        element(
            "header",
            element("p", "CPrune report", class_="kicker"),
            element("h1", f"Comparison of {len(runs)} runs"),
            *(element("p", note, class_="note") for note in _notes(runs)),
            _headlines(runs),
        ),
        section(
            "Accuracy against latency", text, accuracy_latency(title, series, keys, "validation accuracy")
        ),
        section(
            "Decision log",
            "Select a heading to sort. Hidden rows are faded in the chart.",
            decision_log(runs),
        ),
    )


def _notes(runs: Sequence[RunReport]) -> list[str]:
    conditions: dict[str, set[object]] = {
        "targets": {run.target for run in runs},
        "devices": {run.device for run in runs},
        "numbers of threads": {run.threads for run in runs},
        "networks or data sets": {title_of(run) for run in runs},
    }
    different = [name for name, values in conditions.items() if len(values) > 1]
    notes = [f"Compare with care: the runs have different {' and '.join(different)}."]
    own = [f"{run.name}: {note}" for run in runs for note in run.notes]
    return [*(notes if different else []), *own]


def _headlines(runs: Sequence[RunReport]) -> Element:
    heads = ["run", "network", "method", "speedup", "latency", "validation accuracy", "test accuracy", "MACs"]
    heads += ["parameters", "accepted", "end"]
    head = element("tr", *(element("th", text, scope="col") for text in heads))
    rows = [_headline(run, f"run-{number % COLORS}") for number, run in enumerate(runs)]
    table = element("table", element("thead", head), element("tbody", *rows), id="headlines")
    return element("div", table, class_="scroll", tabindex="0")


def _headline(run: RunReport, color: str) -> Element:
    before, after = run.before, run.after or Side(run.before.latency_ms, 0.0, run.before.accuracy_val)
    pairs = [
        (milliseconds(before.latency_ms), milliseconds(after.latency_ms)),
        (accuracy(before.accuracy_val), accuracy(after.accuracy_val)),
        (accuracy(before.accuracy_test), accuracy(after.accuracy_test)),
        (count(before.macs), count(after.macs)),
        (count(before.params), count(after.params)),
    ]
    end = run.stopped or "not finished"
    return element(
        "tr",
        element("th", element("i", class_=f"swatch {color}", aria_hidden="true"), run.name, scope="row"),
        element("td", title_of(run), element("small", element("code", run.target))),
        element("td", run.method),
        element("td", f"{run.speedup:.2f}×" if run.speedup else MISSING, class_="number"),
        *(_pair(old, new) for old, new in pairs),
        element("td", f"{len(run.accepted)} of {len(run.attempts)}", class_="number"),
        element("td", end, class_="reason"),
    )


def _pair(before: str, after: str) -> Element:
    """Return a value of the pruned model, and below it that of the unpruned one."""
    return element(
        "td", after, element("small", f"before: {before}") if before != MISSING else None, class_="number"
    )
