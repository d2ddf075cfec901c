# SPDX-License-Identifier: Apache-2.0
"""Operators on parameters in NumPy: enough to fold batch norms and to change the layout of weights."""

from collections.abc import Callable, Sequence
from functools import cache
from typing import Any

import numpy as np
import numpy.typing as npt

import tvm
from tvm import relay

Array = npt.NDArray[Any]


def _ints(values: Any) -> list[int]:
    return [int(value) for value in values]


def _layout_transform(attrs: Any, data: Array) -> Array | None:
    source, target = str(attrs.src_layout), str(attrs.dst_layout)
    if sorted(source) != sorted(target) or not source.isupper():
        return None
    return data.transpose([source.index(letter) for letter in target])


def _expand_dims(attrs: Any, data: Array) -> Array:
    axis = int(attrs.axis)
    for _ in range(int(attrs.num_newaxis)):
        data = np.expand_dims(data, axis if axis >= 0 else data.ndim + 1 + axis)
    return data


def _reshape(attrs: Any, data: Array) -> Array | None:
    shape = _ints(attrs.newshape)
    if any(size == 0 or size < -1 for size in shape):
        return None
    return data.reshape(shape)


def _transpose(attrs: Any, data: Array) -> Array:
    return data.transpose(_ints(attrs.axes) if attrs.axes is not None else None)


def _squeeze(attrs: Any, data: Array) -> Array:
    return np.squeeze(data, tuple(_ints(attrs.axis)) if attrs.axis is not None else None)


@cache
def _winograd_matrix(tile: int) -> Array:
    """Return the linear map from a flat 3x3 kernel to its Winograd form, computed by TVM's operator.

    The shape is ``(tile + 2, tile + 2, 9)``.
    """
    kernel = relay.var("kernel", shape=(9, 1, 3, 3), dtype="float32")
    body = relay.nn.contrib_conv2d_winograd_weight_transform(kernel, tile_size=tile)
    mod = tvm.IRModule.from_expr(relay.Function([kernel], body))
    basis = np.eye(9, dtype="float32").reshape(9, 1, 3, 3)
    transform = relay.create_executor("graph", mod=mod, target="llvm").evaluate()
    return transform(basis).numpy()[..., 0]


def _winograd_weight(attrs: Any, data: Array) -> Array | None:
    if data.shape[2:] != (3, 3):
        return None
    matrix = _winograd_matrix(int(attrs.tile_size))
    flat = data.reshape(*data.shape[:2], 9)
    return np.einsum("abk,oik->aboi", matrix, flat, optimize=True).astype(data.dtype)


_FUNCTIONS: dict[str, Callable[..., Array | None]] = {
    "add": lambda _, a, b: a + b,
    "subtract": lambda _, a, b: a - b,
    "multiply": lambda _, a, b: a * b,
    "divide": lambda _, a, b: a / b,
    "negative": lambda _, a: -a,
    "sqrt": lambda _, a: np.sqrt(a),
    "rsqrt": lambda _, a: (1 / np.sqrt(a)).astype(a.dtype),
    "broadcast_to": lambda attrs, a: np.broadcast_to(a, _ints(attrs.shape)),
    "cast": lambda attrs, a: a.astype(str(attrs.dtype)),
    "expand_dims": _expand_dims,
    "layout_transform": _layout_transform,
    "nn.contrib_conv2d_winograd_weight_transform": _winograd_weight,
    "reshape": _reshape,
    "squeeze": _squeeze,
    "transpose": _transpose,
}


def evaluate(op: str, attrs: Any, args: Sequence[Array]) -> Array | None:
    """Return the value of operator ``op`` on ``args``, or None if it is not supported."""
    function = _FUNCTIONS.get(op)
    return None if function is None else function(attrs, *args)
