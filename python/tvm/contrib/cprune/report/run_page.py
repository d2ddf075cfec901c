# SPDX-License-Identifier: Apache-2.0
"""The report of one run."""

from tvm.contrib.cprune.report.bars import seconds_table, tasks_table, widths_table
from tvm.contrib.cprune.report.charts import accuracy_latency, latency_by_iteration, run_series, verdict_keys
from tvm.contrib.cprune.report.headline import headline, title_of
from tvm.contrib.cprune.report.log import decision_log
from tvm.contrib.cprune.report.markup import Element, element
from tvm.contrib.cprune.report.page import document, section
from tvm.contrib.cprune.report.values import RunReport

# Methods that train their candidates and continue with the accepted ones.
STEPWISE = ("cprune", "progressive", "netadapt")


def run_page(run: RunReport) -> str:
    """Return the page about a run."""
    return document(
        f"CPrune: {title_of(run)}",
        headline(run),
        _candidates(run),
        _iterations(run),
        _widths(run),
        _tasks(run),
        _seconds(run),
        _log(run),
    )


def untimed_note(runs: list[RunReport]) -> str:
    """Return a sentence about the candidates that a chart cannot show, "" if it shows all."""
    number = sum(attempt.latency_ms is None for run in runs for attempt in run.attempts)
    was = "1 candidate was" if number == 1 else f"{number} candidates were"
    return f" {was} never timed and appear only in the decision log." if number else ""


def _candidates(run: RunReport) -> Element:
    trained = "after a short training" if run.method in STEPWISE else "before any training"
    if run.method == "progressive":
        trained += " and, if that is not enough, after a long one"
    text = (
        f"Every candidate that was timed; up and to the left is better. Candidates are evaluated {trained}, "
        "the final model after a long training." + untimed_note([run])
    )
    title = "Validation accuracy against latency of all candidates"
    chart = accuracy_latency(title, [run_series(run)], verdict_keys([run]), "validation accuracy")
    return section("Accuracy against latency", text, chart)


def _iterations(run: RunReport) -> Element | None:
    if not run.attempts:
        return None
    source = "last accepted model" if run.method in STEPWISE else "unpruned model"
    text = f"Each candidate removes channels from the {source}. The line is the last accepted latency."
    return section("Latency by iteration", text, latency_by_iteration(run))


def _widths(run: RunReport) -> Element | None:
    if not run.widths:
        return None
    what = "Output channels of each layer" if run.finished else "Channels of each pruned channel group"
    return section("Widths", f"{what} before and after pruning.", _sides(), widths_table(run.widths))


def _tasks(run: RunReport) -> Element | None:
    if not run.tasks:
        return None
    text = (
        "Time per inference of the layers that share a tuning task in the unpruned model, summed over these "
        "layers. Poolings and other operators without a layer go by the names of the operators."
    )
    return section("Tasks", text, _sides() if run.finished else None, tasks_table(run.tasks))


def _seconds(run: RunReport) -> Element | None:
    tables = [
        seconds_table(title, seconds)
        for title, seconds in (("phase", run.phases), ("work", run.work))
        if seconds
    ]
    text = "By phase of the run" + (", and by kind of work." if run.work else ".")
    return section("Where the time went", text, element("div", *tables, class_="columns")) if tables else None


def _log(run: RunReport) -> Element | None:
    if not run.attempts:
        return None
    text = "Select a heading to sort. Hidden rows are faded in the charts."
    return section("Decision log", text, decision_log([run]))


def _sides() -> Element:
    sides = [
        element("li", element("i", class_=f"swatch {kind}", aria_hidden="true"), f"{kind} pruning")
        for kind in ("before", "after")
    ]
    return element("ul", *sides, class_="legend")
