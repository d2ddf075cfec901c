# SPDX-License-Identifier: Apache-2.0
"""The head of a run's report: what was gained, at which price, and under which conditions."""

from collections.abc import Callable
from typing import Any

from tvm.contrib.cprune.method_settings import USED_BY
from tvm.contrib.cprune.report.markup import Element, element
from tvm.contrib.cprune.report.numbers import MISSING, accuracy, change, count, milliseconds
from tvm.contrib.cprune.report.values import RunReport, Side

_METRICS = (
    ("Latency", "latency_ms"),
    ("Test accuracy", "accuracy_test"),
    ("Validation accuracy", "accuracy_val"),
    ("MACs", "macs"),
    ("Parameters", "params"),
)


def title_of(run: RunReport) -> str:
    """Return the network and its data set."""
    return f"{run.model} on {run.dataset}" if run.dataset else run.model


def headline(run: RunReport) -> Element:
    """Return the title, the conditions, the main numbers before and after pruning, and the end of the run."""
    threads = [f"{run.threads} thread{'s' if run.threads > 1 else ''}"] if run.threads else []
    device = "this machine" if run.device == "local" else run.device
    facts = [f"run {run.name}", f"method {run.method}", f"measured on {device}", *threads]
    if run.method in USED_BY["accuracy_requirement"]:
        facts.append(f"accuracy floor {run.requirement:g}")
    return element(
        "header",
        element("p", "CPrune report", class_="kicker"),
        element("h1", title_of(run)),
        element("p", element("code", run.target), class_="target"),
        element("ul", *(element("li", fact) for fact in facts), class_="facts"),
        *(element("p", note, class_="note") for note in run.notes),
        element("div", _speedup(run), *_metrics(run.before, run.after), class_="metrics"),
        element("p", _ending(run), class_="ending"),
    )


def _speedup(run: RunReport) -> Element:
    value = f"{run.speedup:.2f}×" if run.speedup else MISSING
    what = "as fast as the unpruned model" if run.speedup else "no candidate was accepted yet"
    return element(
        "div",
        element("h3", "Speedup"),
        element("p", value, class_="value"),
        element("p", what),
        class_="main",
    )


def _metrics(before: Side, after: Side | None) -> list[Element]:
    """Return what is known of the unpruned model, and of the pruned one."""
    found = []
    for title, key in _METRICS:
        old, new = getattr(before, key), getattr(after, key) if after else None
        if old is not None:
            show = _accuracy if key.startswith("accuracy") else _size
            found.append(show(title, old, new))
    return found


def _size(title: str, before: float, after: float | None) -> Element:
    show: Callable[[Any], str] = milliseconds if title == "Latency" else count
    largest = max(before, after or 0)
    bars = [
        element("i", class_=f"bar {kind}", style=f"width:{100 * value / largest:.2f}%")
        for kind, value in (("before", before), ("after", after))
        if value is not None
    ]
    relative = None if after is None else change(before, after)
    return _metric(title, show(before), show(after), relative, element("div", *bars, class_="bars"))


def _accuracy(title: str, before: float, after: float | None) -> Element:
    points = (
        None
        if after is None
        else f"{(after - before) * 100:+.2f} points".replace("-", "−").replace("+0.00", "0.00")
    )
    return _metric(title, accuracy(before), accuracy(after), points, None)


def _metric(title: str, before: str, after: str, relative: str | None, picture: Element | None) -> Element:
    return element(
        "div",
        element("h3", title),
        element("p", after, class_="value"),
        element(
            "p", f"before: {before}", element("span", relative) if relative else None, class_="before-value"
        ),
        picture,
    )


def _ending(run: RunReport) -> str:
    was = "was" if len(run.accepted) == 1 else "were"
    plural = "" if len(run.attempts) == 1 else "s"
    tried = f"{len(run.accepted)} of {len(run.attempts)} candidate{plural} {was} accepted."
    stop = f" Pruning stopped because {run.stopped}." if run.stopped else " Pruning has not ended."
    return tried + stop
