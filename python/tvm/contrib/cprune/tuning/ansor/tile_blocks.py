# SPDX-License-Identifier: Apache-2.0
"""Programs of Winograd convolutions that compute one block of tiles after the other.

Ansor transforms all tiles, then multiplies all of them, then transforms all results, each in a loop of its
own. The transformed data of a large layer leaves the cache between these loops, and goes from core to core if
they divide it in different ways. The programs here run all stages for a block of tiles, which a core keeps in
its second-level cache, before those of the next block. Inference runtimes do the same (Jia, Zlateski, Durand
and Li, "Optimizing N-dimensional, Winograd-based convolution for manycore CPUs", PPoPP 2018).
"""

import itertools
from collections.abc import Iterator
from random import Random
from typing import Any, NamedTuple

from tvm import auto_scheduler, te
from tvm.contrib.cprune.targets.target import core_count, vector_lanes, vector_registers
from tvm.contrib.cprune.tuning.ansor.register_tiles import divisors

# Operations of ``targets/winograd.py`` that a block computes, the last ones first.
STAGES = ("inverse", "inverse_left", "bgemm", "data_pack", "data_pack_left", "data_pad")
# Least fraction of the time in which all cores have blocks to compute.
MIN_BALANCE = 0.8
# Tiles of a block that make reading the weights worth it, if the image has so many for each core.
MIN_TILES = 4
# Vectors of results in a register tile: the latency of multiply-adds needs several, and LLVM keeps no more of
# them in registers.
MIN_RESULTS, MAX_RESULTS = 6, 24
# Vectors that fill their registers by less than this fraction of what the best one does are not used.
MIN_FILLED = 0.7
# Longest vector of a transform, in registers.
MAX_VECTORS = 4
# Iterations of the product's reduction that are unrolled.
REDUCTIONS = (1, 2, 4)


class Blocks(NamedTuple):
    """Lengths of a program's loops.

    Attributes
    ----------
    rows, columns
        Tiles of a block.
    tiles, outputs
        Tiles and output channels whose results the product keeps in registers.
    inputs
        Input channels that it adds in an unrolled loop.
    """

    rows: int
    columns: int
    tiles: int
    outputs: int
    inputs: int


class WinogradShape(NamedTuple):
    """Numbers of images, of tiles along rows and columns, and of channels, and the size of a tile."""

    images: int
    rows: int
    columns: int
    inputs: int
    outputs: int
    tile: int


def winograd_shape(dag: Any) -> WinogradShape | None:
    """Return the shape of a convolution of ``targets/winograd.py``, None for any other compute DAG."""
    shapes = {op.name: [int(size) for size in op.output(0).shape] for op in dag.ops}
    last = [int(size) for size in dag.ops[-1].output(0).shape]
    if not shapes.keys() >= {*STAGES, "conv2d_winograd"} or shapes["conv2d_winograd"] != last:
        return None
    images, height, width, outputs = shapes["conv2d_winograd"]
    tile, inputs = shapes["inverse"][0], shapes["data_pack"][3]
    return WinogradShape(images, -(-height // tile), -(-width // tile), inputs, outputs, tile)


def block_programs(tvm_task: Any, random: Random) -> Iterator[Any]:
    """Return the ``MeasureInput`` of all programs in random order, none for other operations."""
    shape = winograd_shape(tvm_task.compute_dag)
    if shape is None or tvm_task.target.kind.name != "llvm":
        return
    target = str(tvm_task.target)
    lanes = vector_lanes(target)
    choices = list(block_choices(shape, core_count(tvm_task), lanes, vector_registers(target)))
    for blocks in random.sample(choices, len(choices)):
        state = block_program(tvm_task.compute_dag, shape, blocks, lanes)
        yield auto_scheduler.MeasureInput(tvm_task, state)


def block_choices(shape: WinogradShape, cores: int, lanes: int, registers: int) -> Iterator[Blocks]:
    """Return the lengths of programs whose blocks occupy all cores and whose results fit the registers.

    Parameters
    ----------
    lanes, registers
        Elements of a vector register, and the number of registers.
    """
    filled = {length: _filled(length, lanes) for length in divisors(shape.outputs)}
    lengths = [length for length in filled if filled[length] >= MIN_FILLED * max(filled.values())]
    for rows, columns in _block_sizes(shape, cores):
        results = {
            (tiles, outputs): tiles * -(-outputs // lanes)
            for tiles, outputs in itertools.product(divisors(rows * columns), lengths)
            if _fits(tiles, -(-outputs // lanes), registers) and (tiles > 1 or rows * columns == 1)
        }
        least = min(MIN_RESULTS, max(results.values(), default=0))
        for (tiles, outputs), count in results.items():
            for inputs in REDUCTIONS:
                if count >= least and shape.inputs % inputs == 0:
                    yield Blocks(rows, columns, tiles, outputs, inputs)


def _block_sizes(shape: WinogradShape, cores: int) -> list[tuple[int, int]]:
    """Return numbers of rows and columns of tiles in a block: whole rows, or a part of one.

    All cores have blocks to compute for most of the time, and blocks have several tiles, if possible.
    """
    sizes = [(rows, shape.columns) for rows in divisors(shape.rows)]
    sizes += [(1, columns) for columns in divisors(shape.columns)[:-1]]
    least = min(MIN_TILES, max(1, shape.images * shape.rows * shape.columns // cores))
    sizes = [(rows, columns) for rows, columns in sizes if rows * columns >= least]
    balances = {size: _balance(shape, size, cores) for size in sizes}
    return [size for size in sizes if balances[size] >= min(MIN_BALANCE, max(balances.values()))]


def _fits(tiles: int, vectors: int, registers: int) -> bool:
    """Return whether results, vectors of weights and an element of the data fit the registers."""
    return tiles * vectors <= MAX_RESULTS and (tiles + 1) * vectors + 1 <= registers


def _balance(shape: WinogradShape, size: tuple[int, int], cores: int) -> float:
    """Return the fraction of time in which the cores have blocks to compute."""
    blocks = shape.images * (shape.rows // size[0]) * (shape.columns // size[1])
    return blocks / (-(-blocks // cores) * cores)


def _filled(length: int, lanes: int) -> float:
    """Return the part of its registers that a vector fills."""
    return length / (-(-length // lanes) * lanes)


def _vector(channels: int, lanes: int) -> int:
    """Return the length of a transform's vectors: the shortest of those that fill their registers best."""
    lengths = [length for length in divisors(channels) if length <= MAX_VECTORS * lanes]
    return max(lengths, key=lambda length: (_filled(length, lanes), -length))


def block_program(dag: Any, shape: WinogradShape, blocks: Blocks, lanes: int) -> Any:
    """Return the state of a program.

    The parameters are those of ``block_choices``.
    """
    state = dag.get_init_state()
    stages, output = {op.name: op for op in state.stage_ops}, state.stage_ops[-1]
    for op in state.stage_ops:
        if isinstance(op, te.ComputeOp) and op.name not in (*STAGES, output.name):
            state.compute_inline(op)
    inputs, outputs = _vector(shape.inputs, lanes), _vector(shape.outputs, lanes)
    _schedule_output(state, output, shape, blocks, outputs)
    for name, vector in (("inverse", outputs), ("inverse_left", outputs)):
        _schedule_transform(state, stages[name], vector)
    _schedule_product(state, stages["bgemm"], blocks)
    for name, vector in (("data_pack", inputs), ("data_pack_left", inputs)):
        _schedule_transform(state, stages[name], vector)
    _vectorize(state, stages["data_pad"], 3, inputs)
    for name in STAGES:
        # A left product is computed for the vector of its right one.
        consumer = stages[name.removesuffix("_left")] if name.endswith("_left") else output
        state.compute_at(stages[name], consumer, state[consumer].iters[1 if consumer is not output else 0])
    return state


def _schedule_output(state: Any, output: Any, shape: WinogradShape, blocks: Blocks, vector: int) -> None:
    """Make the first loop of the output one over blocks, which the cores share."""
    _vectorize(state, output, 3, vector)
    state.split(output, state[output].iters[2], [shape.tile * blocks.columns])
    state.split(output, state[output].iters[1], [shape.tile * blocks.rows])
    n, row, h, column, w, *channels = state[output].iters
    state.reorder(output, [n, row, column, h, w, *channels])
    state.parallel(output, state.fuse(output, [n, row, column]))


def _schedule_transform(state: Any, stage: Any, vector: int) -> None:
    """Transform a vector of channels of one tile after the other."""
    _vectorize(state, stage, 3, vector)
    i, j, p, channel, lane, r = state[stage].iters
    state.reorder(stage, [p, channel, i, j, r, lane])
    for position in (2, 3, 4):
        state.unroll(stage, state[stage].iters[position])


def _schedule_product(state: Any, product: Any, blocks: Blocks) -> None:
    """Multiply with a register tile, for one point of the tiles after the other.

    When TVM rewrites the layout of weights, it takes the first loops of the product for those of the output
    that are outside of it (``GetNewLayout`` in ``src/auto_scheduler/compute_dag.cc``). So there are three
    loops over tiles here, of one iteration each, which the weights do not have.
    """
    eps, nu, p, channel, reduction = state[product].iters
    state.split(product, reduction, [blocks.inputs])
    _vectorize(state, product, 3, blocks.outputs)
    state.split(product, p, [1, 1, blocks.rows * blocks.columns // blocks.tiles, blocks.tiles])
    eps, nu, *outer, p, tile, channel, lane, k, inner = state[product].iters
    state.reorder(product, [*outer, eps, nu, channel, p, k, inner, tile, lane])
    for position in (8, 9):
        state.unroll(product, state[product].iters[position])


def _vectorize(state: Any, stage: Any, position: int, length: int) -> None:
    """Split a loop, and vectorize its inner part."""
    state.split(stage, state[stage].iters[position], [length])
    state.vectorize(stage, state[stage].iters[position + 1])
