# SPDX-License-Identifier: Apache-2.0
"""Exponential functions that LLVM can vectorize.

LLVM calls the C library once for every element of a vector whose exponential it needs, so an activation such
as SiLU takes longer than the convolution before it. Here, exponentials are arithmetic on vectors instead.
"""

from typing import Any

import tvm
from tvm import tir

# exp(r) = 1 + r + r^2 * p(r) for |r| <= ln(2) / 2, and ln(2) in two parts, the first of which has few digits.
# The constants are those of ``expf`` in the Cephes library (Moshier, 1989).
POLYNOMIAL = (
    1.9875691500e-4,
    1.3981999507e-3,
    8.3334519073e-3,
    4.1665795894e-2,
    1.6666665459e-1,
    5.0000001201e-1,
)
LOG2_E, LN_2_HIGH, LN_2_LOW = 1.44269504088896341, 0.693359375, -2.12194440e-4
# exp(LOWEST) is rounded to 0, exp(HIGHEST) to infinity.
LOWEST, HIGHEST = -87.4, 89.0


def expand_exponentials() -> tir.transform.PrimFuncPass:
    """Return a TIR pass that computes ``exp`` and ``sigmoid`` of 32-bit floats by arithmetic.

    The pass runs in phase 1 of ``tir.add_lower_pass``, before loops are vectorized. The relative error of an
    exponential is at most 1e-7. Results below 2e-38 may be rounded to 0.
    """

    def expand(call: tir.Call) -> tir.PrimExpr | None:
        if call.dtype != "float32":
            return None
        if call.op.same_as(_EXP):
            return exponential(call.args[0])
        if call.op.same_as(_SIGMOID):
            return 1.0 / (1.0 + exponential(-call.args[0]))
        return None

    def transform(func: tir.PrimFunc, *_: Any) -> tir.PrimFunc:
        return func.with_body(tir.stmt_functor.ir_transform(func.body, None, expand, ["tir.Call"]))

    return tir.transform.prim_func_pass(transform, opt_level=0, name="ExpandExponentials")


def exponential(value: tir.PrimExpr) -> tir.PrimExpr:
    """Return the exponential of a 32-bit float: 2 to the power of an integer, times that of a small rest."""
    x, clipped, n, r, y = (tir.Var(name, "float32") for name in ("x", "clipped", "n", "r", "y"))
    p = tir.const(POLYNOMIAL[0], "float32")
    for coefficient in POLYNOMIAL[1:]:
        p = p * r + tir.const(coefficient, "float32")
    # 2 to the power of n - 1, because n can be 128, the exponent of infinity.
    bits = tir.Cast("int32", n + tir.const(126, "float32")) << tir.const(23, "int32")
    result = (y + y) * tir.call_intrin("float32", "tir.reinterpret", bits)
    # A comparison with NaN is false, so the limits would replace it.
    result = tir.Select(x == x, result, x)
    low, high = (tir.const(limit, "float32") for limit in (LOWEST, HIGHEST))
    bindings = (
        (y, p * r * r + r + tir.const(1, "float32")),
        (r, clipped - n * tir.const(LN_2_HIGH, "float32") - n * tir.const(LN_2_LOW, "float32")),
        (n, tir.floor(clipped * tir.const(LOG2_E, "float32") + tir.const(0.5, "float32"))),
        (clipped, tir.max(tir.min(x, high), low)),
        (x, value),
    )
    for variable, expression in bindings:
        result = tir.Let(variable, expression, result)
    return result


_EXP, _SIGMOID = tvm.ir.Op.get("tir.exp"), tvm.ir.Op.get("tir.sigmoid")
