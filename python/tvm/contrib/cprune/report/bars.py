# SPDX-License-Identifier: Apache-2.0
"""Tables with bars: widths, tasks, and where the time went."""

from collections.abc import Mapping, Sequence

from tvm.contrib.cprune.report.markup import Element, element, name
from tvm.contrib.cprune.report.numbers import MISSING, change, duration
from tvm.contrib.cprune.report.values import LayerWidth, TaskChange, Work


def widths_table(widths: Sequence[LayerWidth]) -> Element:
    """Return the channels of each layer before and after pruning."""
    longest = max(width.before for width in widths)
    rows = [
        (
            element("th", *name(width.layer), scope="row"),
            _pair(width.before / longest, width.after / longest),
            _number(str(width.before)),
            _number(str(width.after)),
            _number(change(width.before, width.after)),
        )
        for width in widths
    ]
    return bar_table(("layer", "", "before", "after", "change"), rows)


def tasks_table(tasks: Sequence[TaskChange]) -> Element:
    """Return the time per inference of each task's layers before and after pruning."""
    seconds = [work.seconds for task in tasks for work in (task.before, task.after) if work]
    longest, compared = max(seconds), any(task.after for task in tasks)
    unit, scale = ("ms", 1e3) if longest >= 1e-3 else ("µs", 1e6)
    rows = [
        (
            element("th", *name(task.title), _algorithms(task), scope="row"),
            _pair(*(work.seconds / longest if work else None for work in (task.before, task.after))),
            *(_number(_time(work, scale)) for work in _shown(task, compared)),
            *(_number(_speed(work)) for work in _shown(task, compared)),
        )
        for task in tasks
    ]
    sides = (" before", " after") if compared else ("",)
    heads = [f"time{side} ({unit})" for side in sides] + [f"GFLOP/s{side}" for side in sides]
    return bar_table(("layers", "", *heads), rows)


def seconds_table(title: str, seconds: Mapping[str, float]) -> Element:
    """Return the seconds by phase or by kind of work, with their shares."""
    total = sum(seconds.values())
    rows = [
        (
            element("th", kind.replace("_", " "), scope="row"),
            element("td", _bars(_bar(value / max(seconds.values()), "after")), class_="bars"),
            _number(duration(value)),
            _number(f"{100 * value / total:.0f} %" if total else MISSING),
        )
        for kind, value in sorted(seconds.items(), key=lambda item: -item[1])
    ]
    return bar_table((title, "", "time", "share"), rows)


def bar_table(heads: Sequence[str], rows: Sequence[Sequence[Element]]) -> Element:
    """Return a table whose second column has bars."""
    head = [
        element("th", text or None, scope="col" if text else None, class_="number" if n > 1 else None)
        for n, text in enumerate(heads)
    ]
    body = [element("tr", *cells) for cells in rows]
    table = element(
        "table", element("thead", element("tr", *head)), element("tbody", *body), class_="bar-table"
    )
    return element("div", table, class_="scroll")


def _shown(task: TaskChange, compared: bool) -> tuple[Work | None, ...]:
    return (task.before, task.after) if compared else (task.before,)


def _time(work: Work | None, scale: float) -> str:
    return f"{work.seconds * scale:.2f}" if work else MISSING


def _speed(work: Work | None) -> str:
    return f"{work.gflops:.1f}" if work and work.flops else MISSING


def _algorithms(task: TaskChange) -> Element | None:
    """Return the algorithms of a task unless both are "direct", which goes without saying."""
    names = [", ".join(work.algorithms) for work in (task.before, task.after) if work and work.algorithms]
    text = " → ".join(dict.fromkeys(names))
    return element("small", f" {text}") if text not in ("", "direct") else None


def _number(text: str) -> Element:
    return element("td", text, class_="number")


def _pair(before: float | None, after: float | None) -> Element:
    return element("td", _bars(_bar(before, "before"), _bar(after, "after")), class_="bars")


def _bars(*bars: Element | None) -> Element:
    return element("div", *bars, aria_hidden="true")


def _bar(share: float | None, kind: str) -> Element | None:
    """Return a bar of a relative length from 0 to 1."""
    return None if share is None else element("i", class_=f"bar {kind}", style=f"width:{100 * share:.2f}%")
