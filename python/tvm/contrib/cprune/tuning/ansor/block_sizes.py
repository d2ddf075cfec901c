# SPDX-License-Identifier: Apache-2.0
"""Sizes of the blocks and of the register tiles of Winograd programs (see ``tile_blocks.py``)."""

import itertools
import math
from collections.abc import Iterator
from typing import NamedTuple

from tvm.contrib.cprune.tuning.ansor.register_tiles import divisors

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
# Parts into which blocks may divide the channels.
PARTS = (2, 4, 8)


class Block(NamedTuple):
    """Rows and columns of tiles in a block, and its output channels."""

    rows: int
    columns: int
    channels: int

    @property
    def tiles(self) -> int:
        return self.rows * self.columns


class Lengths(NamedTuple):
    """Lengths of a program's loops.

    Attributes
    ----------
    block
        What a core computes before it goes on to the next block.
    tiles, outputs
        Tiles and output channels whose results the product keeps in registers.
    inputs
        Input channels that it adds in an unrolled loop.
    """

    block: Block
    tiles: int
    outputs: int
    inputs: int


class WinogradShape(NamedTuple):
    """Shape of a Winograd convolution.

    Attributes
    ----------
    images, rows, columns
        Numbers of images, and of tiles along the rows and the columns of each.
    inputs, outputs
        Numbers of channels.
    tile
        Rows and columns of the output that a tile computes.
    large_weights
        Whether the transformed weights are larger than the activations.
    """

    images: int
    rows: int
    columns: int
    inputs: int
    outputs: int
    tile: int
    large_weights: bool = False

    @property
    def tiles(self) -> int:
        return self.images * self.rows * self.columns


def block_choices(shape: WinogradShape, cores: int, lanes: int, registers: int) -> Iterator[Lengths]:
    """Return the lengths of programs whose blocks occupy all cores and whose results fit the registers.

    Parameters
    ----------
    lanes, registers
        Elements of a vector register, and the number of registers.
    """
    for block in _blocks(shape, cores, lanes):
        lengths = _well_filled(block.channels, lanes)
        results = {
            (tiles, outputs): tiles * -(-outputs // lanes)
            for tiles, outputs in itertools.product(divisors(block.tiles), lengths)
            if _fits(tiles, -(-outputs // lanes), registers) and (tiles > 1 or block.tiles == 1)
        }
        least = min(MIN_RESULTS, max(results.values(), default=0))
        for (tiles, outputs), count in results.items():
            for inputs in REDUCTIONS:
                if count >= least and shape.inputs % inputs == 0:
                    yield Lengths(block, tiles, outputs, inputs)


def _blocks(shape: WinogradShape, cores: int, lanes: int) -> list[Block]:
    """Return blocks of whole rows of tiles, or of a part of one.

    All cores have blocks to compute for most of the time, and blocks have several tiles, if possible. If the
    weights are large, a block may also compute a part of the channels, so that no core reads all weights.
    """
    sizes = [(rows, shape.columns) for rows in divisors(shape.rows)]
    sizes += [(1, columns) for columns in divisors(shape.columns)[:-1]]
    least = min(MIN_TILES, shape.rows * shape.columns, max(1, shape.tiles // cores))
    channels = [shape.outputs]
    if shape.large_weights:
        vector = transform_vector(shape.outputs, lanes)
        channels += [shape.outputs // parts for parts in PARTS if shape.outputs % (parts * vector) == 0]
    blocks = [Block(*size, count) for size in sizes for count in channels if math.prod(size) >= least]
    balances = {block: _balance(shape, block, cores) for block in blocks}
    return [block for block in blocks if balances[block] >= min(MIN_BALANCE, max(balances.values()))]


def _well_filled(channels: int, lanes: int) -> list[int]:
    """Return the divisors of a number of channels that are lengths of vectors which fill their registers."""
    filled = {length: _filled(length, lanes) for length in divisors(channels)}
    return [length for length in filled if filled[length] >= MIN_FILLED * max(filled.values())]


def _fits(tiles: int, vectors: int, registers: int) -> bool:
    """Return whether results, vectors of weights and an element of the data fit the registers."""
    return tiles * vectors <= MAX_RESULTS and (tiles + 1) * vectors + 1 <= registers


def _balance(shape: WinogradShape, block: Block, cores: int) -> float:
    """Return the fraction of time in which the cores have blocks to compute."""
    blocks = shape.tiles // block.tiles * (shape.outputs // block.channels)
    return blocks / (-(-blocks // cores) * cores)


def _filled(length: int, lanes: int) -> float:
    """Return the fraction of its registers that a vector fills."""
    return length / (-(-length // lanes) * lanes)


def transform_vector(channels: int, lanes: int) -> int:
    """Return the length of a transform's vectors: the shortest of those that fill their registers best."""
    lengths = [length for length in divisors(channels) if length <= MAX_VECTORS * lanes]
    return max(lengths, key=lambda length: (_filled(length, lanes), -length))
