# SPDX-License-Identifier: Apache-2.0
"""Vectors that are longer than a register, and whose length is not a power of two.

LLVM keeps a vector of 64 floats in four registers of AVX-512 from one iteration of a loop to the next, but a
vector of 48 floats as 48 scalars: it breaks down only lengths that are powers of two
(``TargetLoweringBase::getVectorTypeBreakdown``).
"""

from typing import Any

import tvm
from tvm import tir


def split_vectors(lanes: int) -> tvm.tir.transform.PrimFuncPass:
    """Return a TIR pass that splits such vectors into vectors of a whole register, and one of the rest.

    The pass runs in phase 1 of ``tir.add_lower_pass``, before loops are vectorized. Only loops that consist
    of a single store are split.

    Parameters
    ----------
    lanes
        Number of 32-bit elements in a register.
    """

    def split(loop: tir.For) -> tir.Stmt | None:
        # Splitting a single store repeats no definition of a variable.
        if loop.kind != tir.ForKind.VECTORIZED or not isinstance(loop.body, tir.BufferStore):
            return None
        if not isinstance(loop.extent, tir.IntImm):  # as for vectors of SVE
            return None
        extent = int(loop.extent)
        part = lanes * 32 // tvm.DataType(loop.body.value.dtype).bits
        if extent <= part or extent.bit_count() == 1:
            return None
        starts = range(0, extent, part)
        return tir.SeqStmt([_part(loop, start, min(part, extent - start)) for start in starts])

    def transform(func: tir.PrimFunc, *_: Any) -> tir.PrimFunc:
        return func.with_body(tir.stmt_functor.ir_transform(func.body, None, split, ["tir.For"]))

    return tir.transform.prim_func_pass(transform, opt_level=0, name="SplitVectors")


def _part(loop: tir.For, start: int, length: int) -> tir.Stmt:
    """Return ``length`` iterations of a vectorized loop."""
    old = loop.loop_var
    if length == 1:
        return tir.stmt_functor.substitute(loop.body, {old: tir.IntImm(old.dtype, start)})
    new = tir.Var(old.name, old.dtype)
    body = tir.stmt_functor.substitute(loop.body, {old: new + tir.IntImm(old.dtype, start)})
    return tir.For(new, 0, length, loop.kind, body)
