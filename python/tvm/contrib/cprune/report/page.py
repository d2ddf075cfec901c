# SPDX-License-Identifier: Apache-2.0
"""A page that needs no other file and no network."""

from pathlib import Path

from tvm.contrib.cprune.report.markup import Element, element, to_html
from tvm.contrib.cprune.report.plot import symbol_definitions

# Browsers then refuse whatever is not in the file.
_POLICY = "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'"


def document(title: str, *contents: Element | None) -> str:
    """Return an HTML page with the styles and the script that the charts and tables need."""
    folder = Path(__file__).parent
    head = element(
        "head",
        element("meta", charset="utf-8"),
        element("meta", http_equiv="Content-Security-Policy", content=_POLICY),
        element("meta", name="viewport", content="width=device-width, initial-scale=1"),
        element("meta", name="color-scheme", content="light dark"),
        element("title", title),
        element("style", (folder / "page.css").read_text()),
    )
    body = element(
        "body",
        symbol_definitions(),
        element("main", *contents),
        element("div", id="tooltip", role="tooltip", hidden=""),
        element("script", (folder / "page.js").read_text()),
    )
    return "<!doctype html>\n" + to_html(element("html", head, body, lang="en")) + "\n"


def section(title: str, explanation: str, *contents: Element | None) -> Element:
    """Return a part of a page with its heading and a sentence about it."""
    intro = element("p", explanation, class_="explanation") if explanation else None
    return element("section", element("h2", title), intro, *contents)
