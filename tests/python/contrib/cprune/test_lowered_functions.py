# SPDX-License-Identifier: Apache-2.0
"""Functions that several builds share are lowered once."""

import pytest

import tvm
from tvm import te
from tvm.contrib.cprune.building import lowered_functions
from tvm.contrib.cprune.building.lowered_functions import LoweredFunctions


def lower(extent: int, name: str, passes=()) -> tvm.tir.PrimFunc:
    """Lower a function with a vectorized and an unrolled loop."""
    data = te.placeholder((extent, 16), name="data")
    result = te.compute(data.shape, lambda i, j: data[i, j] * 2.0, name="result")
    schedule = te.create_schedule(result.op)
    outer, inner = result.op.axis
    schedule[result].vectorize(inner)
    schedule[result].unroll(outer)
    with tvm.transform.PassContext(config={"tir.add_lower_pass": list(passes)}):
        return tvm.lower(schedule, [data, result], name)[name]


def counts(functions: LoweredFunctions) -> tuple[int, int]:
    return functions.lowered, functions.reused


def test_a_function_of_an_earlier_build_is_not_lowered_again():
    functions, expected = LoweredFunctions(), lower(4, "second")
    with functions.serve_build() as passes:
        tvm.ir.assert_structural_equal(lower(4, "first", passes), lower(4, "first"))
    assert counts(functions) == (1, 0)
    with functions.serve_build() as passes:
        # A function may have another name in another model.
        reused = lower(4, "second", passes)
        other = lower(8, "third", passes)
    assert counts(functions) == (2, 1)
    tvm.ir.assert_structural_equal(reused, expected)
    tvm.ir.assert_structural_equal(other, lower(8, "third"))
    assert "cprune" not in f"{reused.attrs}{other.attrs}"


def test_functions_that_several_builds_did_not_use_are_dropped(monkeypatch):
    monkeypatch.setattr(lowered_functions, "KEPT_BUILDS", 2)
    functions = LoweredFunctions()
    for extent, expected in ((4, (1, 0)), (8, (2, 0)), (4, (2, 1)), (8, (2, 2)), (8, (2, 3)), (4, (3, 3))):
        with functions.serve_build() as passes:
            lower(extent, "function", passes)
        assert counts(functions) == expected


def test_functions_with_equal_hashes_are_told_apart(monkeypatch):
    monkeypatch.setattr(tvm.ir, "structural_hash", lambda *_: 1)
    functions, expected = LoweredFunctions(), {extent: lower(extent, "function") for extent in (4, 8)}
    for extent in (4, 8, 4):
        with functions.serve_build() as passes:
            tvm.ir.assert_structural_equal(lower(extent, "function", passes), expected[extent])


def fail(*_):
    raise ZeroDivisionError("a pass failed")


def test_a_failed_build_leaves_nothing_behind():
    functions = LoweredFunctions()
    failing_pass = tvm.tir.transform.prim_func_pass(fail, opt_level=0)
    with pytest.raises(ZeroDivisionError, match="a pass failed"), functions.serve_build() as passes:
        lower(4, "function", [*passes, [1, failing_pass]])
    assert not functions._functions and not functions._scheduled
    with functions.serve_build() as passes:
        tvm.ir.assert_structural_equal(lower(4, "function", passes), lower(4, "function"))
    assert counts(functions) == (1, 0)
