# SPDX-License-Identifier: Apache-2.0
"""The pages of reports in a browser."""

import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from report_runs import write_run

from tvm.contrib.cprune.report.read import read_run
from tvm.contrib.cprune.report.write import write_report

BROWSERS = ("chromium-headless-shell", "chromium", "google-chrome")
CHROMIUM = next((path for name in BROWSERS if (path := shutil.which(name))), None)
# .ci/run installs the browser and sets CI: there, a missing browser is an error.
pytestmark = pytest.mark.skipif(
    CHROMIUM is None and "CI" not in os.environ,
    reason="apt install chromium-headless-shell to look at reports in a browser",
)
# Positions of a chart's marks: their text, and the middle of each relative to the chart.
PLACES = """chart => { const frame = chart.getBoundingClientRect();
  return [...chart.querySelectorAll('.mark')].map(mark => { const box = mark.getBoundingClientRect();
    return [mark.getAttribute('aria-label'), (box.left + box.width / 2 - frame.left) / frame.width,
            (box.top + box.height / 2 - frame.top) / frame.height]; }); }"""


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM)
        yield browser
        browser.close()


@pytest.fixture
def view(browser) -> Iterator[Any]:
    """Open a page, which must not print an error or request anything but itself."""
    messages: list[str] = []
    requests: list[str] = []
    contexts = []

    def open_page(path: Path, width: int = 1100, scheme: str = "light") -> Any:
        context = browser.new_context(viewport={"width": width, "height": 900}, color_scheme=scheme)
        contexts.append(context)
        page = context.new_page()
        page.set_default_timeout(20_000)
        page.on("console", lambda message: messages.append(message.text))
        page.on("pageerror", lambda error: messages.append(str(error)))
        page.on("request", lambda request: requests.append(request.url))
        page.goto(path.resolve().as_uri())
        return page

    yield open_page
    for context in contexts:
        context.close()
    assert messages == []
    assert len(requests) == len(contexts) and all(url.startswith("file:") for url in requests)


@pytest.fixture(scope="module")
def report(tmp_path_factory) -> Path:
    return write_report([write_run(tmp_path_factory.mktemp("report") / "mine", number=24)])


def column(page: Any, head: str) -> list[str]:
    """Return the texts in a column of the decision log, in order of the rows that are shown."""
    heads = [text.strip() for text in page.locator("#log thead th").all_inner_texts()]
    cells = page.locator(f"#log tbody tr:not([hidden]) td:nth-child({heads.index(head) + 1})")
    return cells.all_inner_texts()


def sort_by(page: Any, head: str) -> None:
    page.locator("#log thead button", has_text=head).click()


def test_every_plot_has_a_mark_for_each_model(view, report):
    page, run = view(report), read_run(report.parent)
    timed = [attempt for attempt in run.attempts if attempt.latency_ms is not None]
    assert 0 < len(timed) < len(run.attempts)
    candidates, iterations = page.locator("figure").all()
    assert candidates.locator(".mark").count() == len(timed) + 2  # unpruned and final
    assert iterations.locator(".mark").count() == len(timed) + 1  # unpruned
    for verdict in ("accepted", "accuracy", "latency"):
        number = sum(attempt.verdict == verdict for attempt in timed)
        assert candidates.locator(f".mark.{verdict}").count() == number > 0
    bars = page.locator("section", has=page.locator("h2", has_text="Widths")).locator(".bar")
    assert bars.count() == 2 * len(run.widths)
    assert page.locator("section", has_text="time before").locator(".bar").count() == 2 * len(run.tasks)
    assert page.locator("#log tbody tr").count() == len(run.attempts)
    assert page.evaluate("window.injected") is None


def test_marks_lie_where_their_values_say(view, report):
    page, run = view(report), read_run(report.parent)
    found = page.locator("figure .plot > svg").first.evaluate(PLACES)
    by_text = {text.split(":")[0]: (x, y) for text, x, y in found}
    trained = [attempt for attempt in run.attempts if attempt.accuracy is not None]
    assert len(trained) > 8
    latencies, accuracies = ([getattr(a, key) for a in trained] for key in ("latency_ms", "accuracy"))
    xs, ys = zip(*(by_text[f"Iteration {attempt.iteration}"] for attempt in trained), strict=True)
    # Positions are linear in the values: to the right with latency, upwards with accuracy.
    for places, values, sign in ((xs, latencies, 1), (ys, accuracies, -1)):
        slope, start = np.polyfit(values, places, 1)
        assert slope * sign > 0
        np.testing.assert_allclose(slope * np.array(values) + start, places, atol=2e-3)
    box = page.locator("figure .plot").first.bounding_box()
    for mark in page.locator("figure").first.locator(".mark").all():
        own = mark.bounding_box()
        assert box["x"] < own["x"] and own["x"] + own["width"] < box["x"] + box["width"]
        assert box["y"] < own["y"] and own["y"] + own["height"] < box["y"] + box["height"]


def test_the_log_is_sorted_by_numbers_with_missing_ones_last(view, report):
    page, run = view(report), read_run(report.parent)
    known = [attempt for attempt in run.attempts if attempt.latency_ms is not None]
    missing = len(run.attempts) - len(known)
    assert missing > 0
    order = [
        str(attempt.iteration) for attempt in sorted(known, key=lambda attempt: attempt.latency_ms or 0.0)
    ]
    assert order != sorted(order, key=int)
    sort_by(page, "latency")
    assert column(page, "#")[:-missing] == order
    assert page.locator("#log th[aria-sort=ascending]").inner_text().strip() == "latency"
    sort_by(page, "latency")
    assert column(page, "#")[:-missing] == order[::-1]
    assert page.locator("#log th[aria-sort=descending]").count() == 1
    sort_by(page, "#")
    assert column(page, "#") == [str(attempt.iteration) for attempt in run.attempts]


def test_filters_hide_rows_and_fade_their_marks(view, report):
    page, run = view(report), read_run(report.parent)
    page.locator("input[value=accepted]").uncheck()
    rejected = [str(attempt.iteration) for attempt in run.attempts if not attempt.accepted]
    assert column(page, "#") == rejected and len(rejected) > 3
    assert page.locator("output").inner_text() == f"{len(rejected)} of 24 shown"
    assert page.locator(".mark.accepted.faded").count() == 2 * len(run.accepted)
    assert page.locator(".mark.accuracy.faded").count() == 0
    page.locator("input[value=accepted]").check()
    page.get_by_role("searchbox").fill("LAYER1.0.conv2")
    chosen = [str(attempt.iteration) for attempt in run.attempts if "layer1.0.conv2" in attempt.layers]
    assert column(page, "#") == chosen and len(chosen) > 2


def test_a_mark_shows_its_candidate_by_pointer_and_keyboard(view, report):
    page, run = view(report), read_run(report.parent)
    attempt = run.accepted[2]
    (root, old, new), *_ = attempt.widths
    mark = page.locator(f".mark[data-row='mine-{attempt.iteration}']").first
    assert not page.locator("#tooltip").is_visible()
    mark.hover()
    text = page.locator("#tooltip").inner_text()
    assert f"{root}: {old} → {new} channels" in text and attempt.reason in text
    assert page.locator("#log tr.active").get_attribute("id") == f"mine-{attempt.iteration}"
    page.mouse.move(5, 5)
    assert not page.locator("#tooltip").is_visible()
    page.locator("figure .mark[tabindex='0']").first.focus()
    texts = [page.locator("#tooltip").inner_text()]
    for _ in range(2):
        page.keyboard.press("ArrowRight")
        texts.append(page.locator("#tooltip").inner_text())
    assert len(set(texts)) == 3


@pytest.mark.parametrize("width", [1100, 360])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_the_page_fits_and_its_text_is_legible(view, report, width, scheme):
    page = view(report, width, scheme)
    assert page.evaluate("document.documentElement.scrollWidth") == width
    sizes = page.evaluate(
        "[...document.querySelectorAll('h1,h2,h3,p,li,td,th,text,small,label')]"
        ".map(node => parseFloat(getComputedStyle(node).fontSize))"
    )
    assert len(sizes) > 100 and min(sizes) >= 13
    background = page.evaluate("getComputedStyle(document.body).backgroundColor")
    red = int(background.removeprefix("rgb(").split(",")[0])
    assert red > 240 if scheme == "light" else red < 40


def test_a_comparison_shows_the_marks_of_all_runs(view, tmp_path):
    folders = [write_run(tmp_path / name, 12, name != "c", seed) for seed, name in enumerate("abc")]
    page = view(write_report(folders, tmp_path / "all.html"))
    runs = [read_run(folder) for folder in folders]
    for number, run in enumerate(runs):
        timed = sum(attempt.latency_ms is not None for attempt in run.attempts)
        assert page.locator(f".mark.run-{number}").count() == timed + (2 if run.finished else 1)
    assert page.locator("#headlines tbody tr").count() == 3
    assert page.locator("#log tbody tr").count() == 36
    sort_by(page, "run")
    sort_by(page, "run")
    assert column(page, "run") == ["c"] * 12 + ["b"] * 12 + ["a"] * 12
