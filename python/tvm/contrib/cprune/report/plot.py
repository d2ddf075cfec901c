# SPDX-License-Identifier: Apache-2.0
"""Plots of points and lines.

Horizontal positions are percentages and vertical ones pixels: a plot fills the width of the page, and its
text keeps its size. ``page.css`` has the colors and ``page.js`` the tooltips.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise

from tvm.contrib.cprune.report.axes import Axis, Point
from tvm.contrib.cprune.report.markup import Element, element

HEIGHT, STRIP = 340, 46
# Outlines of the symbols, around the origin; a page defines each once.
SYMBOLS = {
    "circle": "M-5,0a5,5 0 1,0 10,0a5,5 0 1,0 -10,0Z",
    "triangle": "M0,-6L6,5L-6,5Z",
    "cross": "M-4.5,-4.5L4.5,4.5M-4.5,4.5L4.5,-4.5",
    "square": "M-4.5,-4.5H4.5V4.5H-4.5Z",
    "diamond": "M0,-7.5L7.5,0L0,7.5L-7.5,0Z",
    "beyond-right": "M-4,-6L4,0L-4,6",
    "beyond-top": "M-6,4L0,-4L6,4",
    "star": "M0,-9L2.4,-3.2L8.6,-2.8L3.8,1.2L5.3,7.3L0,4L-5.3,7.3L-3.8,1.2L-8.6,-2.8L-2.4,-3.2Z",
}


@dataclass(frozen=True)
class Mark:
    """A point of a plot.

    Attributes
    ----------
    x, y : float
        Its values. Points without ``y`` are drawn in a strip below the others.
    symbol, color : str
        A key of ``SYMBOLS``, and a class that ``page.css`` gives a color.
    text : str
        What a tooltip shows and a screen reader says; the first line is the title.
    row : str, optional
        Identifier of the table row about the same thing.
    """

    x: float
    y: float | None
    symbol: str
    color: str
    text: str
    row: str | None = None


@dataclass(frozen=True)
class Line:
    """Points joined by straight lines, in one color."""

    points: tuple[Point, ...]
    color: str


@dataclass(frozen=True)
class Key:
    """An entry of a legend; without a symbol it stands for a line."""

    label: str
    color: str
    symbol: str | None = None


def plot(
    title: str,
    x: Axis,
    y: Axis,
    marks: Sequence[Mark],
    lines: Iterable[Line] = (),
    strip: str = "unknown",
) -> Element:
    """Return a plot. Marks beyond the high end of an axis become arrows at the end.

    Parameters
    ----------
    title
        What the plot shows, for screen readers.
    strip
        Label of the strip for points without ``y``, of two short words at most.
    """
    rows = [(HEIGHT * (1 - y.place(value)), label) for value, label in y.ticks()]
    columns = [(f"{100 * x.place(value):.2f}%", label) for value, label in x.ticks()]
    bottom = HEIGHT + (STRIP if any(mark.y is None for mark in marks) else 0)
    svg = element(
        "svg",
        *(element("line", x1="0", x2="100%", y1=at, y2=at, class_="grid") for at, _ in rows),
        *(element("line", x1=at, x2=at, y1="0", y2=bottom, class_="grid") for at, _ in columns),
        *(element("text", label, x="-8", y=at + 4, class_="tick end") for at, label in rows),
        *(element("text", label, x=at, y=bottom + 19, class_="tick middle") for at, label in columns),
        element("text", y.title, x="-46", y="-14", class_="axis-title"),
        element("text", x.title, x="100%", y=bottom + 40, class_="axis-title end"),
        element("line", x1="0", x2="100%", y1=bottom, y2=bottom, class_="frame"),
        *([] if bottom == HEIGHT else _strip_of(strip, bottom)),
        *(_line(line, x, y) for line in lines),
        # The most important marks come last, on top of the others.
        *(_mark(mark, x, y, bottom) for mark in marks),
        role="group",
        aria_label=title,
        height=bottom,
        width="100%",
    )
    return element("div", svg, class_="plot")


def legend(keys: Iterable[Key]) -> Element:
    """Return the legend of a plot."""
    return element("ul", *(_key(key) for key in keys), class_="legend")


def symbol_definitions() -> Element:
    """Return the invisible element that defines the symbols of a page."""
    paths = [element("path", d=path, id=f"symbol-{name}") for name, path in SYMBOLS.items()]
    return element(
        "svg", element("defs", *paths), class_="definitions", aria_hidden="true", width=0, height=0
    )


def _key(key: Key) -> Element:
    shape = (
        element("line", x1=-10, x2=10, y1=0, y2=0, class_=f"line {key.color}")
        if key.symbol is None
        else element("use", href=f"#symbol-{key.symbol}", class_=f"symbol {key.symbol} {key.color}")
    )
    picture = element("svg", shape, viewBox="-11 -11 22 22", width=22, height=22, aria_hidden="true")
    return element("li", picture, key.label)


def _strip_of(label: str, bottom: float) -> list[Element]:
    return [
        element("line", x1="0", x2="100%", y1=HEIGHT, y2=HEIGHT, class_="frame"),
        *(
            element("text", word, x="-8", y=bottom - STRIP / 2 + 16 * n, class_="tick end")
            for n, word in enumerate(label.split())
        ),
    ]


def _line(line: Line, x: Axis, y: Axis) -> Element:
    # A polyline cannot have percentages.
    ends = [(f"{100 * x.place(a):.3f}%", HEIGHT * (1 - y.place(b))) for a, b in line.points]
    parts = [element("line", x1=a, y1=b, x2=c, y2=d) for (a, b), (c, d) in pairwise(ends)]
    return element("g", *parts, class_=f"line {line.color}", aria_hidden="true")


def _mark(mark: Mark, x: Axis, y: Axis, bottom: float) -> Element:
    symbol = "beyond-right" if mark.x > x.high else mark.symbol
    if mark.y is not None and mark.y > y.high:
        symbol = "beyond-top"
    return element(
        "use",
        href=f"#symbol-{symbol}",
        x=f"{100 * x.place(mark.x):.3f}%",
        y=bottom - STRIP / 2 if mark.y is None else HEIGHT * (1 - y.place(mark.y)),
        class_=f"mark symbol {symbol} {mark.color}",
        role="img",
        aria_label=mark.text,
        data_row=mark.row,
    )
