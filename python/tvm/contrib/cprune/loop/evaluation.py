# SPDX-License-Identifier: Apache-2.0
"""Accuracies as the user's functions return them, checked."""

import math

import torch

from tvm.contrib.cprune.loop.training import Training
from tvm.contrib.cprune.types import CPruneError


def evaluate(training: Training, model: torch.nn.Module) -> float:
    """Return a model's accuracy on the validation split, in [0, 1]; see ``checked_accuracy``."""
    return checked_accuracy(training.evaluate(model), "evaluate")


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
