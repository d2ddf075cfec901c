# SPDX-License-Identifier: Apache-2.0
"""What CPrune is given: the data's side of training and judging a model, and the parts of a run."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from tvm.contrib.cprune.compiler import Compiler
from tvm.contrib.cprune.config import PruneConfig
from tvm.contrib.cprune.loop.journal import Event, Journal
from tvm.contrib.cprune.models.importance import Batch

Report = Callable[[Event], None]


@dataclass(frozen=True)
class Training:
    """What CPrune needs to know about the data: how to train, and how good a model is.

    Attributes
    ----------
    short_term
        Trains a model in place for a moment, after each pruning step.
    long_term
        Trains the final model in place.
    evaluate
        Returns the accuracy in [0, 1] on the validation split, which decides.
    test
        Returns the accuracy on the test split; called once for each model, at the end.
    batches, criterion
        Training batches and loss, for the Taylor score.
    """

    short_term: Callable[[torch.nn.Module], None]
    evaluate: Callable[[torch.nn.Module], float]
    long_term: Callable[[torch.nn.Module], None] | None = None
    test: Callable[[torch.nn.Module], float] | None = None
    batches: Callable[[], Iterable[Batch]] | None = None
    criterion: torch.nn.Module | None = None


@dataclass(frozen=True)
class Run:
    """One run of CPrune: a model, what is asked for, and where it is recorded."""

    model: torch.nn.Module
    input_shape: tuple[int, ...]
    training: Training
    config: PruneConfig
    compiler: Compiler
    journal: Journal
    folder: Path
    labels: dict[str, Any]
    report: Report
