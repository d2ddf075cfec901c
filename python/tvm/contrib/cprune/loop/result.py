# SPDX-License-Identifier: Apache-2.0
"""The end of a run: long training, final tuning, both models side by side, everything exported."""

import json
import time
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from tvm.contrib.cprune.compiler import Candidate
from tvm.contrib.cprune.files import replaced, write_text
from tvm.contrib.cprune.loop.journal import Journal
from tvm.contrib.cprune.loop.report import write_html
from tvm.contrib.cprune.loop.training import Run
from tvm.contrib.cprune.models.checkpoint import load_checkpoint, save_checkpoint
from tvm.contrib.cprune.models.surgery import macs_and_params, widths
from tvm.contrib.cprune.types import Latency

FINAL = "final"
# Of timing both models at the end.
ROUNDS = 5


@dataclass(frozen=True)
class _Side:
    """One of the two models that a result compares."""

    candidate: Candidate
    latency: Latency
    accuracy_val: float
    accuracy_test: float | None

    def to_json(self, input_shape: tuple[int, ...]) -> dict[str, Any]:
        macs, params = macs_and_params(self.candidate.model, input_shape)
        return {
            "latency_ms": {"median": self.latency.median * 1e3, "spread": self.latency.spread * 1e3},
            "predicted_ms": self.candidate.table.predicted * 1e3,
            "accuracy_val": self.accuracy_val,
            "accuracy_test": self.accuracy_test,
            "macs": macs,
            "params": params,
            "widths": widths(self.candidate.model),
        }


def finish(run: Run, last: Candidate, baseline: Candidate, stop: str) -> dict[str, Any]:
    """Train and tune the last accepted model, compare it with the unpruned one, write ``result.json`` and the
    exports.

    The test split is read here, once for each of the two models. Training that makes the model worse on the
    validation split is taken back.
    """
    journal, training, config = run.journal, run.training, run.config
    trained = journal.last("final_training")
    if trained is None:
        started = time.time()
        save_checkpoint(run.folder, "last", last.model)
        before = training.evaluate(last.model)
        model = load_checkpoint(run.folder, "last", run.model)
        if training.long_term is not None:
            torch.manual_seed(config.seed)
            training.long_term(model)
        after = training.evaluate(model)
        name = save_checkpoint(run.folder, FINAL, model if after >= before else last.model)
        event = {"event": "final_training", "checkpoint": name, "accuracy_val": max(before, after)}
        trained = journal.append({**event, "seconds": round(time.time() - started, 2)})
    run.report(trained)
    trained_model = load_checkpoint(run.folder, trained["checkpoint"], run.model)
    candidate = Candidate(trained_model, last.relay, last.table, last.library)
    compiler = run.compiler
    candidate = _tune(run, candidate)
    latencies = compiler.time({"baseline": baseline, "pruned": candidate}, ROUNDS)
    first = journal.last("baseline")
    assert first is not None
    tests = [training.test(model) if training.test else None for model in (run.model, trained_model)]
    sides = {
        "baseline": _Side(baseline, latencies["baseline"], first["accuracy_val"], tests[0]),
        "pruned": _Side(candidate, latencies["pruned"], trained["accuracy_val"], tests[1]),
    }
    result = {
        **run.labels,
        "target": str(compiler.target),
        "device_key": compiler.tracker.key if compiler.tracker else "local",
        "threads": compiler.pool.threads,
        **{name: side.to_json(run.input_shape) for name, side in sides.items()},
        "speedup": latencies["baseline"].median / latencies["pruned"].median,
        "accuracy_requirement": config.accuracy_requirement,
        "stopped_because": stop,
        "iterations": [_iteration(e) for e in journal.events if e["event"] == "candidate"],
        "accepted": sum(1 for e in journal.events if e["event"] == "candidate" and e["accepted"]),
        "trials": _trials(first["trials"], compiler.trials()),
        "seconds": _seconds(journal),
        "seconds_by_work": compiler.seconds(),
        "unprunable": first["unprunable"],
    }
    _export(run, candidate, result)
    journal.append({"event": "result", "speedup": result["speedup"]})
    return result


def _iteration(event: dict[str, Any]) -> dict[str, Any]:
    latency = Latency(tuple(event["latency_s"])).median * 1e3 if "latency_s" in event else None
    kept = ("iteration", "task", "layers", "widths", "accepted", "verdict", "reason", "seconds")
    return {**{k: event[k] for k in kept}, "latency_ms": latency, "accuracy_val": event.get("accuracy_val")}


def _tune(run: Run, candidate: Candidate) -> Candidate:
    """Search a little more for the final model. A run that was killed meanwhile has what is left of the
    trials."""
    compiler, journal = run.compiler, run.journal
    begun = journal.last("final_tuning") or journal.append(
        {"event": "final_tuning", "trials": compiler.trials()}
    )
    left = run.config.final_trials - (compiler.trials()["search"] - begun["trials"]["search"])
    return compiler.search_more(candidate, left) if left > 0 else compiler.rebuild(candidate, FINAL)


def _seconds(journal: Journal) -> dict[str, float]:
    """Return what each phase took, of all processes that worked on the run."""
    phases = {"baseline": "first_tuning", "candidate": "pruning"}
    total: dict[str, float] = defaultdict(float)
    for event in journal.events:
        if "seconds" in event:
            kind = str(event["event"])
            total[phases.get(kind, kind)] += event["seconds"]
    return dict(total)


def _trials(first: dict[str, int], total: dict[str, int]) -> dict[str, Any]:
    """Return measured programs by phase, and the share of transplants in those after the first tuning."""
    search, transplant = (total[kind] - first[kind] for kind in ("search", "transplant"))
    later = search + transplant
    share = transplant / later if later else None
    return {
        "first_tuning": first,
        "pruning_and_final_tuning": {"search": search, "transplant": transplant},
        "transplant_share_after_first_tuning": share,
    }


def _export(run: Run, candidate: Candidate, result: dict[str, Any]) -> None:
    """Write the pruned model in every form a user may want, and the reports."""
    folder = run.folder
    model = candidate.model.cpu().eval()
    example = torch.zeros(run.input_shape)
    for name, each in (("model.pt", model), ("unpruned.pt", run.model.cpu().eval())):
        with torch.no_grad(), replaced(folder / name) as aside:
            torch.jit.trace(each, example).save(str(aside))
    batch = next(iter(run.training.batches()), None) if run.training.batches else None
    if batch is not None:
        with replaced(folder / "samples.npy") as aside, aside.open("wb") as file:
            np.save(file, batch[0][:8].cpu().numpy())
    with replaced(folder / "net.so") as aside:
        aside.write_bytes(candidate.library.read_bytes())
    problem = _export_onnx(model, example, folder / "model.onnx")
    if problem:
        result["onnx"] = f"not exported: {problem}"
    candidate.table.save(folder / "table.json")
    write_text(folder / "result.json", json.dumps(result, indent=1))
    write_html(folder)


def _export_onnx(model: torch.nn.Module, example: torch.Tensor, path: Path) -> str:
    """Write the model as ONNX; return "" or why that was not possible."""
    try:
        with replaced(path) as aside:
            torch.onnx.export(model, (example,), str(aside), dynamo=False, verbose=False)
    except (ImportError, RuntimeError, TypeError) as error:
        return str(error).splitlines()[0]
    return ""
