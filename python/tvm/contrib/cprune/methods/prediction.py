# SPDX-License-Identifier: Apache-2.0
"""Latencies of pruned models without building them, from transplanted programs."""

from collections.abc import Mapping

import torch

from tvm.contrib.cprune.loop.run import AcceptedModel, Run
from tvm.contrib.cprune.methods.planned import groups_of
from tvm.contrib.cprune.models.surgery import channels_to_drop
from tvm.contrib.cprune.table import TaskTable
from tvm.contrib.cprune.types import ChannelStep


def unpruned_layers(run: Run, baseline: AcceptedModel) -> dict[str, float]:
    """Return the seconds of every layer of the unpruned model, as they were after the first tuning.

    Searches for candidates can find faster programs of layers that they share with the unpruned model. A
    resumed run compiles it with those, but must decide as before.
    """
    event = run.journal.last("baseline")
    assert event is not None
    # Journals of earlier versions have no such entry.
    layers: dict[str, float] = event.get("layers_s") or baseline.candidate.table.by_layer()
    return layers


def predicted_table(run: Run, current: AcceptedModel, widths: Mapping[str, int]) -> TaskTable:
    """Return the task table of a model at other widths, with transplanted programs.

    Programs that the run has measured before are not measured again. A candidate of these widths may get
    faster programs (see ``Compiler.predict``).

    Parameters
    ----------
    widths
        New number of channels by root of the group.

    Raises
    ------
    CandidateError
        If the model cannot be pruned this way, or a task has no valid program.
    """
    steps = [ChannelStep(g, widths[g.root], "") for g in groups_of(run, current) if g.root in widths]
    # Latency depends on the number of channels only: any may be removed.
    drops = {step.group.root: channels_to_drop(torch.zeros(step.width), step) for step in steps}
    model = current.prunable.drop_channels(drops).model
    return run.compiler.predict(current.candidate, model)
