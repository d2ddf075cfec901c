# SPDX-License-Identifier: Apache-2.0
"""The append-only record of a run, and what it says about where the run stands."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from statistics import median
from typing import Any

from tvm.contrib.cprune.files import append_lines, read_lines, write_text
from tvm.contrib.cprune.types import CPruneError

Event = dict[str, Any]


@dataclass(frozen=True)
class LoopState:
    """Where Algorithm 1 stands: everything that the next iteration depends on, but the model and its table.

    Attributes
    ----------
    iteration
        Candidates that were decided.
    accuracy
        Validation accuracy of the last accepted model.
    speedup
        How many times as fast as the unpruned model it is: the product of what each acceptance gained, for
        only latencies of one session compare.
    seconds
        What deciding on the candidates took.
    checkpoint
        Name of its checkpoint; "" before the first acceptance.
    dropped
        Groups, by root, that are out for good: pruning them cost too much accuracy.
    reached
        Widths down to which a group was tried, and too slow, since the last acceptance.
    """

    iteration: int = 0
    accuracy: float = 0.0
    speedup: float = 1.0
    seconds: float = 0.0
    checkpoint: str = ""
    dropped: frozenset[str] = frozenset()
    reached: Mapping[str, int] = field(default_factory=dict)

    def after(self, event: Event) -> "LoopState":
        """Return the state once ``event`` has happened."""
        if event["event"] == "baseline":
            return replace(self, accuracy=event["accuracy_val"])
        if event["event"] != "candidate":
            return self
        now = replace(self, iteration=self.iteration + 1, seconds=self.seconds + event["seconds"])
        if event["accepted"]:
            gained = median(event["old_latency_s"]) / median(event["latency_s"])
            accepted = replace(
                now, accuracy=event["accuracy_val"], checkpoint=event["checkpoint"], reached={}
            )
            return replace(accepted, speedup=self.speedup * gained)
        if event["verdict"] == "latency":
            widths = {root: width[1] for root, width in event["widths"].items()}
            return replace(now, reached={**self.reached, **widths})
        return replace(now, dropped=self.dropped | set(event["widths"]))


class Journal:
    """``journal.jsonl``: one event a line, on the disk before anything builds on it."""

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            self.events: list[Event] = [json.loads(line) for line in read_lines(path)]
        except ValueError:
            raise CPruneError(f"{path} is damaged: a line is not JSON") from None

    def append(self, event: Event) -> Event:
        append_lines(self.path, [json.dumps(event)])
        self.events.append(event)
        return event

    def last(self, kind: str) -> Event | None:
        """Return the last event of a kind."""
        return next((event for event in reversed(self.events) if event["event"] == kind), None)

    def state(self) -> LoopState:
        state = LoopState()
        for event in self.events:
            state = state.after(event)
        return state


def open_run(folder: Path, config: Mapping[str, Any], resume: bool) -> Journal:
    """Open a run folder: a new one, or with ``resume`` one that the same configuration made, if there is one.

    Raises
    ------
    CPruneError
        If the folder holds a run and ``resume`` is not set, or a run of another configuration; nothing is
        changed.
    """
    path = folder / "config.json"
    wanted = json.loads(json.dumps(config))
    if path.exists():
        try:
            found = json.loads(path.read_text())
        except ValueError:
            raise CPruneError(f"{path} is damaged: it is not JSON") from None
        different = sorted(k for k in found.keys() | wanted.keys() if found.get(k) != wanted.get(k))
        if different:
            pairs = ", ".join(f"{k}: {found.get(k)!r} there, {wanted.get(k)!r} now" for k in different[:3])
            raise CPruneError(f"{folder} belongs to another configuration ({pairs}); choose another folder")
        if not resume:
            raise CPruneError(f"{folder} holds a run of this configuration; continue it with --resume")
    else:
        write_text(path, json.dumps(wanted, indent=1))
    return Journal(folder / "journal.jsonl")
