# SPDX-License-Identifier: Apache-2.0
"""The values that all parts of a run share."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from tvm.contrib.cprune.compiler import Candidate, Compiler
from tvm.contrib.cprune.config import PruneConfig
from tvm.contrib.cprune.loop.journal import Journal
from tvm.contrib.cprune.loop.state import Event
from tvm.contrib.cprune.loop.training import Training
from tvm.contrib.cprune.models.prunable import PrunableModel

Report = Callable[[Event], None]


@dataclass(frozen=True)
class Run:
    """One run of CPrune.

    Attributes
    ----------
    model
        A copy of the caller's unpruned model. Its weights are never changed.
    folder
        Takes everything that the run writes.
    labels
        Entries for the result: names of the model, the data set and the classes, and other settings.
    report
        Receives events; see ``CPruner``.
    """

    model: torch.nn.Module
    input_shape: tuple[int, ...]
    training: Training
    config: PruneConfig
    compiler: Compiler
    journal: Journal
    folder: Path
    labels: dict[str, Any]
    report: Report

    def record(self, event: Event) -> Event:
        """Write an event to the journal and report it; return it."""
        self.report(self.journal.append(event))
        return event


@dataclass(frozen=True)
class AcceptedModel:
    """The last accepted candidate, and its model with the channel groups."""

    candidate: Candidate
    prunable: PrunableModel
