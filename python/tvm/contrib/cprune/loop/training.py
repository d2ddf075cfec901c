# SPDX-License-Identifier: Apache-2.0
"""The user's side of a run: training and evaluation."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace

import torch

from tvm.contrib.cprune.models.importance import Batch
from tvm.contrib.cprune.stopwatch import Stopwatch


@dataclass(frozen=True)
class Training:
    """Functions that train and evaluate a model on the user's data.

    Attributes
    ----------
    short_term
        Trains a model in place for a short time after each pruning step.
    evaluate
        Returns the accuracy on the validation split, in [0, 1]. Decisions depend on it.
    long_term
        Trains a model in place for a long time: the final one, and candidates of the method ``progressive``
        that lack accuracy after ``short_term``. None skips this training.
    test
        Returns the accuracy on the test split, in [0, 1]. Called once per model, at the end.
    batches
        Returns training batches ``(inputs, targets)``, for the Taylor importance and for sample inputs.
        torch's random generator is seeded before each call, so that a shuffled ``DataLoader`` without a
        generator of its own returns the same batches in a resumed run.
    criterion
        Loss for the Taylor importance.
    recalibrate
        Re-estimates a pruned model's batch-norm statistics in place, from a few training batches, before the
        candidate is trained and evaluated; None leaves them as they were before pruning. See
        ``torch.optim.swa_utils.update_bn``. torch's random generator is seeded before each call, and again
        before ``short_term``.
    evaluate_part
        Returns the number of correctly classified images and the number of all images in a fixed random part
        of the validation split. The whole split is read with ``evaluate`` unless the part shows that a
        candidate will be rejected. None means that the whole split is always read.
    validation_size
        Number of images in the validation split, from which ``evaluate_part`` reads some. If it is None, the
        part has to be larger to show the same.
    """

    short_term: Callable[[torch.nn.Module], None]
    evaluate: Callable[[torch.nn.Module], float]
    long_term: Callable[[torch.nn.Module], None] | None = None
    test: Callable[[torch.nn.Module], float] | None = None
    batches: Callable[[], Iterable[Batch]] | None = None
    criterion: torch.nn.Module | None = None
    recalibrate: Callable[[torch.nn.Module], None] | None = None
    evaluate_part: Callable[[torch.nn.Module], tuple[int, int]] | None = None
    validation_size: int | None = None


def seeded_batches(training: Training, seed: int) -> Iterable[Batch]:
    """Return training batches that do not depend on what precedes the call: a resumed run reads the same.

    Iterate over them before torch's random generator is used for anything else.
    """
    assert training.batches is not None
    torch.manual_seed(seed)
    return training.batches()


def timed(training: Training, stopwatch: Stopwatch) -> Training:
    """Return the same functions, timed as the work "train" or "evaluate"."""
    train, evaluate = stopwatch("train"), stopwatch("evaluate")
    return replace(
        training,
        short_term=train(training.short_term),
        long_term=training.long_term and train(training.long_term),
        evaluate=evaluate(training.evaluate),
        test=training.test and evaluate(training.test),
        recalibrate=training.recalibrate and train(training.recalibrate),
        evaluate_part=training.evaluate_part and evaluate(training.evaluate_part),
    )
