# SPDX-License-Identifier: Apache-2.0
"""The operation of a compute DAG that register tiles suit: a convolution or a matrix product."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from tvm.tir import IntImm, ProducerLoad, Reduce, Var
from tvm.tir.stmt_functor import post_order_visit

from tvm import te
from tvm.contrib.cprune.targets.winograd import UNROLLED
from tvm.contrib.cprune.tuning.ansor.axes import first_axes


@dataclass(frozen=True)
class TiledOperation:
    """An operation that multiplies and adds elements of two inputs, each of which is used several times.

    Attributes
    ----------
    spatial, reduction : dict of int to int
        Extents of its axes by their number (see ``axes.py``).
    vector : int
        Number of the axis that vectors run over: the last spatial one.
    rows : tuple of int
        Numbers of the axes along which a vector of weights is reused, the last one first.
    """

    spatial: dict[int, int]
    reduction: dict[int, int]
    vector: int
    rows: tuple[int, ...]


def tiled_operation(dag: Any) -> TiledOperation | None:
    """Return the operation of a compute DAG with the most multiply-adds, None if tiles do not suit it.

    Register tiles do not suit depthwise and grouped convolutions, not all of whose channels read the same
    input, nor poolings.
    """
    best, most = None, 0
    for op, first in first_axes(dag):
        if isinstance(op, te.PlaceholderOp):
            continue
        extents = [_extent(axis) for axis in [*op.axis, *op.reduce_axis]]
        if op.reduce_axis and math.prod(extents) > most and not _is_unrolled(op):
            best, most = _describe(op, first), math.prod(extents)
    return best


def _extent(axis: Any) -> int:
    return int(axis.dom.extent) if isinstance(axis.dom.extent, IntImm | int) else 0


def _is_unrolled(op: te.ComputeOp) -> bool:
    """Return whether auto_scheduler unrolls the reduction, as that of a Winograd transform."""
    return UNROLLED in (op.attrs or {})


def _describe(op: te.ComputeOp, first: int) -> TiledOperation | None:
    """Return an operation whose first axis has the number ``first``, None if tiles do not suit it."""
    inputs, last = _axes_of_inputs(op), len(op.axis) - 1
    if not op.axis or len(inputs) != 2 or all(last in axes for axes in inputs):
        return None
    spatial = {first + i: _extent(axis) for i, axis in enumerate(op.axis)}
    reduction = {first + last + 1 + i: _extent(axis) for i, axis in enumerate(op.reduce_axis)}
    shared = [i for i in range(last) if any(i not in axes for axes in inputs)]
    rows = tuple(first + i for i in reversed(shared) if spatial[first + i] > 1)
    return TiledOperation(spatial, reduction, first + last, rows)


def _axes_of_inputs(op: te.ComputeOp) -> list[set[int]]:
    """Return the positions of the spatial axes that select the element of each input."""
    variables = [axis.var for axis in op.axis]
    used: list[set[int]] = []

    def visit_index(node: Any) -> None:
        if isinstance(node, Var):
            used[-1].update(i for i, variable in enumerate(variables) if variable.same_as(node))

    def visit(node: Any) -> None:
        if isinstance(node, ProducerLoad):
            used.append(set())
            for index in node.indices:
                post_order_visit(index, visit_index)

    sources: Sequence[Any] = [
        source for body in op.body if isinstance(body, Reduce) for source in body.source
    ]
    for source in sources:
        post_order_visit(source, visit)
    return used
