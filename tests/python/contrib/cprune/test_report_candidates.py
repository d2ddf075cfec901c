# SPDX-License-Identifier: Apache-2.0
"""What a report says about the candidates of the different methods."""

import json

import pytest
from report_runs import journal_of, write_run

from tvm.contrib.cprune.files import append_lines
from tvm.contrib.cprune.report.read import read_run
from tvm.contrib.cprune.report.write import write_report


def test_accuracies_on_a_part_of_the_split_are_shown_as_intervals(tmp_path):
    result = json.loads((write_run(tmp_path) / "result.json").read_text())
    measured = [it for it in result["iterations"] if it["accuracy_val"] is not None]
    part, untrained, exact = measured[:3]
    part |= {"accuracy_val": None, "accuracy_untrained": [0.2, 0.3], "accuracy_part": [0.851, 0.8834]}
    untrained |= {"accuracy_val": None, "accuracy_untrained": [0.125, 0.125]}
    exact |= {"accuracy_part": [0.9, 0.96]}
    (tmp_path / "result.json").write_text(json.dumps(result))
    page = write_report([tmp_path]).read_text()
    # In the log, and in the tooltips of both charts.
    assert page.count("between 0.8510 and 0.8834") == page.count("0.1250 before training") == 3
    assert "0.9600" not in page and "0.3000" not in page
    assert ">unknown</text>" in page and "not trained" not in page


@pytest.mark.parametrize(
    ("method", "training", "source", "floor"),
    [
        ("cprune", "after a short training", "last accepted model", True),
        ("progressive", "after a short training and, if that is not", "last accepted model", True),
        ("knapsack", "before any training", "unpruned model", False),
    ],
)
def test_a_report_names_the_method_and_describes_its_candidates(tmp_path, method, training, source, floor):
    folder, unfinished = write_run(tmp_path / "one"), write_run(tmp_path / "two", finished=False)
    result = json.loads((folder / "result.json").read_text())
    (folder / "result.json").write_text(json.dumps({**result, "method": {"name": method}}))
    config = json.loads((unfinished / "config.json").read_text())
    (unfinished / "config.json").write_text(json.dumps({**config, "method": method}))
    for run in (folder, unfinished):
        page = write_report([run]).read_text()
        assert f"<li>method {method}</li>" in page
        assert f"evaluated {training}" in page and f"channels from the {source}." in page
        assert ("accuracy floor 0.9" in page) == floor
    compared = write_report([folder, unfinished], tmp_path / "out.html").read_text()
    assert compared.count(f"<td>{method}</td>") == 2


def test_a_candidate_that_is_accepted_later_is_drawn_once(tmp_path):
    folder = write_run(tmp_path, finished=False)
    measured = [event for event in journal_of(12) if event.get("verdict") == "measured"][-1]
    event = {**measured, "event": "accepted", "accepted": True, "verdict": "accepted", "reason": "the best"}
    append_lines(folder / "journal.jsonl", [json.dumps({**event, "speedup": 1.5})])
    run = read_run(folder)
    assert len(run.attempts) == 12 and len(run.accepted) == 6
    chosen = run.attempts[measured["iteration"] - 1]
    assert (chosen.verdict, chosen.reason) == ("accepted", "the best")
    assert run.speedup == 1.5 and run.after.accuracy_val == measured["accuracy_val"]
    assert "6 of 12 candidates were accepted." in write_report([folder]).read_text()
