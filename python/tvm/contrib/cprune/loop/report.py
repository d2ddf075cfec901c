# SPDX-License-Identifier: Apache-2.0
"""The HTML report of a finished run."""

import html
import json
from pathlib import Path
from typing import Any

from tvm.contrib.cprune.files import write_text

_STYLE = """body{font:15px/1.5 system-ui,sans-serif;max-width:70rem;margin:2rem auto;padding:0 1rem}
table{border-collapse:collapse;margin:1rem 0}td,th{border-bottom:1px solid #ccc;padding:.25rem
.7rem;text-align:left}
.accepted{background:#e8f5e9}svg text{font-size:11px}"""


def write_html(folder: Path) -> Path:
    """Write ``report.html`` from the ``result.json`` of a run; return its path."""
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
    """Return an SVG of every candidate's latency; a line connects the accepted ones."""
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
