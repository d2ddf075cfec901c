# SPDX-License-Identifier: Apache-2.0
"""Exponential functions as arithmetic on vectors."""

import numpy as np
import pytest

import tvm
from tvm import te
from tvm.contrib.cprune.targets.codegen import codegen_context

# The exponentials of these are normal numbers.
ORDINARY = np.concatenate([np.linspace(-86.9, 88.7, 4000), np.linspace(-1e-3, 1e-3, 96)])
FUNCTIONS = {"exp": (te.exp, np.exp), "sigmoid": (te.sigmoid, lambda x: 1 / (1 + np.exp(-x)))}


def build(function, target, vectorized=True, dtype="float32", length=4096):
    data = te.placeholder((length,), dtype)
    result = te.compute((length,), lambda i: function(data[i]))
    schedule = te.create_schedule(result.op)
    if vectorized:
        _, inner = schedule[result].split(result.op.axis[0], 16)
        schedule[result].vectorize(inner)
    with codegen_context(target):
        return tvm.build(schedule, [data, result], target=target)


def run(module, values, dtype="float32"):
    data, result = tvm.nd.array(values.astype(dtype)), tvm.nd.array(np.zeros(values.shape, dtype))
    module(data, result)
    return result.numpy()


@pytest.mark.parametrize("vectorized", [True, False])
@pytest.mark.parametrize("name", FUNCTIONS)
def test_the_error_is_that_of_a_few_rounded_operations(name, vectorized, target):
    function, reference = FUNCTIONS[name]
    actual = run(build(function, target, vectorized), ORDINARY).astype("float64")
    expected = reference(ORDINARY.astype("float32").astype("float64"))
    assert np.abs(actual / expected - 1).max() < (1e-7 if name == "exp" else 2e-7)


@pytest.mark.parametrize("name", FUNCTIONS)
def test_extreme_values(name, target):
    values = np.full(4096, -np.inf)
    values[:7] = np.nan, np.inf, -np.inf, 0.0, -0.0, -1000.0, 1000.0
    actual = run(build(FUNCTIONS[name][0], target), values)
    expected = {"exp": [np.inf, 0, 1, 1, 0, np.inf], "sigmoid": [1, 0, 0.5, 0.5, 0, 1]}[name]
    assert np.isnan(actual[0])
    np.testing.assert_allclose(actual[1:7], expected, atol=2e-38, rtol=0)
    # Results that are not normal numbers.
    tiny = run(build(FUNCTIONS[name][0], target), np.linspace(-104, -87, 4096))
    assert np.all((tiny >= 0) & (tiny < 2e-38))


@pytest.mark.parametrize("name", FUNCTIONS)
def test_no_function_of_the_c_library_is_called(name, target):
    """Each call would compute a single element."""
    assert "@llvm.exp." not in build(FUNCTIONS[name][0], target).get_source("ll")
    assert "@llvm.exp." in build(te.exp, target, dtype="float64").get_source("ll")


def test_an_exponential_inside_another_one(target):
    values = np.linspace(-5, 4, 4096)
    actual = run(build(lambda x: te.exp(te.sigmoid(te.exp(x))), target), values)
    inner = np.exp(values.astype("float32").astype("float64"))
    np.testing.assert_allclose(actual, np.exp(1 / (1 + np.exp(-inner))), rtol=5e-7)
