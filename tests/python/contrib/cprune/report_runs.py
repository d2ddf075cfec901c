# SPDX-License-Identifier: Apache-2.0
"""Folders of runs with made-up numbers, for the tests of reports."""

import json
import random
from dataclasses import replace
from pathlib import Path
from typing import Any

from commands import ROOT

from tvm.contrib.cprune.files import append_lines, write_text
from tvm.contrib.cprune.loop.history import iterations, phase_seconds
from tvm.contrib.cprune.table import Row, TaskTable
from tvm.contrib.cprune.types import Latency, Subgraph

STARTERS = ROOT / "python" / "tvm" / "contrib" / "cprune" / "starters" / "avx2.json"
# A name that is markup, which must stay text.
EVIL = "<script>window.injected=1</script>"
LAYERS = ("conv1", "layer1.0.conv1", "layer1.0.conv2", "layer2.0.conv1", EVIL, "fc")
WIDTHS = (64, 64, 64, 128, 256, 10)
CYCLE = ("accepted", "latency", "accepted", "accuracy", "impossible", "accepted", "measured")


def candidates(number: int, seed: int = 0) -> list[dict[str, Any]]:
    """Return journal events of candidates, whose verdicts go through ``CYCLE``."""
    rng, latency, accuracy, events = random.Random(seed), 2e-3, 0.95, []
    channels = dict(zip(LAYERS, WIDTHS, strict=True))
    for n in range(1, number + 1):
        verdict, layer = CYCLE[(n - 1) % len(CYCLE)], LAYERS[n % 5]
        width, new_width = channels[layer], channels[layer] - 8
        event: dict[str, Any] = {
            "event": "candidate",
            "iteration": n,
            "task": layer,
            "layers": [layer],
            "widths": {layer: [width, new_width]},
            "accepted": verdict == "accepted",
            "verdict": verdict,
            "reason": f"reason {n} of {layer}",
            "seconds": 3.0 + n,
        }
        if verdict != "impossible":
            new = latency * (1.01 if verdict == "latency" else rng.uniform(0.9, 0.97))
            event |= {"latency_s": [new, new * 1.01, new * 0.99]}
        if verdict in ("accepted", "accuracy", "measured"):
            event |= {"accuracy_val": round(accuracy - rng.uniform(-0.001, 0.004), 4)}
        if verdict == "accuracy":
            event["accuracy_val"] -= 0.03
        if verdict == "accepted":
            latency, accuracy, channels[layer] = new, event["accuracy_val"], new_width
            event["speedup"] = 2e-3 / latency
        events.append(event)
    return events


def journal_of(number: int, seed: int = 0) -> list[dict[str, Any]]:
    """Return the events of a run that decided ``number`` candidates."""
    start = {"event": "baseline", "accuracy_val": 0.95, "latency_s": [2e-3, 2.1e-3, 1.9e-3], "seconds": 60.5}
    return [start, *candidates(number, seed)]


def tables() -> tuple[TaskTable, TaskTable]:
    """Return tables of an unpruned and a pruned model.

    The first task of the unpruned model, of two layers, is two tasks of half the time in the pruned one.
    """
    donor = TaskTable.load(STARTERS, same_version=False)
    before = [
        _row(donor.rows[0], LAYERS[:2], 2e-3, 4e6),
        *(_row(donor.rows[n], LAYERS[n + 1 : n + 2], 1e-3 / n, 2e6) for n in range(1, 5)),
    ]
    after = [_row(donor.rows[n], LAYERS[n : n + 1], 1e-3, 1e6) for n in range(2)]
    return replace(donor, rows=tuple(before)), replace(donor, rows=(*after, *before[1:]))


def _row(row: Row, layers: tuple[str, ...], seconds: float, flops: float) -> Row:
    subgraphs = tuple(Subgraph(f"conv#{n}", "conv", (layer,), "direct") for n, layer in enumerate(layers))
    program = replace(row.program, latency=Latency((seconds,)))
    return replace(row, task=replace(row.task, subgraphs=subgraphs, flops=flops), program=program)


def write_run(folder: Path, number: int = 12, finished: bool = True, seed: int = 0) -> Path:
    """Write the folder of a run that decided ``number`` candidates."""
    common: dict[str, Any] = {"model": "resnet <b>", "dataset": "cifar10", "target": "llvm -mcpu=core-avx2"}
    common |= {"device_key": "local", "accuracy_requirement": 0.9}
    events = journal_of(number, seed)
    write_text(folder / "config.json", json.dumps({**common, "tune": {"threads": 2}}))
    append_lines(folder / "journal.jsonl", [json.dumps(event) for event in events])
    before, after = tables()
    before.save(folder / "table_unpruned.json")
    if finished:
        after.save(folder / "table.json")
        write_text(folder / "result.json", json.dumps({**common, **_result(events)}))
    return folder


def _result(events: list[dict[str, Any]]) -> dict[str, Any]:
    done = iterations(events)
    last = next(it for it in reversed(done) if it["accepted"])
    widths, pruned = dict(zip(LAYERS, WIDTHS, strict=True)), dict(zip(LAYERS, WIDTHS, strict=True))
    for iteration in done:
        if iteration["accepted"]:
            pruned |= {root: new for root, (_, new) in iteration["widths"].items()}
    sides = [
        ("baseline", 2.0, 0.95, 0.9412, 48_400_000, 1_226_000, widths),
        ("pruned", last["latency_ms"], last["accuracy_val"], 0.9376, 7_100_000, 107_000, pruned),
    ]
    return {
        "threads": 2,
        **{
            name: {
                "latency_ms": {"median": latency, "spread": 0.01},
                "accuracy_val": val,
                "accuracy_test": test,
                "macs": macs,
                "params": params,
                "widths": channels,
            }
            for name, latency, val, test, macs, params, channels in sides
        },
        "speedup": 2.0 / last["latency_ms"],
        "stopped_because": "no task is left that can be pruned",
        "iterations": done,
        "accepted": sum(it["accepted"] for it in done),
        "seconds": phase_seconds(events),
        "seconds_by_work": {"search": 50.0, "transplant": 30.0, "build": 20.0},
    }
