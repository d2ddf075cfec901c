# SPDX-License-Identifier: Apache-2.0
"""What the events of a journal say about the course of a run."""

from collections import defaultdict
from collections.abc import Iterable
from typing import Any

from tvm.contrib.cprune.loop.state import PRUNING_EVENTS, Event
from tvm.contrib.cprune.types import Latency

_PHASES = {"baseline": "first_tuning", **dict.fromkeys(PRUNING_EVENTS, "pruning")}


def iterations(events: Iterable[Event]) -> list[dict[str, Any]]:
    """Return the entries of a result's ``iterations``, one for each candidate.

    A method that compares candidates accepts one of them later, by an event of its own.
    """
    entries: dict[int, dict[str, Any]] = {}
    for event in events:
        if event["event"] == "candidate":
            entries[event["iteration"]] = _iteration(event)
        elif event["event"] == "accepted":
            entries[event["iteration"]] |= {key: event[key] for key in ("accepted", "verdict", "reason")}
    return list(entries.values())


def _iteration(event: Event) -> dict[str, Any]:
    latency = Latency(tuple(event["latency_s"])).median * 1e3 if "latency_s" in event else None
    keys = ("iteration", "task", "layers", "widths", "accepted", "verdict", "reason", "seconds")
    accuracies = ("accuracy_val", "accuracy_untrained", "accuracy_part")
    return {
        **{key: event[key] for key in keys},
        "latency_ms": latency,
        **{key: event.get(key) for key in accuracies},
    }


def phase_seconds(events: Iterable[Event]) -> dict[str, float]:
    """Return the seconds of each phase, summed over all processes that worked on the run."""
    total: dict[str, float] = defaultdict(float)
    for event in events:
        if "seconds" in event:
            kind = str(event["event"])
            total[_PHASES.get(kind, kind)] += event["seconds"]
    return dict(total)
