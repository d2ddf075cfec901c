# SPDX-License-Identifier: Apache-2.0
"""HTML and SVG elements. Text and attributes are escaped when a page is written, so that data stay text."""

import re
from xml.etree import ElementTree

Element = ElementTree.Element


def element(tag: str, *children: Element | str | None, **attributes: str | float | None) -> Element:
    """Return an element.

    Parameters
    ----------
    children
        Elements and text; None is skipped.
    attributes
        By name, with ``_`` for ``-`` and a trailing ``_`` for names that Python reserves, such as ``class_``.
        Numbers are rounded to hundredths; None is skipped.
    """
    node = ElementTree.Element(tag)
    for name, value in attributes.items():
        if value is not None:
            text = value if isinstance(value, str) else f"{value:.2f}".rstrip("0").rstrip(".")
            node.set(name.rstrip("_").replace("_", "-"), text)
    for child in children:
        if isinstance(child, str):
            _append_text(node, child)
        elif child is not None:
            node.append(child)
    return node


def name(text: str) -> list[Element | str]:
    """Return the name of a layer as children of an element; lines may break behind dots and underscores."""
    parts: list[Element | str] = []
    for part in re.split(r"(?<=[._])", text):
        parts += [part, element("wbr")]
    return parts[:-1]


def _append_text(node: Element, text: str) -> None:
    if len(node):
        node[-1].tail = (node[-1].tail or "") + text
    else:
        node.text = (node.text or "") + text


def to_html(node: Element) -> str:
    """Return an element as HTML. The contents of ``script`` and ``style`` are not escaped."""
    return ElementTree.tostring(node, encoding="unicode", method="html")
