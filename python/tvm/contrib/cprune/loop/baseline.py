# SPDX-License-Identifier: Apache-2.0
"""The start of a run: the unpruned model, and the model that a resumed run continues with."""

import time

from tvm.contrib.cprune.building.build import algorithms_of
from tvm.contrib.cprune.loop.run import AcceptedModel, Run
from tvm.contrib.cprune.loop.state import LoopState
from tvm.contrib.cprune.models.checkpoint import load_checkpoint
from tvm.contrib.cprune.models.prunable import PrunableModel


def tune_baseline(run: Run, accuracy: float, prunable: PrunableModel) -> AcceptedModel:
    """Tune the unpruned model and time it (lines 1 to 3).

    A resumed run reuses the recorded programs and latency.
    """
    started, event = time.monotonic(), run.journal.last("baseline")
    baseline = run.compiler.tune(run.model, event["algorithms"] if event else None)
    baseline.table.save(run.folder / "table_unpruned.json")
    if event is None:
        latency = run.compiler.time({"unpruned": baseline})["unpruned"]
        run.record(
            {
                "event": "baseline",
                "accuracy_val": accuracy,
                "latency_s": latency.samples,
                "predicted_s": baseline.table.predicted,
                "layers_s": baseline.table.by_layer(),
                "algorithms": algorithms_of(baseline.table),
                "unprunable": prunable.groups(run.config.include, run.config.exclude).unprunable,
                "trials": run.compiler.programs.trials(),
                "seconds": round(time.monotonic() - started, 2),
            }
        )
    else:
        run.report(event)
    return AcceptedModel(baseline, prunable)


def restore(run: Run, state: LoopState, donor: AcceptedModel) -> AcceptedModel:
    """Return the last accepted model of a journal, compiled; ``donor`` if there is none.

    Parameters
    ----------
    donor
        The unpruned model, or one accepted before, whose programs are transplanted.
    """
    if not state.checkpoint:
        return donor
    model = load_checkpoint(run.folder, state.checkpoint, run.model)
    candidate = run.compiler.move(donor.candidate, model, weights=False)
    return AcceptedModel(candidate, PrunableModel.trace(model, run.input_shape))
