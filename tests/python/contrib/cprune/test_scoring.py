# SPDX-License-Identifier: Apache-2.0
"""The importance of channels, and the samples of a run: a resumed run must use the same images."""

from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from pruning import SHAPE, config, make_model, training
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from tvm.contrib.cprune.loop.scoring import scorer_of
from tvm.contrib.cprune.loop.verification import read_samples
from tvm.contrib.cprune.models.prunable import PrunableModel
from tvm.contrib.cprune.stopwatch import Stopwatch


def shuffled_run() -> Any:
    """Return what a run reads batches with; there are more than the Taylor importance reads."""
    generator = torch.Generator().manual_seed(1)
    images = TensorDataset(torch.randn(40, *SHAPE[1:], generator=generator), torch.arange(40) % 4)
    batches = DataLoader(images, 2, shuffle=True)
    shuffled = replace(training(), batches=lambda: batches, criterion=nn.CrossEntropyLoss())
    journal = SimpleNamespace(stopwatch=Stopwatch())
    return SimpleNamespace(config=config(importance="taylor"), training=shuffled, journal=journal)


def test_the_taylor_importance_does_not_depend_on_what_precedes_it():
    run, scores = shuffled_run(), []
    for state in (3, 4):
        model = make_model()
        prunable = PrunableModel.trace(model, SHAPE)
        torch.manual_seed(state)
        scores.append(prunable.scores(prunable.groups().groups, scorer_of(run, model, 1)))
    first, again = scores
    assert first.keys() == again.keys() == {"a", "b", "c"}
    assert all(torch.equal(first[root], again[root]) for root in first)


def test_samples_do_not_depend_on_what_precedes_them():
    run, samples = shuffled_run(), []
    for state in (3, 4):
        torch.manual_seed(state)
        samples.append(read_samples(run, 2))
    assert np.array_equal(*samples)
