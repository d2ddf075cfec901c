# SPDX-License-Identifier: Apache-2.0
"""Read the tile factors of a program from its loop nest. This works for programs without a record, too."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import tvm
from tvm.contrib.cprune import _plugin


@dataclass(frozen=True)
class LoopFactor:
    """The share of a loop in one dimension of a buffer.

    Attributes
    ----------
    loop
        Name of the loop variable.
    steps
        Number of different positions that the loop visits along the dimension.
    stride
        Distance between them in elements; 1 for the innermost loop.
    extent
        Extent of the loop, larger than ``steps`` if the loop was fused from several.
    kind
        serial, parallel, vectorized, unrolled, vthread, or a thread tag such as blockIdx.x.
    """

    loop: str
    steps: int
    stride: int
    extent: int
    kind: str


@dataclass(frozen=True)
class Access:
    """A store or load of an anchor: for each dimension of the buffer, the loops along it, outermost first."""

    buffer: str
    dims: tuple[tuple[LoopFactor, ...], ...]


@tvm.tir.transform.prim_func_pass(opt_level=0, name="RecordTileFactors")
class RecordTileFactors:
    """Record which loops run along each dimension of the buffers that anchors access.

    The function is not changed. An anchor is a store that accumulates into its own buffer from others. Run
    the pass before all other TIR passes, in phase 0 of ``tir.add_lower_pass``, while the loops are as
    scheduled (see ``read_tile_factors``).

    Attributes
    ----------
    anchors
        The accesses of each anchor, the store first.
    """

    def __init__(self) -> None:
        self.anchors: list[tuple[Access, ...]] = []

    def transform_function(self, func: tvm.tir.PrimFunc, _: tvm.IRModule, __: Any) -> tvm.tir.PrimFunc:
        for accesses in _plugin.tile_factors(func.body):
            self.anchors.append(tuple(_access(buffer, dims) for buffer, *dims in accesses))
        return func

    if TYPE_CHECKING:  # TVM's decorator adds these, without types
        info: Any

        def __call__(self, mod: tvm.IRModule) -> tvm.IRModule: ...


def _access(buffer: str, dims: Sequence[Any]) -> Access:
    factors = [
        tuple(LoopFactor(loop, steps, stride, extent, kind) for loop, (steps, stride, extent), kind in dim)
        for dim in dims
    ]
    return Access(buffer, tuple(factors))


def read_tile_factors(schedule: Any, args: Sequence[Any]) -> list[tuple[Access, ...]]:
    """Return the accesses of each anchor of a TE schedule, the store first."""
    recorder: Any = RecordTileFactors()
    with tvm.transform.PassContext(config={"tir.add_lower_pass": [(0, recorder)]}):
        tvm.lower(schedule, args)
    return list(recorder.anchors)
