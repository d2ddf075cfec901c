# SPDX-License-Identifier: Apache-2.0
"""What a report takes from the folder of a run, and the page that it writes."""

import json
import math
import re
import shutil
from html.parser import HTMLParser

import pytest
from commands import error_of, run_cprune
from hypothesis import given
from hypothesis import strategies as st
from report_runs import EVIL, LAYERS, journal_of, tables, write_run

from tvm.contrib.cprune.report.axes import make_axis, pareto_front, staircase
from tvm.contrib.cprune.report.charts import Series, accuracy_latency
from tvm.contrib.cprune.report.markup import to_html
from tvm.contrib.cprune.report.numbers import change, count, duration, milliseconds
from tvm.contrib.cprune.report.plot import Mark
from tvm.contrib.cprune.report.read import read_run
from tvm.contrib.cprune.report.tasks import compare_tasks
from tvm.contrib.cprune.report.values import VERDICTS, LayerWidth
from tvm.contrib.cprune.report.write import write_report
from tvm.contrib.cprune.types import CPruneError

NUMBERS = st.floats(-1e6, 1e6, allow_nan=False).map(lambda value: round(value, 6))


class Page(HTMLParser):
    """Counts the elements and collects the text of a page."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.links: list[str] = []
        self.text = ""
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.links += [
            value for name, value in attrs if name in ("href", "src") and not value.startswith("#")
        ]

    def handle_data(self, data):
        self.text += data


def test_a_finished_run_is_read_from_its_result(tmp_path):
    run = read_run(write_run(tmp_path / "mine"))
    result = json.loads((tmp_path / "mine" / "result.json").read_text())
    assert (run.name, run.model, run.dataset, run.threads) == ("mine", "resnet <b>", "cifar10", 2)
    assert (run.before.accuracy_test, run.after.accuracy_test) == (0.9412, 0.9376)
    assert (run.before.macs, run.after.params) == (48_400_000, 107_000)
    assert run.speedup == result["speedup"] > 1
    assert run.start.latency_ms == pytest.approx(2.0)
    assert [attempt.verdict for attempt in run.attempts] == [it["verdict"] for it in result["iterations"]]
    assert [attempt.latency_ms for attempt in run.attempts] == [
        it["latency_ms"] for it in result["iterations"]
    ]
    assert {attempt.verdict for attempt in run.attempts} == set(VERDICTS)
    assert len(run.accepted) == result["accepted"] == 5
    assert [width.layer for width in run.widths] == list(LAYERS)
    assert run.widths[-1] == LayerWidth("fc", 10, 10)
    assert sum(width.before - width.after for width in run.widths) == 5 * 8
    assert run.finished and run.stopped and not run.notes
    assert run.phases == result["seconds"] and run.work == result["seconds_by_work"]


def test_an_unfinished_run_is_read_from_its_journal_which_stays_as_it_is(tmp_path):
    folder = write_run(tmp_path, finished=False)
    with (folder / "journal.jsonl").open("a") as file:
        file.write('{"event": "candid')  # The run is writing this line.
    before = (folder / "journal.jsonl").read_bytes()
    run = read_run(folder)
    assert (folder / "journal.jsonl").read_bytes() == before
    last = [event for event in journal_of(12) if event.get("accepted")][-1]
    assert not run.finished and run.speedup == last["speedup"]
    assert run.after.accuracy_val == last["accuracy_val"]
    assert run.after.latency_ms == pytest.approx(last["latency_s"][0] * 1e3)
    assert run.after.macs is None and len(run.attempts) == 12
    assert LayerWidth("layer1.0.conv1", 64, 48) in run.widths
    assert "not finished" in run.notes[0]
    page = write_report([folder]).read_text()
    assert "in progress or was interrupted" in page and "Pruning has not ended" in page


def test_a_run_without_a_decided_candidate_has_a_report(tmp_path):
    run = read_run(write_run(tmp_path, number=0, finished=False))
    assert run.after is None and run.speedup is None and not run.attempts
    assert "no candidate was accepted yet" in write_report([tmp_path]).read_text()


def test_tasks_are_compared_by_layer(tmp_path):
    first, *others = compare_tasks(*tables())
    assert first.title == "conv1, layer1.0.conv1"
    assert (first.before.seconds, first.after.seconds) == (4e-3, 2e-3)
    assert (first.before.gflops, first.after.gflops) == pytest.approx((2.0, 1.0))
    assert [change.title for change in others] == list(LAYERS[2:])
    assert all(change.before == change.after for change in others)
    alone = compare_tasks(tables()[0], None)
    assert [change.after for change in alone] == [None] * 5


def test_a_missing_table_is_noted_on_the_page(tmp_path):
    (write_run(tmp_path) / "table.json").unlink()
    run = read_run(tmp_path)
    assert run.tasks == () and "table.json" in run.notes[0]
    assert "Task latencies are not shown" in write_report([tmp_path]).read_text()


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("result.json", "{", "result.json is damaged"),
        ("result.json", '{"model": "other"}', "result.json is damaged or not of a run of CPrune"),
        ("result.json", "[]", "result.json is damaged or not of a run of CPrune"),
        ("journal.jsonl", "no JSON\n", "journal.jsonl is damaged"),
        ("journal.jsonl", "[1]\n", "journal.jsonl is damaged"),
    ],
)
def test_a_damaged_file_is_one_clear_line(tmp_path, name, text, message):
    (write_run(tmp_path) / name).write_text(text)
    assert message in error_of(run_cprune("report", str(tmp_path)))
    assert not (tmp_path / "report.html").exists()


def test_a_folder_without_a_run_is_one_clear_line(tmp_path):
    assert "not the folder of a run" in error_of(run_cprune("report", str(tmp_path)))
    assert "is not a folder" in error_of(run_cprune("report", str(tmp_path / "none")))
    (tmp_path / "config.json").write_text("{}")
    assert "has nothing to report yet" in error_of(run_cprune("report", str(tmp_path)))


def test_an_unknown_verdict_is_an_error(tmp_path):
    result = json.loads((write_run(tmp_path) / "result.json").read_text())
    result["iterations"][0]["verdict"] = "maybe"
    (tmp_path / "result.json").write_text(json.dumps(result))
    with pytest.raises(CPruneError, match="verdict 'maybe'"):
        read_run(tmp_path)


def test_data_stay_text_and_nothing_is_loaded(tmp_path):
    write_run(tmp_path)
    page = Page(write_report([tmp_path]).read_text())
    assert page.tags.count("script") == 1 and "b" not in page.tags
    assert "resnet <b> on cifar10" in page.text and EVIL.split(".")[0] in page.text
    assert page.links == []


def test_the_same_input_gives_the_same_page(tmp_path):
    one, two = (write_run(tmp_path / name / "run") for name in "ab")
    assert write_report([one]).read_bytes() == write_report([two]).read_bytes()


def test_the_command_compares_runs(tmp_path):
    one = write_run(tmp_path / "a" / "run")
    two = write_run(tmp_path / "b" / "run", finished=False, seed=1)
    done = run_cprune("report", str(one), str(two), cwd=tmp_path)
    assert done.returncode == 0 and done.stdout.strip() == "report.html"
    page = Page((tmp_path / "report.html").read_text())
    assert "Comparison of 2 runs" in page.text
    assert str(one) in page.text and str(two) in page.text  # The names of the folders are the same.
    assert page.tags.count("use") > 2 * 10
    shutil.rmtree(two)
    out = tmp_path / "new" / "page.html"
    assert run_cprune("report", str(one), "--out", str(out)).returncode == 0
    assert out.exists() and not (one / "report.html").exists()


def test_a_comparison_of_runs_under_different_conditions_says_so(tmp_path):
    one, two = (write_run(tmp_path / name) for name in "ab")
    assert "Compare with care" not in write_report([one, two], tmp_path / "out.html").read_text()
    text = (two / "result.json").read_text()
    (two / "result.json").write_text(
        text.replace("core-avx2", "skylake").replace('"threads": 2', '"threads": 1')
    )
    page = write_report([one, two], tmp_path / "out.html").read_text()
    assert "the runs have different targets and numbers of threads" in page


@given(st.lists(st.tuples(NUMBERS, NUMBERS), max_size=12))
def test_the_pareto_front_has_exactly_the_points_that_no_other_beats(points):
    def beaten(point):
        return any(other[0] <= point[0] and other[1] >= point[1] and other != point for other in points)

    assert pareto_front(points) == sorted({point for point in points if not beaten(point)})


def test_a_candidate_far_beyond_the_others_becomes_an_arrow(tmp_path):
    write_run(tmp_path)
    result = json.loads((tmp_path / "result.json").read_text())
    slow = next(it for it in result["iterations"] if it["verdict"] == "latency")
    assert "beyond" not in page_marks(tmp_path)
    slow["latency_ms"] = 50.0
    (tmp_path / "result.json").write_text(json.dumps(result))
    assert "beyond-right" in page_marks(tmp_path) and "beyond-top" in page_marks(tmp_path)


def page_marks(folder):
    """Return the classes of all marks on the page about a run."""
    return " ".join(re.findall(r'class="mark ([^"]*)"', write_report([folder]).read_text()))


def test_the_chart_of_accuracy_and_latency_is_for_any_methods():
    def series(name, color, points):
        return Series(name, color, tuple(Mark(x, y, "circle", color, f"{name} at {x} ms") for x, y in points))

    ours = series("ours", "run-0", [(1, 0.9), (2, 0.92), (1.5, 0.8)])
    other = series("<other>", "run-1", [(3, 0.91)])
    chart = to_html(accuracy_latency("methods", [ours, other], [], "test accuracy"))
    assert chart.count('class="mark symbol circle run-0"') == 3
    assert chart.count('class="mark symbol circle run-1"') == 1
    assert "Pareto front of &lt;other&gt;" in chart and "test accuracy" in chart
    # From 0.9 at 1 ms to 0.92 at 2 ms in two steps; the front of a single point has no line.
    fronts = dict(re.findall(r'<g class="line (run-.)" aria-hidden="true">(.*?)</g>', chart))
    assert {color: lines.count("<line") for color, lines in fronts.items()} == {"run-0": 2, "run-1": 0}


def test_a_staircase_keeps_each_value_until_the_next_point():
    assert staircase([(1, 5), (2, 7), (4, 8)]) == ((1, 5), (2, 5), (2, 7), (4, 7), (4, 8))


@given(st.lists(NUMBERS, min_size=1, max_size=8), st.booleans(), st.integers(2, 9))
def test_axes_contain_all_values_and_have_round_ticks(values, zero, number):
    values = [abs(value) for value in values] if zero else values
    axis = make_axis("x", values, zero, number)
    assert all(-1e-9 <= axis.place(value) <= 1 + 1e-9 for value in values)
    assert not zero or axis.low == 0
    ticks = axis.ticks()
    assert 1 <= len(ticks) <= number + 1
    for value, label in ticks:
        assert float(label) == pytest.approx(value, abs=1e-9 * axis.step)
    digits = axis.step / 10 ** math.floor(math.log10(axis.step) + 1e-9)
    assert any(math.isclose(digits, allowed) for allowed in (1, 2, 2.5, 5))


def test_numbers_have_units_and_three_digits():
    assert [milliseconds(ms) for ms in (0.0123, 0.5, 2.0, 12.34, 123.4)] == [
        "12.3 µs",
        "0.500 ms",
        "2.00 ms",
        "12.3 ms",
        "123 ms",
    ]
    assert [count(n) for n in (999, 48_400_000, 1_226_000)] == ["999", "48.4 M", "1.23 M"]
    assert [duration(s) for s in (1.26, 59.7, 61, 3725)] == [
        "1.3 s",
        "1 min 00 s",
        "1 min 01 s",
        "1 h 02 min",
    ]
    assert [change(4, new) for new in (1, 4, 5)] == ["−75 %", "0 %", "+25 %"]
