# SPDX-License-Identifier: Apache-2.0
"""The configured importance of channels."""

import torch

from tvm.contrib.cprune.loop.run import Run
from tvm.contrib.cprune.loop.training import seeded_batches
from tvm.contrib.cprune.models.importance import accumulate_gradients, score
from tvm.contrib.cprune.models.surgery import Scorer


def scorer_of(run: Run, model: torch.nn.Module, number: int) -> Scorer:
    """Return the scorer of a model's channel groups by the configured importance.

    Parameters
    ----------
    model
        Receives the gradients that the Taylor importance reads. They replace earlier ones.
    number
        Number of the candidate, on which the seed of the random importance depends.
    """
    importance, training = run.config.importance, run.training
    if importance == "taylor":
        assert training.criterion is not None
        with run.journal.stopwatch("train"):
            accumulate_gradients(model, seeded_batches(training, run.config.seed), training.criterion)
    seed = run.config.seed + number
    return lambda group: score(group, importance, seed)
