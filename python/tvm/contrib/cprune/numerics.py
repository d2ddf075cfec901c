# SPDX-License-Identifier: Apache-2.0
"""Comparing a model's outputs with reference outputs."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from tvm.contrib.cprune.types import CPruneError

Array = npt.NDArray[Any]


@dataclass(frozen=True)
class OutputError:
    """The difference between a model's outputs and the expected ones.

    Attributes
    ----------
    max_abs
        Largest absolute difference over all elements of all outputs.
    max_rel
        Largest difference of an output, relative to the largest magnitude expected in that output.
    """

    max_abs: float = 0.0
    max_rel: float = 0.0

    def joined(self, other: "OutputError") -> "OutputError":
        """Return the larger of two errors."""
        return OutputError(max(self.max_abs, other.max_abs), max(self.max_rel, other.max_rel))


def require_finite(outputs: Sequence[Array], what: str) -> None:
    """Check a model's outputs.

    Raises
    ------
    CPruneError
        If one contains NaN or infinity.
    """
    for number, array in enumerate(outputs):
        if not np.isfinite(array).all():
            raise CPruneError(f"output {number} of {what} contains NaN or infinity")


def compare_outputs(
    actual: Sequence[Array], expected: Sequence[Array], tolerance: float, what: str
) -> OutputError:
    """Compare all outputs of a model.

    Parameters
    ----------
    tolerance
        Largest relative error that is accepted.
    what
        Subject of the error message, such as "net.so".

    Raises
    ------
    CPruneError
        If the number or the shapes of the outputs differ, an output is not finite, or the error exceeds
        ``tolerance``.
    """
    shapes = [[tuple(array.shape) for array in arrays] for arrays in (actual, expected)]
    if shapes[0] != shapes[1] or not actual:
        raise CPruneError(f"{what} has outputs of shapes {shapes[0]}, expected {shapes[1]}")
    require_finite(actual, what)
    require_finite(expected, "the reference")
    error = OutputError()
    for a, b in zip(actual, expected, strict=True):
        difference = float(np.abs(a.astype("float64") - b).max(initial=0.0))
        scale = float(np.abs(b).max(initial=0.0))
        relative = difference / scale if scale else float(difference > 0)
        error = error.joined(OutputError(difference, relative))
    if error.max_rel > tolerance:
        raise CPruneError(
            f"outputs of {what} differ by {error.max_rel:.1e} of the largest expected output, "
            f"expected at most {tolerance:.0e}"
        )
    return error
