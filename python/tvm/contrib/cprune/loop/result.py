# SPDX-License-Identifier: Apache-2.0
"""The end of a run: final training and tuning, the comparison of both models, ``result.json``."""

import json
import time
from dataclasses import asdict, dataclass, replace
from typing import Any

import torch

from tvm.contrib.cprune.compiler import Candidate
from tvm.contrib.cprune.files import write_text
from tvm.contrib.cprune.lagging import speed_losses
from tvm.contrib.cprune.loop.evaluation import checked_accuracy, evaluate
from tvm.contrib.cprune.loop.export import export
from tvm.contrib.cprune.loop.history import iterations, phase_seconds
from tvm.contrib.cprune.loop.journal import Journal
from tvm.contrib.cprune.loop.run import Run
from tvm.contrib.cprune.loop.state import Event
from tvm.contrib.cprune.method_settings import used_settings
from tvm.contrib.cprune.models.checkpoint import load_checkpoint, save_checkpoint
from tvm.contrib.cprune.models.surgery import copy_model, macs_and_params, widths
from tvm.contrib.cprune.types import Latency

# Rounds of timing both models in turn.
ROUNDS = 5


@dataclass(frozen=True)
class _Measured:
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
    """Train and tune the last accepted model, compare it with the unpruned one, and write the results.

    The test split is read here, once per model.

    Parameters
    ----------
    last, baseline
        The last accepted model and the unpruned one.
    stop
        Why the loop stopped.

    Returns
    -------
    result
        The contents of ``result.json``.
    """
    trained = run.journal.last("final_training") or _train(run, last)
    run.report(trained)
    model = load_checkpoint(run.folder, trained["checkpoint"], run.model)
    pruned, baseline = _tune_both(run, replace(last, model=model), baseline)
    baseline.table.save(run.folder / "table_unpruned.json")
    latencies = run.compiler.time({"baseline": baseline, "pruned": pruned}, ROUNDS)
    first = run.journal.last("baseline")
    assert first is not None
    accuracies = {"baseline": first["accuracy_val"], "pruned": trained["accuracy_val"]}
    tests = run.journal.last("test") or _test(run, model)
    sides = {
        name: _Measured(candidate, latencies[name], accuracies[name], tests[name])
        for name, candidate in (("baseline", baseline), ("pruned", pruned))
    }
    facts = export(run, pruned)
    # Journals the time of everything that precedes the result.
    run.journal.append({"event": "exported"})
    result = {
        **_settings(run),
        **{name: side.to_json(run.input_shape) for name, side in sides.items()},
        "speedup": latencies["baseline"].median / latencies["pruned"].median,
        "stopped_because": stop,
        **_history(run.journal),
        "trials": _trials(first["trials"], run.compiler.programs.trials()),
        "seconds": phase_seconds(run.journal.events),
        "seconds_by_work": run.journal.seconds_by_work(),
        "unprunable": first["unprunable"],
        "speed_losses": [asdict(change) for change in speed_losses(pruned.table, baseline.table)],
        **facts,
    }
    write_text(run.folder / "result.json", json.dumps(result, indent=1))
    run.journal.append({"event": "result", "speedup": result["speedup"]})
    return result


def _train(run: Run, last: Candidate) -> Event:
    """Train the last accepted model for a long time; keep the better one on the validation split."""
    started, training = time.monotonic(), run.training
    before = evaluate(training, last.model)
    model = copy_model(last.model)
    if training.long_term is not None:
        torch.manual_seed(run.config.seed)
        training.long_term(model)
    after = evaluate(training, model)
    name = save_checkpoint(run.folder, "final", model if after >= before else last.model)
    seconds = round(time.monotonic() - started, 2)
    event = {"event": "final_training", "checkpoint": name, "accuracy_val": max(before, after)}
    return run.journal.append({**event, "seconds": seconds})


def _tune_both(run: Run, pruned: Candidate, baseline: Candidate) -> tuple[Candidate, Candidate]:
    """Tune both models (see ``_tune``), and delete the libraries that are replaced."""
    # The unpruned model last, because programs found for the pruned one suit the layers that both share.
    tuned = _tune(run, "pruned", pruned), _tune(run, "baseline", baseline)
    for candidate in (pruned, baseline):
        if candidate.library not in [made.library for made in tuned]:
            run.compiler.discard(candidate)
    return tuned


def _tune(run: Run, name: str, candidate: Candidate) -> Candidate:
    """Compile a model with its final weights and the fastest programs, after a final search if there is one.

    Both models are searched until their tasks have the same number of trials; earlier ones count.
    """
    started, trials = time.monotonic(), run.config.final_trials
    if trials:
        candidate = run.compiler.search_again(candidate, trials, name)
    elif name == "pruned":
        candidate = run.compiler.rebuild(candidate, name)
    seconds = round(time.monotonic() - started, 2)
    run.journal.append({"event": "final_tuning", "model": name, "seconds": seconds})
    return candidate


def _test(run: Run, pruned: torch.nn.Module) -> Event:
    """Read the test split, and journal the accuracies at once: a resumed run does not read it again."""
    test = run.training.test
    accuracies = {
        name: checked_accuracy(test(model), "test") if test else None
        for name, model in (("baseline", run.model), ("pruned", pruned))
    }
    return run.journal.append({"event": "test", **accuracies})


def _settings(run: Run) -> dict[str, Any]:
    compiler = run.compiler
    return {
        **run.labels,
        "target": str(compiler.target),
        "device_key": compiler.tracker.key if compiler.tracker else "local",
        "threads": compiler.measurer.threads,
        "accuracy_requirement": run.config.accuracy_requirement,
        "method": used_settings(run.config),
    }


def _history(journal: Journal) -> dict[str, Any]:
    """Return the iterations, and the number of accepted ones."""
    done = iterations(journal.events)
    return {"iterations": done, "accepted": sum(iteration["accepted"] for iteration in done)}


def _trials(first: dict[str, int], total: dict[str, int]) -> dict[str, Any]:
    """Return measured programs by phase, and the share of transplants after the first tuning."""
    search, transplant = (total[kind] - first[kind] for kind in ("search", "transplant"))
    later = search + transplant
    return {
        "first_tuning": first,
        "pruning_and_final_tuning": {"search": search, "transplant": transplant},
        "transplant_share_after_first_tuning": transplant / later if later else None,
    }
