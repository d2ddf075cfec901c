# SPDX-License-Identifier: Apache-2.0
"""The value of padding: what operators compute from channels of zeros.

The functions raise ArithmeticError or ValueError where the value may not be finite.
"""

import math
from collections.abc import Callable

from tvm import relay
from tvm.contrib.cprune.transform.relay_graph import operator_name
from tvm.contrib.cprune.transform.rounding.channel_layout import Fill

ARITHMETIC: dict[str, Callable[[float, float], float]] = {
    "add": lambda a, b: a + b,
    "subtract": lambda a, b: a - b,
    "multiply": lambda a, b: a * b,
    "divide": lambda a, b: a / b,
    "maximum": max,
    "minimum": min,
}
SCALAR_FUNCTIONS: dict[str, Callable[[float], float]] = {
    "abs": abs,
    "erf": math.erf,
    "exp": math.exp,
    "negative": lambda value: -value,
    "nn.relu": lambda value: max(value, 0.0),
    "rsqrt": lambda value: 1 / math.sqrt(value),
    "sigmoid": lambda value: 1 / (1 + math.exp(-value)),
    "sqrt": math.sqrt,
    "tanh": math.tanh,
}
# Functions that may be infinite or undefined at a value that depends on the data.
UNBOUNDED = ("exp", "rsqrt", "sqrt")
# Operators between a parameter and the layer that reads it that keep channels apart.
PARAMETER_SHAPES = ("broadcast_to", "expand_dims", "transpose")


def unchanged(value: Fill) -> Fill:
    return value


def keep_zero(value: Fill) -> Fill:
    """Return the fill after an operator that maps zeros to zero and is otherwise unknown."""
    return 0.0 if value == 0 else None


def combine(name: str, a: Fill, b: Fill) -> Fill:
    """Return the fill after a binary operator."""
    if a is not None and b is not None:
        return ARITHMETIC[name](a, b)
    if name == "multiply" and 0 in (a, b):
        return 0.0
    if name == "divide" and not b:
        raise ValueError("the divisor may be zero")
    return None


def parameter_fill(node: relay.Expr) -> Fill:
    """Return the value of a parameter expression whose parameters are padded with zeros, None if unknown."""
    if isinstance(node, relay.Var):
        return 0.0
    if isinstance(node, relay.Constant):
        values = node.data.numpy()
        return float(values.reshape(())) if values.size == 1 else 0.0
    if not isinstance(node, relay.Call):
        return None
    fills = [parameter_fill(arg) for arg in node.args]
    name = operator_name(node)
    if name in ARITHMETIC and None not in fills:
        return ARITHMETIC[name](*fills)  # type: ignore[arg-type]
    if name in SCALAR_FUNCTIONS and None not in fills:
        return SCALAR_FUNCTIONS[name](*fills)  # type: ignore[arg-type]
    return fills[0] if name in PARAMETER_SHAPES else None
