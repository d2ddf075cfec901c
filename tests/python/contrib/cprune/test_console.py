# SPDX-License-Identifier: Apache-2.0
"""Progress of a training, on a terminal and in a log, and the summary of a run."""

import io
from typing import Any

import pytest
from rich.console import Console

from tvm.contrib.cprune.loop.console import ConsoleReport, summary
from tvm.contrib.cprune.loop.training_progress import TrainingProgress
from tvm.contrib.cprune.tuning.progress import Progress
from tvm.contrib.cprune.types import Subgraph, Task


def progress(epoch: int, batch: int) -> dict[str, Any]:
    return {"event": "progress", "progress": TrainingProgress("final training", epoch, 2, batch, 3, 0.5, 61)}


def output(events: list[dict[str, Any]], terminal: bool) -> str:
    file = io.StringIO()
    console = Console(file=file, force_terminal=terminal, width=100, soft_wrap=True, highlight=False)
    with ConsoleReport(console) as report:
        for event in events:
            report(event)
    return file.getvalue()


def test_a_log_has_a_line_for_each_epoch():
    events = [progress(epoch, batch) for epoch in (1, 2) for batch in (1, 2, 3)]
    assert output(events, terminal=False).splitlines() == [
        "final training: epoch 1/2, loss 0.5000, 61 s left",
        "final training: epoch 2/2, loss 0.5000, 61 s left",
    ]


def test_a_terminal_shows_the_last_batch_until_the_training_ends():
    shown, erase = output([progress(1, 1), progress(1, 2)], terminal=True), "\x1b[2K"
    _, line, rest = shown.partition("final training: epoch 1/2, batch 2/3, loss 0.5000, 61 s left")
    assert line and erase in rest


def test_a_training_follows_a_search_on_a_terminal():
    task = Task("key", (Subgraph("s", "nn.conv2d", ("conv1",)),), 2e6)
    search = {"event": "progress", "progress": Progress(task, 3, 1e-3, 4, 8, 2.0)}
    shown, title = output([search, progress(1, 1), search], terminal=True), "tuning: 4 of 8 trials, about 2 s"
    assert shown.index(title) < shown.index("final training: epoch 1/2") < shown.rindex(title)


@pytest.mark.parametrize("terminal", [True, False])
def test_messages_of_a_training_are_printed(terminal):
    message = {"event": "training", "message": "resuming the training after epoch 1 of 2"}
    assert "resuming the training after epoch 1 of 2\n" in output([message, progress(2, 1)], terminal)


def test_a_candidate_is_measured_before_it_is_accepted():
    event = {"iteration": 2, "accuracy_val": 0.9, "reason": "a alone"}
    measured = {**event, "event": "candidate", "widths": {"a": [64, 32]}, "latency_s": [2e-3]}
    measured |= {"accepted": False, "verdict": "measured"}
    accepted = {**event, "event": "accepted", "reason": "it is the most accurate of 3 candidates"}
    assert output([measured, accepted], terminal=False).splitlines() == [
        "[  2] a 64 -> 32: 2.000 ms, accuracy 0.9000, measured: a alone",
        "[  2] accepted: it is the most accurate of 3 candidates",
    ]


SIDE = {
    "latency_ms": {"median": 2.0, "spread": 0.1},
    "accuracy_test": None,
    "accuracy_val": 0.9,
    "macs": 1_000_000,
    "params": 1_000,
}


def test_the_summary_lists_the_time_by_work_with_the_longest_first():
    seconds = {"other": 30.0, "search": 3600.0, "train": 270.4}
    result = {"baseline": SIDE, "pruned": SIDE, "speed_losses": [], "seconds_by_work": seconds}
    output = io.StringIO()
    Console(file=output, width=120).print(summary(result))
    rows = [line.replace("│", " ").replace("┃", " ").split() for line in output.getvalue().splitlines()]
    assert "without the training of the unpruned network" in output.getvalue()
    start = rows.index(["work", "time", "share"])
    times = [row for row in rows[start + 1 :] if len(row) in (2, 3) and row[0].isalpha()]
    assert times == [
        ["search", "1:00:00", "92%"],
        ["train", "0:04:30", "7%"],
        ["other", "0:00:30", "1%"],
        ["total", "1:05:00"],
    ]
