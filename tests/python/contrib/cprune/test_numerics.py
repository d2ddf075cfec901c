# SPDX-License-Identifier: Apache-2.0
"""Comparing outputs: every way in which they can be wrong is an error."""

import numpy as np
import pytest

from tvm.contrib.cprune.numerics import OutputError, compare_outputs
from tvm.contrib.cprune.types import CPruneError

ONE = np.array([[1.0, -2.0]], "float32")


def test_the_error_covers_all_outputs():
    error = compare_outputs([ONE, ONE + 1e-4], [ONE, ONE], 1e-3, "net.so")
    assert error.max_abs == pytest.approx(1e-4, rel=1e-2)
    assert error.max_rel == pytest.approx(5e-5, rel=1e-2)
    assert compare_outputs([ONE], [ONE], 0.0, "net.so") == OutputError(0.0, 0.0)


@pytest.mark.parametrize(
    ("actual", "expected", "message"),
    [
        ([ONE * np.nan], [ONE], "output 0 of net.so contains NaN"),
        ([ONE, ONE], [ONE, ONE * np.inf], "output 1 of the reference contains NaN or infinity"),
        ([ONE * np.nan], [ONE * np.nan], "contains NaN"),
        ([ONE, ONE + 1], [ONE, ONE], r"outputs of net.so differ by 5.0e-01"),
        ([ONE], [ONE, ONE], r"shapes \[\(1, 2\)\], expected \[\(1, 2\), \(1, 2\)\]"),
        ([], [], r"outputs of shapes \[\]"),
        ([ONE[0]], [ONE], r"shapes \[\(2,\)\], expected \[\(1, 2\)\]"),
        ([np.full_like(ONE, 1e-30)], [np.zeros_like(ONE)], "differ by 1.0e"),
    ],
)
def test_wrong_outputs_are_an_error(actual, expected, message):
    with pytest.raises(CPruneError, match=message):
        compare_outputs(actual, expected, 1e-3, "net.so")
