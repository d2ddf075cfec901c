# SPDX-License-Identifier: Apache-2.0
"""Vectors that fill several registers are split where LLVM would take them apart."""

import numpy as np
import pytest

import tvm
from tvm import te
from tvm.contrib.cprune.targets.codegen import codegen_context
from tvm.contrib.cprune.targets.split_vectors import split_vectors

AVX512 = tvm.target.Target("llvm -mcpu=skylake-avx512")


def product(columns: int) -> tuple[te.Schedule, list[te.Tensor]]:
    """Return a product of 4 rows and ``columns`` columns whose loop over columns is vectorized."""
    a, b = te.placeholder((4, 32), name="a"), te.placeholder((32, columns), name="b")
    k = te.reduce_axis((0, 32), name="k")
    c = te.compute((4, columns), lambda i, j: te.sum(a[i, k] * b[k, j], axis=k), name="c")
    schedule = te.create_schedule(c.op)
    local = schedule.cache_write(c, "local")
    i, j = local.op.axis
    schedule[local].reorder(local.op.reduce_axis[0], i, j)
    schedule[local].unroll(i)
    schedule[local].vectorize(j)
    return schedule, [a, b, c]


def stored_lanes(columns: int, context: tvm.transform.PassContext) -> set[int]:
    """Return the lengths of the vectors that a product stores if it is lowered in a context."""
    lanes = set()

    def visit(node: object) -> None:
        if isinstance(node, tvm.tir.BufferStore):
            lanes.add(tvm.DataType(node.value.dtype).lanes)

    with context:
        function = tvm.lower(*product(columns))["main"]
    tvm.tir.stmt_functor.post_order_visit(function.body, visit)
    return lanes - {1}


@pytest.mark.parametrize(
    ("columns", "expected"),
    [(17, {16}), (20, {16, 4}), (40, {16, 8}), (48, {16}), (12, {12}), (16, {16}), (64, {64})],
)
def test_only_vectors_that_llvm_takes_apart_are_split(columns, expected):
    config = {"tir.add_lower_pass": [[1, split_vectors(16)]]}
    assert stored_lanes(columns, tvm.transform.PassContext()) == {columns}
    assert stored_lanes(columns, tvm.transform.PassContext(config=config)) == expected


@pytest.mark.parametrize("columns", [17, 25, 40, 48, 100])
def test_results_stay_the_same(columns, target):
    with codegen_context(target):
        module = tvm.build(*product(columns), target=target)
    random = np.random.default_rng(0)
    a, b = (random.random(shape, "float32") for shape in ((4, 32), (32, columns)))
    c = tvm.nd.array(np.zeros((4, columns), "float32"))
    module(tvm.nd.array(a), tvm.nd.array(b), c)
    np.testing.assert_allclose(c.numpy(), a @ b, rtol=1e-5)


def test_programs_for_cpus_keep_such_vectors_in_registers():
    def shuffles(context: tvm.transform.PassContext) -> int:
        with context:
            return str(tvm.build(*product(48), target=AVX512).get_source("asm")).count("vinsertps")

    # If LLVM learns to do so itself, the pass is not needed any more.
    assert shuffles(tvm.transform.PassContext(opt_level=3)) > 50
    assert shuffles(codegen_context(AVX512)) == 0


def test_further_passes_run_beside_the_split():
    seen = []

    def record(func, *_):
        seen.append(func)
        return func

    further = tvm.tir.transform.prim_func_pass(record, opt_level=0)
    assert stored_lanes(48, codegen_context(AVX512, lower_passes=[[0, further]])) == {16}
    assert len(seen) == 1
