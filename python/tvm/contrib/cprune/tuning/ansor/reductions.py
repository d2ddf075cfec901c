# SPDX-License-Identifier: Apache-2.0
"""Programs of reductions along an image: pools with fixed windows, and the means of whole images.

Ansor tiles only operations that use their inputs several times. In others, it vectorizes no loop outside of a
reduction (``InitVectorization`` in ``src/auto_scheduler/search_policy/sketch_policy_rules.cc``). The programs
here reduce a part of the image, or of the channels, on each core, and keep the results in vector registers.
"""

import math
from collections.abc import Iterator
from typing import Any, NamedTuple

from tvm.tir import IntImm, ProducerLoad, Reduce
from tvm.tir.stmt_functor import post_order_visit

from tvm import auto_scheduler, te
from tvm.contrib.cprune.targets.target import core_count, vector_lanes
from tvm.contrib.cprune.tuning.ansor.register_tiles import divisors, register_count

# Vector registers for the results of a core at most. Several hide the latency of additions.
MAX_REGISTERS = 8
# Longest vector, in registers.
MAX_VECTOR = 4
# Parts of a reduction at most, for each core.
MAX_PARTS = 4


class Reduction(NamedTuple):
    """A reduction whose last axis is that of its input.

    Attributes
    ----------
    op
        The operation. All others of the compute DAG are inlined.
    rows, channels
        Number of its results, without the last axis and along it.
    length
        Number of elements that each of them is computed from.
    """

    op: te.ComputeOp
    rows: int
    channels: int
    length: int


class Tiling(NamedTuple):
    """Lengths of a program's loops.

    Attributes
    ----------
    parts
        Parts of the reduction that the cores compute, 1 if they divide the results.
    vectors, lanes
        Vectors of results that a core keeps in registers, and their elements.
    """

    parts: int
    vectors: int
    lanes: int


def find_reduction(dag: Any) -> Reduction | None:
    """Return the reduction of a compute DAG, None if there is none of this kind or several."""
    ops = [op for op in dag.ops if isinstance(op, te.ComputeOp) and op.reduce_axis]
    if len(ops) != 1 or not ops[0].axis or len(ops[0].body) != 1:
        return None
    (op,) = ops
    (body,) = op.body
    loads: list[Any] = []
    for source in body.source if isinstance(body, Reduce) else ():
        post_order_visit(source, lambda node: loads.append(node) if isinstance(node, ProducerLoad) else None)
    if len(loads) != 1 or not loads[0].indices[-1].same_as(op.axis[-1].var):
        return None
    # The windows of adaptive pools have no fixed extents.
    extents = [axis.dom.extent for axis in op.reduce_axis]
    shape, output = ([int(size) for size in item.output(0).shape] for item in (op, dag.ops[-1]))
    if shape != output or not all(isinstance(extent, IntImm | int) for extent in extents):
        return None
    return Reduction(op, math.prod(shape[:-1]), shape[-1], math.prod(map(int, extents)))


def reduction_programs(tvm_task: Any) -> Iterator[Any]:
    """Yield the ``MeasureInput`` of each program, none for other operations and devices."""
    dag = tvm_task.compute_dag
    reduction = find_reduction(dag) if tvm_task.target.kind.name == "llvm" else None
    if reduction is None:
        return
    for tiling in tilings(reduction, core_count(tvm_task), vector_lanes(str(tvm_task.target))):
        yield auto_scheduler.MeasureInput(tvm_task, reduction_program(dag, reduction, tiling))


def tilings(reduction: Reduction, cores: int, lanes: int) -> list[Tiling]:
    """Return the tilings that occupy all cores, or a single one if none does."""
    channels, rows = reduction.channels, reduction.rows
    lengths = [n for n in divisors(channels) if n <= MAX_VECTOR * lanes]
    length = max(lengths, key=lambda n: (n / register_count(n, lanes), -n))
    count, registers = channels // length, register_count(length, lanes)
    vectors = [n for n in divisors(count) if n == 1 or n * registers <= MAX_REGISTERS]

    def occupying(parts: int) -> list[Tiling]:
        return [Tiling(parts, n, length) for n in vectors if parts * rows * (count // n) >= cores]

    most = MAX_PARTS * cores // rows if rows < cores else 1
    several = [parts for parts in divisors(reduction.length) if 1 < parts <= most]
    found = [*occupying(1), *(tiling for parts in several for tiling in occupying(parts)[-1:])]
    return found or [Tiling(1, 1, length)]


def reduction_program(dag: Any, reduction: Reduction, tiling: Tiling) -> Any:
    """Return the state of a program."""
    state, op = dag.get_init_state(), reduction.op
    output, axes = state.stage_ops[-1], len(op.axis)
    for other in state.stage_ops:
        if isinstance(other, te.ComputeOp) and not (other.same_as(op) or other.same_as(output)):
            state.compute_inline(other)
    if tiling.parts > 1:
        loops = state[op].iters[axes:]
        loop = state.fuse(op, loops) if len(loops) > 1 else loops[0]
        part, _ = state.split(op, loop, [reduction.length // tiling.parts])
        partial = state.rfactor(op, part, 0)
        _tile(state, partial, axes + 1, tiling)
        state.parallel(partial, state[partial].iters[0])
    _tile(state, op, axes, tiling)
    if not op.same_as(output):
        _tile(state, output, axes, tiling)
        state.compute_at(op, output, state[output].iters[0])
    if tiling.parts == 1:
        state.parallel(output, state[output].iters[0])
    return state


def _tile(state: Any, stage: Any, axes: int, tiling: Tiling) -> None:
    """Compute some vectors of results in the innermost loops, and fuse the loops over these tiles.

    Parameters
    ----------
    axes
        Number of spatial axes of the stage.
    """
    state.split(stage, state[stage].iters[axes - 1], [tiling.vectors, tiling.lanes])
    iters = state[stage].iters
    outer, (vector, lane), reduced = iters[:axes], iters[axes : axes + 2], iters[axes + 2 :]
    state.reorder(stage, [*outer, *reduced, vector, lane])
    state.unroll(stage, vector)
    state.vectorize(stage, lane)
    if axes > 1:
        state.fuse(stage, state[stage].iters[:axes])
