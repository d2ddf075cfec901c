# SPDX-License-Identifier: Apache-2.0
"""Programs of Winograd convolutions that compute one block of tiles after the other.

Ansor transforms all tiles, then multiplies all of them, then transforms all results, each in a loop of its
own. The transformed data of a large layer leaves the cache between these loops, and goes from core to core if
they divide it in different ways. The programs here run all stages for a block of tiles, which a core keeps in
its second-level cache, before those of the next block. Inference runtimes do the same (Jia, Zlateski, Durand
and Li, "Optimizing N-dimensional, Winograd-based convolution for manycore CPUs", PPoPP 2018).
"""

from collections.abc import Iterator, Sequence
from random import Random
from typing import Any

from tvm import auto_scheduler, te
from tvm.contrib.cprune.targets.target import core_count, vector_lanes, vector_registers
from tvm.contrib.cprune.tuning.ansor.block_sizes import (
    Block,
    Lengths,
    WinogradShape,
    block_choices,
    transform_vector,
)
from tvm.contrib.cprune.tuning.ansor.row_partition import has_large_weights
from tvm.contrib.cprune.tuning.ansor.steps import Step

# Operations of ``targets/winograd.py`` that a block computes.
STAGES = ("inverse", "inverse_left", "bgemm", "data_pack", "data_pack_left", "data_pad")


def winograd_shape(dag: Any) -> WinogradShape | None:
    """Return the shape of a convolution of ``targets/winograd.py``, None for any other compute DAG."""
    shapes = {op.name: [int(size) for size in op.output(0).shape] for op in dag.ops}
    last = [int(size) for size in dag.ops[-1].output(0).shape]
    if not shapes.keys() >= {*STAGES, "conv2d_winograd"} or shapes["conv2d_winograd"] != last:
        return None
    images, height, width, outputs = shapes["conv2d_winograd"]
    tile, inputs = shapes["inverse"][0], shapes["data_pack"][3]
    tiles = -(-height // tile), -(-width // tile)
    return WinogradShape(images, *tiles, inputs, outputs, tile, has_large_weights(dag))


def block_programs(tvm_task: Any, random: Random) -> Iterator[Any]:
    """Return the ``MeasureInput`` of all programs in random order, none for other operations."""
    shape = winograd_shape(tvm_task.compute_dag)
    if shape is None or tvm_task.target.kind.name != "llvm":
        return
    target = str(tvm_task.target)
    lanes = vector_lanes(target)
    choices = list(block_choices(shape, core_count(tvm_task), lanes, vector_registers(target)))
    for lengths in random.sample(choices, len(choices)):
        state = block_program(tvm_task.compute_dag, shape, lengths, lanes)
        yield auto_scheduler.MeasureInput(tvm_task, state)


def is_block_program(tvm_task: Any, steps: Sequence[Step]) -> bool:
    """Return whether the steps are those of a block program: Ansor's for CPUs divide no loop into five."""
    on_cpu = tvm_task.target.kind.name == "llvm"
    return on_cpu and any(step[0] == "SP" and len(step[4]) == 4 for step in steps)


def block_program(dag: Any, shape: WinogradShape, lengths: Lengths, lanes: int) -> Any:
    """Return the state of a program.

    The parameters are those of ``block_choices``.
    """
    state = dag.get_init_state()
    stages, output = {op.name: op for op in state.stage_ops}, state.stage_ops[-1]
    for op in state.stage_ops:
        # Names need not be unique: there can be two additions.
        if isinstance(op, te.ComputeOp) and op.name not in STAGES and not op.same_as(output):
            state.compute_inline(op)
    inputs, outputs = transform_vector(shape.inputs, lanes), transform_vector(shape.outputs, lanes)
    parted = lengths.block.channels < shape.outputs
    _schedule_output(state, output, shape.tile, lengths.block, outputs, parted)
    _schedule_product(state, stages["bgemm"], lengths, parted)
    _vectorize(state, stages["data_pad"], 3, inputs)
    for name, vector in (("inverse", outputs), ("data_pack", inputs)):
        right, left = stages[name], stages[f"{name}_left"]
        _schedule_transform(state, right, vector)
        _schedule_transform(state, left, vector)
        # The left product is computed for one vector of the right one.
        state.compute_at(left, right, state[right].iters[1])
    for name in ("inverse", "bgemm", "data_pack", "data_pad"):
        state.compute_at(stages[name], output, state[output].iters[0])
    # The last step, because TVM's evolutionary search may fuse a parallel loop with the next one. It does not
    # if other stages are already computed in the loop.
    state.parallel(output, state[output].iters[0])
    return state


def _schedule_output(state: Any, output: Any, tile: int, block: Block, vector: int, parted: bool) -> None:
    """Make the first loop of the output one over blocks.

    Parameters
    ----------
    parted
        Whether blocks contain a part of the channels.
    """
    lengths = [block.channels // vector, vector] if parted else [vector]
    state.split(output, state[output].iters[3], lengths)
    state.vectorize(output, state[output].iters[-1])
    state.split(output, state[output].iters[2], [tile * block.columns])
    state.split(output, state[output].iters[1], [tile * block.rows])
    n, row, h, column, w, *channels = state[output].iters
    parts = channels[:-2] if parted else []
    state.reorder(output, [n, row, column, *parts, h, w, *channels[len(parts) :]])
    state.fuse(output, [n, row, column, *parts])


def _schedule_transform(state: Any, stage: Any, vector: int) -> None:
    """Transform a vector of channels of one tile after the other."""
    _vectorize(state, stage, 3, vector)
    i, j, p, channel, lane, r = state[stage].iters
    state.reorder(stage, [p, channel, i, j, r, lane])
    for unrolled in (i, j, r):
        state.unroll(stage, unrolled)


def _schedule_product(state: Any, product: Any, lengths: Lengths, parted: bool) -> None:
    """Multiply with a register tile, for one point of the tiles after the other.

    When TVM rewrites the layout of weights, it takes the first loops of the product for those of the output
    that are outside of it (``GetNewLayout`` in ``src/auto_scheduler/compute_dag.cc``). So the first loops
    here, of one iteration each, run over tiles, which the weights do not have, as often as the output has
    loops over blocks of tiles, and then over channels if blocks contain a part of them.
    """
    _, _, p, channel, reduction = state[product].iters
    block, inner = lengths.block, lengths.outputs
    state.split(product, reduction, [lengths.inputs])
    state.split(product, channel, [block.channels // inner, inner] if parted else [inner])
    state.split(product, p, [1, 1, block.tiles // lengths.tiles, lengths.tiles])
    eps, nu, *iterators, k, added = state[product].iters
    (*single, p, tile), (*part, channel, lane) = iterators[:5], iterators[5:]
    state.reorder(product, [*single, *part, eps, nu, channel, p, k, added, tile, lane])
    for unrolled in (added, tile):
        state.unroll(product, unrolled)
    state.vectorize(product, lane)


def _vectorize(state: Any, stage: Any, position: int, length: int) -> None:
    """Split a loop, and vectorize its inner part."""
    state.split(stage, state[stage].iters[position], [length])
    state.vectorize(stage, state[stage].iters[position + 1])
