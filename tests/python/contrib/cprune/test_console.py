# SPDX-License-Identifier: Apache-2.0
"""What a finished run prints."""

import io

from rich.console import Console

from tvm.contrib.cprune.loop.console import summary

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
    start = rows.index(["work", "time", "share"])
    times = [row for row in rows[start + 1 :] if len(row) in (2, 3) and row[0].isalpha()]
    assert times == [
        ["search", "1:00:00", "92%"],
        ["train", "0:04:30", "7%"],
        ["other", "0:00:30", "1%"],
        ["total", "1:05:00"],
    ]
