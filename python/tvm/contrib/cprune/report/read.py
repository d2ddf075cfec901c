# SPDX-License-Identifier: Apache-2.0
"""Read what a report shows from the folder of a run."""

import json
from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from tvm.contrib.cprune.loop.history import iterations, phase_seconds
from tvm.contrib.cprune.loop.state import Event
from tvm.contrib.cprune.report.tasks import compare_tasks
from tvm.contrib.cprune.report.values import VERDICTS, Attempt, LayerWidth, RunReport, Side, TaskChange
from tvm.contrib.cprune.table import TaskTable
from tvm.contrib.cprune.types import CPruneError, Latency


def read_run(folder: Path) -> RunReport:
    """Read a run, finished or not. Nothing in the folder is changed.

    Raises
    ------
    CPruneError
        If the folder holds no run, the run has not timed the unpruned model yet, or a file is damaged.
    """
    result, events = folder / "result.json", _read_events(folder / "journal.jsonl")
    baseline = next((event for event in events if event.get("event") == "baseline"), None)
    if not result.exists() and baseline is None:
        raise CPruneError(_nothing_to_show(folder))
    try:
        if not result.exists():
            config = json.loads((folder / "config.json").read_text())
            return _unfinished(folder, config, events)
        return _finished(folder, json.loads(result.read_text()), baseline)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        source = result if result.exists() else f"config.json or journal.jsonl in {folder}"
        raise CPruneError(f"{source} is damaged or not of a run of CPrune: {error!r}") from None


def _nothing_to_show(folder: Path) -> str:
    if not folder.is_dir():
        return f"{folder} is not a folder: name the folder of a run"
    if (folder / "config.json").exists() or (folder / "options.json").exists():
        return f"{folder} has nothing to report yet: the run has not timed the unpruned model"
    return f"{folder} is not the folder of a run: it has neither result.json nor journal.jsonl"


def _read_events(path: Path) -> list[Event]:
    """Return the events of a journal. The last line may be incomplete, as a run may be writing it."""
    if not path.exists():
        return []
    try:
        complete, _, _ = path.read_text().rpartition("\n")
        events = [json.loads(line) for line in complete.splitlines()]
    except ValueError:
        raise CPruneError(f"{path} is damaged: a line is not JSON") from None
    if not all(isinstance(event, dict) for event in events):
        raise CPruneError(f"{path} is damaged: a line is not an event")
    return events


def _finished(folder: Path, result: Mapping[str, Any], baseline: Event | None) -> RunReport:
    before, after = _side(result["baseline"]), _side(result["pruned"])
    widths = [
        LayerWidth(layer, width, result["pruned"]["widths"][layer])
        for layer, width in result["baseline"]["widths"].items()
    ]
    tasks, notes = _tasks(folder, finished=True)
    return RunReport(
        **_labels(folder, result),
        threads=result["threads"],
        start=_start(baseline) if baseline else before,
        before=before,
        after=after,
        speedup=result["speedup"],
        stopped=result["stopped_because"],
        finished=True,
        attempts=_attempts(result["iterations"]),
        widths=tuple(widths),
        tasks=tasks,
        phases=dict(result.get("seconds", {})),
        work=dict(result.get("seconds_by_work", {})),
        notes=notes,
    )


def _unfinished(folder: Path, config: Mapping[str, Any], events: list[Event]) -> RunReport:
    attempts = _attempts(iterations(events))
    start = _start(next(event for event in events if event["event"] == "baseline"))
    last = next((event for event in reversed(events) if event.get("accepted", False)), None)
    tasks, notes = _tasks(folder, finished=False)
    progress = (
        "This run is not finished: it is in progress or was interrupted. The page shows what its journal "
        "says so far, with the last accepted candidate as the pruned model and only the widths that changed."
    )
    return RunReport(
        **_labels(folder, config),
        threads=config["tune"]["threads"] or None,
        start=start,
        before=start,
        after=_start(last) if last else None,
        speedup=last["speedup"] if last else None,
        stopped=next((event["reason"] for event in events if event["event"] == "stopped"), ""),
        finished=False,
        attempts=attempts,
        widths=_group_widths(attempt for attempt in attempts if attempt.accepted),
        tasks=tasks,
        phases=phase_seconds(events),
        work={},
        notes=(progress, *notes),
    )


def _labels(folder: Path, settings: Mapping[str, Any]) -> dict[str, Any]:
    # A configuration has the name, and a result the settings of the method.
    method = settings.get("method", "cprune")
    return {
        "name": folder.resolve().name,
        "method": str(method if isinstance(method, str) else method["name"]),
        "model": str(settings.get("model") or "model"),
        "dataset": str(settings.get("dataset") or ""),
        "target": str(settings["target"]),
        "device": str(settings["device_key"]),
        "requirement": float(settings["accuracy_requirement"]),
    }


def _side(data: Mapping[str, Any]) -> Side:
    latency, test = data["latency_ms"], data["accuracy_test"]
    values = (float(latency["median"]), float(latency["spread"]), float(data["accuracy_val"]))
    return Side(*values, None if test is None else float(test), int(data["macs"]), int(data["params"]))


def _start(event: Event) -> Side:
    """Return the model that an event "baseline", or one that accepts a candidate, describes."""
    latency = Latency(tuple(event["latency_s"]))
    return Side(latency.median * 1e3, latency.spread * 1e3, event["accuracy_val"])


def _attempts(entries: Iterable[Mapping[str, Any]]) -> tuple[Attempt, ...]:
    attempts = [_attempt(entry) for entry in entries]
    for unknown in (attempt.verdict for attempt in attempts if attempt.verdict not in VERDICTS):
        raise ValueError(f"verdict {unknown!r}")
    return tuple(attempts)


def _attempt(entry: Mapping[str, Any]) -> Attempt:
    latency, accuracy = entry["latency_ms"], entry["accuracy_val"]
    return Attempt(
        iteration=int(entry["iteration"]),
        task=str(entry["task"]),
        layers=tuple(str(layer) for layer in entry["layers"]),
        widths=tuple((str(root), int(old), int(new)) for root, (old, new) in entry["widths"].items()),
        verdict=str(entry["verdict"]),
        reason=str(entry["reason"]),
        latency_ms=None if latency is None else float(latency),
        accuracy=None if accuracy is None else float(accuracy),
        seconds=float(entry["seconds"]),
        accuracy_part=_interval(entry.get("accuracy_part")),
        accuracy_untrained=_interval(entry.get("accuracy_untrained")),
    )


def _interval(value: Any) -> tuple[float, float] | None:
    return None if value is None else (float(value[0]), float(value[1]))


def _group_widths(accepted: Iterable[Attempt]) -> tuple[LayerWidth, ...]:
    """Return the first and the latest width of each channel group that accepted candidates pruned."""
    found: dict[str, LayerWidth] = {}
    for root, old, new in (width for attempt in accepted for width in attempt.widths):
        found[root] = replace(found.get(root, LayerWidth(root, old, new)), after=new)
    return tuple(found.values())


def _tasks(folder: Path, finished: bool) -> tuple[tuple[TaskChange, ...], tuple[str, ...]]:
    """Return the tasks of both models, or none and a note if a table cannot be read."""
    try:
        before = TaskTable.load(folder / "table_unpruned.json", same_version=False)
        after = TaskTable.load(folder / "table.json", same_version=False) if finished else None
        return compare_tasks(before, after), ()
    except CPruneError as error:
        return (), (f"Task latencies are not shown: {error}.",)
