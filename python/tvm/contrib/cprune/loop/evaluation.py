# SPDX-License-Identifier: Apache-2.0
"""Accuracies as the user's functions return them, checked."""

import math
import operator

import torch

from tvm.contrib.cprune.loop.interval import Interval, wilson_interval
from tvm.contrib.cprune.loop.training import Training
from tvm.contrib.cprune.types import CPruneError


def evaluate(training: Training, model: torch.nn.Module) -> float:
    """Return a model's accuracy on the validation split, in [0, 1]; see ``checked_accuracy``."""
    return checked_accuracy(training.evaluate(model), "evaluate")


def estimate(training: Training, model: torch.nn.Module) -> Interval:
    """Return what the fixed part of the validation split says about the accuracy on the whole split.

    If there is no such part, the whole split is read, and the interval has a single value.
    """
    if training.evaluate_part is None:
        accuracy = evaluate(training, model)
        return Interval(accuracy, accuracy)
    size = training.validation_size
    return wilson_interval(*checked_counts(training.evaluate_part(model), size), size)


def checked_counts(value: object, size: int | None) -> tuple[int, int]:
    """Return the numbers of correct images and of all images as plain integers.

    Parameters
    ----------
    value
        What ``Training.evaluate_part`` returned.
    size
        Number of images in the validation split; None means unknown.

    Raises
    ------
    CPruneError
        If the value is not a pair of integers that can be such numbers.
    """
    try:
        correct, count = (operator.index(number) for number in value)  # type: ignore[attr-defined]
    except (TypeError, ValueError):
        raise CPruneError(
            f"Training.evaluate_part returned {value!r}, expected the numbers of correct images and of all "
            "images, such as (713, 1000)"
        ) from None
    if not 0 <= correct <= count or count == 0:
        raise CPruneError(f"Training.evaluate_part returned {correct} correct images of {count}")
    if size is not None and count > size:
        raise CPruneError(
            f"Training.evaluate_part read {count} images of a validation split of {size}: correct "
            "Training.validation_size"
        )
    return correct, count


def checked_accuracy(value: object, function: str) -> float:
    """Return an accuracy as a plain float.

    Parameters
    ----------
    value
        A number, or an array or tensor with one element.
    function
        Name of the function in ``Training`` that returned the value.

    Raises
    ------
    CPruneError
        If the value is not a finite number in [0, 1].
    """
    try:
        accuracy = float(value)  # type: ignore[arg-type]
    except (TypeError, ValueError):
        raise CPruneError(
            f"Training.{function} returned a {type(value).__name__}, expected an accuracy in [0, 1]"
        ) from None
    if not math.isfinite(accuracy) or not 0 <= accuracy <= 1:
        hint = ": divide percentages by 100" if 1 < accuracy <= 100 else ""
        raise CPruneError(f"Training.{function} returned {accuracy}, expected an accuracy in [0, 1]{hint}")
    return accuracy
