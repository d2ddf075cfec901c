# SPDX-License-Identifier: Apache-2.0
"""A program's tile factors, read from its lowered loop nest: for programs that have no record."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import tvm
from tvm.contrib.cprune import _plugin


@dataclass(frozen=True)
class LoopFactor:
    """A loop's part in one dimension: ``steps`` of ``stride`` elements, the innermost loop's stride is 1.

    ``kind`` is serial, parallel, vectorized, unrolled, vthread, or a thread such as blockIdx.x. Where a loop
    was fused of several, its ``extent`` is more than its steps here.
    """

    loop: str
    steps: int
    stride: int
    extent: int
    kind: str


@dataclass(frozen=True)
class Access:
    """A store or load of an anchor: for each dimension of its buffer the loops along it, outermost first."""

    buffer: str
    dims: tuple[tuple[LoopFactor, ...], ...]


@tvm.tir.transform.prim_func_pass(opt_level=0, name="RecordTileFactors")
class RecordTileFactors:
    """Record which loops run over each dimension of what anchors store and load; changes nothing.

    An anchor is a store that adds to its own buffer what it makes of others. The pass reads loops as they
    were scheduled: it is to run first of all, as the pass that ``tir.add_lower_pass`` puts into phase 0 (see
    ``read_tile_factors``).

    Attributes
    ----------
    found
        For each anchor its accesses, the store first.
    """

    def __init__(self) -> None:
        self.found: list[tuple[Access, ...]] = []

    def transform_function(self, func: tvm.tir.PrimFunc, _: tvm.IRModule, __: Any) -> tvm.tir.PrimFunc:
        for accesses in _plugin.tile_factors(func.body):
            self.found.append(tuple(_access(buffer, dims) for buffer, *dims in accesses))
        return func


def _access(buffer: str, dims: Sequence[Any]) -> Access:
    def factor(name: str, numbers: tuple[int, int, int], kind: str) -> LoopFactor:
        steps, stride, extent = numbers
        return LoopFactor(name, steps, stride, extent, kind)

    return Access(buffer, tuple(tuple(factor(*each) for each in dim) for dim in dims))


def read_tile_factors(schedule: Any, args: Sequence[Any]) -> list[tuple[Access, ...]]:
    """Return the accesses of every anchor of a TE schedule, the store first."""
    recorder: Any = RecordTileFactors()
    with tvm.transform.PassContext(config={"tir.add_lower_pass": [(0, recorder)]}):
        tvm.lower(schedule, args)
    return list(recorder.found)
