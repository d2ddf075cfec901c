# SPDX-License-Identifier: Apache-2.0
"""Register tiles: innermost loops that keep a block of results or of weights in vector registers.

Ansor samples all lengths of a loop nest at random, and few of its programs have innermost loops that use the
registers well. The tiles here are those of the kernels in matrix libraries (Goto and van de Geijn, "Anatomy
of high-performance matrix multiplication", ACM TOMS 2008). All other lengths stay random.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import product
from random import Random
from typing import Any

from tvm.contrib.cprune.tuning.ansor.row_partition import SPATIAL_LEVELS
from tvm.contrib.cprune.tuning.ansor.steps import Step, splits_of
from tvm.contrib.cprune.tuning.ansor.tiled_operation import TiledOperation
from tvm.contrib.cprune.types import Split

# Inner lengths of a reduction axis in Ansor's tiling for CPUs, "SSRSRS".
REDUCTION_LEVELS = 1
# Vectors of results that hide the latency of a multiply-add: two each cycle, with a latency of four.
MIN_RESULTS = 8
# Multiply-adds per load beyond which loads take less time. Two of either can start in each cycle, but some
# loads wait for the second-level cache.
MAX_RATIO = 1.5
# Tiles with at least this fraction of the best one's score are used.
MIN_SCORE = 0.7
# Least fraction of the registers that hold weights, for tiles of weights.
MIN_WEIGHTS = 3 / 8
# Most registers of a vector of weights, for widths that are not a multiple of a register.
MAX_VECTOR = 8
# Attempts to draw lengths that leave an iteration of the outermost loops for each core.
ATTEMPTS = 8


@dataclass(frozen=True)
class Tile:
    """Lengths of inner loops by the number of their axis.

    Attributes
    ----------
    inner : dict of int to int
        Innermost lengths of spatial axes, 1 for those that are not included.
    middle : dict of int to int
        Lengths of the loops outside of the inner reduction. Others are random.
    reduction : dict of int to int
        Inner lengths of reduction axes. Others are those of the program.
    """

    inner: Mapping[int, int]
    middle: Mapping[int, int] = field(default_factory=dict)
    reduction: Mapping[int, int] = field(default_factory=dict)


@dataclass(frozen=True)
class TileSplits:
    """The splits of a program that tile an operation, by the number of their axis."""

    spatial: Mapping[int, Split]
    reduction: Mapping[int, Split]


def result_tiles(operation: TiledOperation, lanes: int, registers: int) -> list[Tile]:
    """Return tiles that keep their results in registers, those that use the arithmetic units best first.

    A vector whose last part is no power of two takes more registers (see ``register_count``).

    Parameters
    ----------
    lanes, registers
        Elements of a vector register, and the number of registers.
    """
    rows = operation.rows[:2]
    counts = [divisors(operation.spatial[axis]) for axis in rows]
    scores: list[tuple[float, Tile]] = []
    for length in divisors(operation.spatial[operation.vector]):
        vectors = register_count(length, lanes)
        for chosen in product(*counts):
            count = math.prod(chosen)
            # One more register holds the element that a vector of weights is multiplied by.
            if vectors * count + vectors + 1 <= registers:
                score = min(MAX_RATIO, vectors * count / (vectors + count))
                score *= min(1.0, vectors * count / MIN_RESULTS) * length / (vectors * lanes)
                inner = {operation.vector: length, **dict(zip(rows, chosen, strict=True))}
                scores.append((score, Tile(inner, _unshared(operation))))
    scores.sort(key=lambda pair: pair[0], reverse=True)
    return [tile for score, tile in scores if score >= MIN_SCORE * scores[0][0]]


def weight_tiles(operation: TiledOperation, lanes: int, registers: int) -> list[Tile]:
    """Return tiles that keep weights in registers, while a loop over the rows adds to results in the cache.

    They suit products with a small reduction. Convolutions with larger kernels than 1x1 get none: they would
    read and write each result too often. Parameters are those of ``result_tiles``.
    """
    deep = [axis for axis, extent in operation.reduction.items() if extent > 1]
    if len(deep) != 1 or not operation.rows:
        return []
    width, vector = operation.spatial[operation.vector], operation.vector
    return [
        Tile({vector: length}, {vector: vectors, **_unshared(operation)}, {deep[0]: depth})
        for length in _weight_vectors(width, lanes)
        for vectors in divisors(width // length)
        for depth in divisors(operation.reduction[deep[0]])
        if (results := vectors * register_count(length, lanes)) > 1 and depth > 1
        # One more register holds an element of the data.
        if MIN_WEIGHTS * registers <= results * depth <= registers - results - 1
    ]


def _weight_vectors(width: int, lanes: int) -> list[int]:
    """Return lengths of vectors of weights: multiples of half a register if the width has such divisors."""
    halves = [n for n in divisors(width) if 2 * n % lanes == 0 and n <= MAX_VECTOR * lanes]
    # If it is a multiple of a register, loops over registers do the same as longer vectors.
    chosen = [n for n in halves if n <= lanes or width % lanes]
    return chosen or [n for n in divisors(width) if lanes / 2 <= n <= lanes]


def register_count(length: int, lanes: int) -> int:
    """Return the number of registers of a vector; LLVM loads and stores the last part as powers of two."""
    return length // lanes + (length % lanes).bit_count()


def _unshared(operation: TiledOperation) -> dict[int, int]:
    """Return 1 for each axis along which no input is reused, whose loop belongs outside of the reduction."""
    return dict.fromkeys(operation.spatial.keys() - {operation.vector, *operation.rows}, 1)


def divisors(number: int) -> list[int]:
    """Return the divisors of a number in ascending order."""
    return [divisor for divisor in range(1, number + 1) if number % divisor == 0]


def tile_splits(dag: Any, steps: Sequence[Step], operation: TiledOperation) -> TileSplits | None:
    """Return the splits of a program that tile an operation, None if it lacks levels of Ansor's tiling."""
    spatial: dict[int, Split] = {}
    reduction: dict[int, Split] = {}
    for split in splits_of(dag, steps):
        axis = split.axes[0]
        if len(split.axes) > 1:
            continue
        if axis in operation.spatial and len(split.lengths) == SPATIAL_LEVELS:
            spatial[axis] = split
        elif axis in operation.reduction and len(split.lengths) == REDUCTION_LEVELS:
            reduction[axis] = split
    complete = {operation.vector, *operation.rows} <= spatial.keys()
    return (
        TileSplits(spatial, reduction)
        if complete and operation.reduction.keys() <= reduction.keys()
        else None
    )


def with_tile(
    steps: Sequence[Step], splits: TileSplits, tile: Tile, cores: int, random: Random
) -> list[Step]:
    """Return the steps of a program with a tile, and with random lengths outside of it.

    Parameters
    ----------
    splits
        The splits of the program whose lengths change.
    cores
        Number of cores that share the outermost loops.
    """
    changed = [list(step) for step in steps]
    for axis, length in tile.reduction.items():
        changed[splits.reduction[axis].step][4] = [length]
    for _ in range(ATTEMPTS):
        iterations = 1
        for axis, split in splits.spatial.items():
            inner = tile.inner.get(axis, 1)
            middle = tile.middle.get(axis) or random.choice(
                (1, random.choice(divisors(split.extent // inner)))
            )
            outer = random.choice(divisors(split.extent // inner // middle))
            iterations *= split.extent // (inner * middle * outer)
            changed[split.step][4] = [outer, middle, inner]
        if iterations >= cores:
            break
    return changed
