# SPDX-License-Identifier: Apache-2.0
"""What a person sees of a run: lines and a live table while it goes on, an HTML page from its folder
afterwards."""

import html
import json
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.live import Live
from rich.table import Table

from tvm.contrib.cprune.files import write_text
from tvm.contrib.cprune.tuning.ansor.search import Progress
from tvm.contrib.cprune.types import Latency


class ConsoleReport:
    """Shows events on a terminal: searches as a live table there, everything as plain lines elsewhere.

    Use it as a context manager, and as the ``report`` of a ``CPruner``.
    """

    def __init__(self, console: Console | None = None) -> None:
        self.console = console or Console(highlight=False, soft_wrap=True)
        self._live: Live | None = None
        self._tasks: dict[str, Progress] = {}

    def __enter__(self) -> "ConsoleReport":
        return self

    def __exit__(self, *_: object) -> None:
        self._end_live()

    def __call__(self, event: dict[str, Any]) -> None:
        kind = event["event"]
        if kind == "progress":
            self._progress(event["progress"])
            return
        if kind == "device":
            self.say(event["message"])
            return
        self._end_live()
        if kind == "baseline":
            latency = Latency(tuple(event["latency_s"]))
            self.say(
                f"unpruned: {latency.median * 1e3:.3f} ms "
                f"(tasks sum to {event['predicted_s'] * 1e3:.3f} ms), "
                f"validation accuracy {event['accuracy_val']:.4f}, {event['trials']['search']} trials"
            )
        elif kind == "candidate":
            self._candidate(event)
        elif kind == "final_training":
            self.say(f"trained: validation accuracy {event['accuracy_val']:.4f}")

    def say(self, text: str) -> None:
        """Print one line."""
        self.console.print(text, markup=False)

    def _candidate(self, event: dict[str, Any]) -> None:
        widths = ", ".join(f"{root} {old} -> {new}" for root, (old, new) in event["widths"].items())
        latency = f"{Latency(tuple(event['latency_s'])).median * 1e3:.3f} ms" if "latency_s" in event else "-"
        accuracy = f"{event['accuracy_val']:.4f}" if "accuracy_val" in event else "-"
        verdict = "accepted" if event["accepted"] else "rejected"
        self.say(
            f"[{event['iteration']:3}] {widths}: {latency}, accuracy {accuracy}, {verdict}: {event['reason']}"
        )

    def _progress(self, progress: Progress) -> None:
        self._tasks[progress.task.workload_key] = progress
        if not self.console.is_terminal:
            best = (
                "no valid program yet" if progress.best == float("inf") else f"{progress.best * 1e6:8.1f} us"
            )
            self.say(
                f"tuning {progress.total_trials}/{progress.budget}: {progress.task.title}, "
                f"{progress.trials} trials, "
                f"{best}, {progress.gflops:.1f} GFLOP/s, {progress.seconds_left:.0f} s left"
            )
            return
        if self._live is None:
            self._live = Live(console=self.console, refresh_per_second=4)
            self._live.start()
        self._live.update(self._table(progress))

    def _table(self, last: Progress) -> Table:
        title = f"tuning: {last.total_trials} of {last.budget} trials, about {last.seconds_left:.0f} s left"
        table = Table("task", "layers", "trials", "best latency", "GFLOP/s", title=title)
        for number, each in enumerate(self._tasks.values()):
            best = "-" if each.best == float("inf") else f"{each.best * 1e6:.1f} us"
            name = each.task.title if len(each.task.title) < 48 else each.task.title[:45] + "..."
            table.add_row(str(number), name, str(each.trials), best, f"{each.gflops:.1f}")
        return table

    def _end_live(self) -> None:
        if self._live is not None:
            self._live.stop()
            self._live = None
        self._tasks.clear()


def summary(result: dict[str, Any]) -> Table:
    """Return a result as a table for the terminal."""
    table = Table("", "latency", "accuracy (test)", "accuracy (validation)", "MACs", "parameters")
    for name in ("baseline", "pruned"):
        side = result[name]
        latency = f"{side['latency_ms']['median']:.3f} ± {side['latency_ms']['spread']:.3f} ms"
        test = "-" if side["accuracy_test"] is None else f"{side['accuracy_test']:.4f}"
        sizes = (f"{side['macs'] / 1e6:.1f} M", f"{side['params'] / 1e6:.3f} M")
        table.add_row(name, latency, test, f"{side['accuracy_val']:.4f}", *sizes)
    return table


_STYLE = """body{font:15px/1.5 system-ui,sans-serif;max-width:70rem;margin:2rem auto;padding:0 1rem}
table{border-collapse:collapse;margin:1rem 0}td,th{border-bottom:1px solid #ccc;padding:.25rem
.7rem;text-align:left}
.accepted{background:#e8f5e9}svg text{font-size:11px}"""


def write_html(folder: Path) -> Path:
    """Write ``report.html`` of a finished run from its ``result.json`` alone."""
    result = json.loads((folder / "result.json").read_text())
    title = (
        f"CPrune: {result['model']} on {result['dataset']}"
        if result["dataset"]
        else f"CPrune: {result['model']}"
    )
    sides = "".join(
        f"<tr><td>{name}</td><td>{result[name]['latency_ms']['median']:.3f} ms</td>"
        f"<td>{result[name]['accuracy_val']:.4f}</td><td>{_number(result[name]['accuracy_test'])}</td>"
        f"<td>{result[name]['macs']:,}</td><td>{result[name]['params']:,}</td></tr>"
        for name in ("baseline", "pruned")
    )
    rows = "".join(
        f"<tr class='{'accepted' if it['accepted'] else ''}'><td>{it['iteration']}</td>"
        f"<td>{html.escape(it['task'])}</td><td>{html.escape(_widths(it['widths']))}</td>"
        f"<td>{_number(it['latency_ms'])}</td><td>{_number(it['accuracy_val'])}</td>"
        f"<td>{html.escape(it['reason'])}</td></tr>"
        for it in result["iterations"]
    )
    page = (
        f"<!doctype html><meta charset='utf-8'><title>{html.escape(title)}</title><style>{_STYLE}</style>"
        f"<h1>{html.escape(title)}</h1><p>{result['speedup']:.2f} times as fast on "
        f"<code>{html.escape(result['target'])}</code> with {result['threads']} threads; ended because "
        f"{html.escape(result['stopped_because'])}.</p>"
        "<table><tr><th></th><th>latency</th><th>validation accuracy</th>"
        f"<th>test accuracy</th><th>MACs</th><th>parameters</th></tr>{sides}</table>{_plot(result)}"
        f"<table><tr><th></th><th>task</th><th>channels</th><th>ms</th><th>accuracy</th><th>decision</th></tr>{rows}"
        "</table>"
    )
    path = folder / "report.html"
    write_text(path, page)
    return path


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.4f}"


def _widths(widths: dict[str, list[int]]) -> str:
    return ", ".join(f"{root} {old} → {new}" for root, (old, new) in widths.items())


def _dot(x: float, y: float, accepted: bool) -> str:
    return f"<circle cx='{x:.1f}' cy='{y:.1f}' r='3.5' fill='{'#2e7d32' if accepted else '#bbb'}'/>"


def _plot(result: dict[str, Any]) -> str:
    """Return the latency of every candidate as a picture; accepted ones are joined."""
    points = [
        (it["iteration"], it["latency_ms"], it["accepted"]) for it in result["iterations"] if it["latency_ms"]
    ]
    if not points:
        return ""
    start = result["baseline"]["latency_ms"]["median"]
    width, height, top = 700, 220, max([start, *(y for _, y, _ in points)])
    last = max(x for x, _, _ in points)

    def place(x: float, y: float) -> tuple[float, float]:
        return 45 + (width - 60) * x / last, 10 + (height - 40) * (1 - y / top)

    dots = "".join(_dot(*place(x, y), ok) for x, y, ok in points)
    line = " ".join(
        "{:.1f},{:.1f}".format(*place(x, y)) for x, y in [(0, start), *((x, y) for x, y, ok in points if ok)]
    )
    axis = (
        f"<text x='2' y='{place(0, top)[1] + 4:.0f}'>{top:.2f} ms</text>"
        f"<text x='2' y='{height - 26}'>0</text>"
    )
    return (
        f"<svg width='{width}' height='{height}' role='img' aria-label='latency of each candidate'>"
        f"<polyline points='{line}' fill='none' stroke='#2e7d32'/>{dots}{axis}"
        f"<text x='45' y='{height - 5}'>iteration (green: accepted)</text></svg>"
    )
