# SPDX-License-Identifier: Apache-2.0
"""The append-only record of a run."""

import json
import time
from collections import defaultdict
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tvm.contrib.cprune.files import append_lines, recover_lines, write_text
from tvm.contrib.cprune.loop.state import Event, LoopState
from tvm.contrib.cprune.stopwatch import Stopwatch
from tvm.contrib.cprune.types import CPruneError

# Seconds after which a search or a training writes down its time, because a killed process loses what it did
# not write.
TIME_INTERVAL = 60
# Entry of the conditions in the file of the settings.
_CONDITIONS = "conditions"


class Journal:
    """``journal.jsonl``: one event per line, flushed to disk before anything depends on it.

    Each event has the seconds since the one before, by kind of work, as ``work``.

    Parameters
    ----------
    stopwatch
        Times the work of this process; None means a new one.

    Raises
    ------
    CPruneError
        If a complete line is not JSON.
    """

    def __init__(self, path: Path, stopwatch: Stopwatch | None = None) -> None:
        self.path, self.stopwatch = path, stopwatch or Stopwatch()
        self._written = time.monotonic()
        try:
            self.events: list[Event] = [json.loads(line) for line in recover_lines(path)]
        except ValueError:
            raise CPruneError(f"{path} is damaged: a line is not JSON") from None

    def append(self, event: Event) -> Event:
        """Write an event with the time since the last one, and return it."""
        work = {name: round(seconds, 3) for name, seconds in self.stopwatch.lap().items()}
        event = {**event, "work": work}
        append_lines(self.path, [json.dumps(event)])
        self.events.append(event)
        self._written = time.monotonic()
        return event

    def append_time(self) -> None:
        """Write down the time since the last event if that is long ago."""
        if time.monotonic() - self._written >= TIME_INTERVAL:
            self.append({"event": "time"})

    def seconds_by_work(self) -> dict[str, float]:
        """Return the seconds by kind of work, summed over all processes that worked on the run.

        Not counted is what a killed process did after its last event.
        """
        total: dict[str, float] = defaultdict(float)
        for event in self.events:
            for work, seconds in event.get("work", {}).items():
                total[work] += seconds
        return {work: round(seconds, 2) for work, seconds in total.items()}

    def last(self, kind: str) -> Event | None:
        """Return the last event of a kind, None if there is none."""
        return next((event for event in reversed(self.events) if event["event"] == kind), None)

    def state(self) -> LoopState:
        """Return the state after all events."""
        state = LoopState()
        for event in self.events:
            state = state.after(event)
        return state


def open_run(
    folder: Path,
    config: Mapping[str, Any],
    resume: bool,
    stopwatch: Stopwatch | None = None,
    conditions: Mapping[str, Any] | None = None,
) -> Journal:
    """Open a run folder: a new one, or with ``resume`` one with the same configuration and conditions.

    Parameters
    ----------
    conditions
        See ``record_settings``.
    stopwatch
        Times the work of this process (see ``Journal``).

    Raises
    ------
    CPruneError
        If the folder holds a run and ``resume`` is false, or a run with another configuration or other
        conditions. Nothing is changed then.
    """
    record_settings(folder / "config.json", config, resume, conditions)
    return Journal(folder / "journal.jsonl", stopwatch)


def record_settings(
    path: Path, settings: Mapping[str, Any], resume: bool, conditions: Mapping[str, Any] | None = None
) -> None:
    """Write the settings of a new run, or compare them with those of the run to resume.

    Parameters
    ----------
    conditions
        What the measurements are valid for, such as the device; None if that is not known. Files of earlier
        versions do not have it, and count as equal.

    Raises
    ------
    CPruneError
        If the file exists and ``resume`` is false, or the file has other settings or conditions.
    """
    requested, own = json.loads(json.dumps([settings, conditions]))
    if not path.exists():
        write_text(path, json.dumps({**requested, **({_CONDITIONS: own} if own else {})}, indent=1))
        return
    try:
        stored = json.loads(path.read_text())
    except ValueError:
        raise CPruneError(f"{path} is damaged: it is not JSON") from None
    recorded = stored.pop(_CONDITIONS, None)
    if pairs := _differences(stored, requested):
        raise CPruneError(f"{path.parent} belongs to another configuration ({pairs}); choose another folder")
    if recorded and own and (pairs := _differences(recorded, own)):
        raise CPruneError(
            f"{path.parent} was measured under other conditions ({pairs}): "
            "continue it under those, or choose another folder"
        )
    if not resume:
        raise CPruneError(f"{path.parent} holds a run with this configuration; continue it with --resume")


def _differences(stored: Mapping[str, Any], requested: Mapping[str, Any]) -> str:
    """Return the first few entries that differ, as text."""
    names = sorted(k for k in stored.keys() | requested.keys() if stored.get(k) != requested.get(k))
    return ", ".join(f"{k}: {stored.get(k)!r} there, {requested.get(k)!r} now" for k in names[:3])
