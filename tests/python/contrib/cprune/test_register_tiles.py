# SPDX-License-Identifier: Apache-2.0
"""Register tiles: which operations they suit, their sizes, and programs with them."""

import math
from dataclasses import replace
from random import Random

import pytest
from networks import KINDS
from programs import FAST, random_records, record_of, task_of

from tvm import auto_scheduler
from tvm.contrib.cprune.measuring.records import RecordLog, dump, identity
from tvm.contrib.cprune.targets.target import pinned_target, vector_lanes, vector_registers
from tvm.contrib.cprune.tuning.ansor import search as search_module
from tvm.contrib.cprune.tuning.ansor.register_tiles import (
    Tile,
    register_count,
    result_tiles,
    tile_splits,
    weight_tiles,
    with_tile,
)
from tvm.contrib.cprune.tuning.ansor.search import search, start_searches
from tvm.contrib.cprune.tuning.ansor.steps import steps_of, vectorized_stages
from tvm.contrib.cprune.tuning.ansor.tiled_operation import TiledOperation, tiled_operation

AVX512 = "llvm -mcpu=skylake-avx512 -num-cores 2"
# Axes 0, 1 and 2 are rows, columns and channels; 3 and 4 are kernel and input channels.
CONVOLUTION = TiledOperation({0: 56, 1: 56, 2: 64}, {3: 3, 4: 64}, 2, (1, 0))
PRODUCT = TiledOperation({0: 196, 2: 24}, {4: 96}, 2, (0,))


def extents(task, axes):
    return [task.axes[axis][2] for axis in axes]


def test_a_convolution_reuses_weights_along_rows_and_columns(target):
    task = task_of("direct 3x3", 32, target)
    operation = tiled_operation(task.tvm_task.compute_dag)
    assert extents(task, operation.rows) == [8, 8]
    assert operation.vector in task.out_axes
    assert set(extents(task, operation.reduction)) == {3, 8}


def test_a_winograd_product_reuses_weights_along_tiles_only(target):
    task = task_of("winograd 3x3", 32, target)
    operation = tiled_operation(task.tvm_task.compute_dag)
    names = [task.axes[axis][:2] for axis in (*operation.rows, operation.vector, *operation.reduction)]
    assert names == [("bgemm", "p"), ("bgemm", "co"), ("bgemm", "ci")]


@pytest.mark.parametrize("kind", ["depthwise", "grouped"])
def test_tiles_do_not_suit_channels_that_read_different_inputs(kind, target):
    task = task_of(kind, 32, target)
    assert tiled_operation(task.tvm_task.compute_dag) is None
    (one,) = start_searches([task], FAST, RecordLog(None), 0, {})
    assert one.tiled.generate([]) == []


@pytest.mark.parametrize(("lanes", "registers"), [(16, 32), (8, 16), (4, 32)])
def test_results_fit_the_registers_and_hide_the_latency(lanes, registers):
    tiles = result_tiles(CONVOLUTION, lanes, registers)
    assert tiles
    for tile in tiles:
        vectors, rows = tile.inner[2] // lanes, tile.inner[0] * tile.inner[1]
        assert tile.inner[2] % lanes == 0
        assert 8 <= vectors * rows <= registers - vectors - 1
        assert all(CONVOLUTION.spatial[axis] % length == 0 for axis, length in tile.inner.items())


def test_tiles_have_enough_multiply_adds_per_load():
    sizes = [
        (tile.inner[2] // 16, tile.inner[0] * tile.inner[1]) for tile in result_tiles(CONVOLUTION, 16, 32)
    ]
    # 4 vectors for each of 4 pixels, and 2 for each of 14: 16 multiply-adds for 8 loads, and 28 for 16.
    assert {(4, 4), (2, 14)} <= set(sizes)
    assert all(vectors * rows > vectors + rows for vectors, rows in sizes)


@pytest.mark.parametrize("width", [1, 3, 7, 10, 24, 62, 100, 228, 250, 252, 1000])
def test_tiles_of_widths_without_whole_vectors_fill_the_registers_well(width):
    operation = TiledOperation({0: 13, 1: 14, 2: width}, {4: 5}, 2, (1, 0))
    tiles = result_tiles(operation, 16, 32)

    filled = [tile.inner[2] / (register_count(tile.inner[2], 16) * 16) for tile in tiles]
    assert all(width % tile.inner[2] == 0 for tile in tiles)
    divisors = [n for n in range(1, width + 1) if width % n == 0 and 2 * register_count(n, 16) < 32]
    best = max(n / (register_count(n, 16) * 16) for n in divisors)
    assert filled[0] >= min(0.85, best)
    assert all(share >= 0.7 * filled[0] for share in filled)


def test_llvm_loads_the_rest_of_a_vector_as_powers_of_two():
    counts = {16: 1, 8: 1, 4: 1, 10: 2, 15: 4, 24: 2, 25: 3, 28: 3, 40: 3, 56: 4, 64: 4}
    assert {length: register_count(length, 16) for length in counts} == counts
    assert [register_count(length, 8) for length in (8, 10, 12, 24)] == [1, 2, 2, 3]


def test_tiles_of_several_vectors_need_not_be_a_power_of_two():
    operation = TiledOperation({0: 28, 1: 28, 2: 96}, {3: 3, 4: 96}, 2, (1, 0))
    assert {48, 96} <= {tile.inner[2] for tile in result_tiles(operation, 16, 32)}


def test_weights_fill_the_registers():
    tiles = weight_tiles(PRODUCT, 16, 32)
    assert Tile({2: 8}, {2: 3}, {4: 8}) in tiles and Tile({2: 24}, {2: 1}, {4: 8}) in tiles
    for tile in tiles:
        results = tile.middle[2] * {8: 1, 24: 2}[tile.inner[2]]
        assert 12 <= results * tile.reduction[4] <= 32 - results - 1
        assert 24 % (tile.inner[2] * tile.middle[2]) == 0
    assert weight_tiles(CONVOLUTION, 16, 32) == []


@pytest.mark.parametrize(
    ("width", "expected"),
    [(96, {8, 16}), (1000, {8, 40}), (56, {8, 56}), (88, {88}), (104, {104}), (252, {9, 12, 14})],
)
def test_vectors_of_weights_fill_half_a_register_if_possible(width, expected):
    operation = replace(PRODUCT, spatial={0: 196, 2: width})
    assert {tile.inner[2] for tile in weight_tiles(operation, 16, 32)} == expected


def test_vectors_of_results_that_llvm_would_divide_are_left_out():
    tiles = result_tiles(replace(PRODUCT, spatial={0: 196, 2: 56}), 16, 32)
    # 56 = 16 + 16 + 16 + 8 needs four registers, and 28 = 16 + 8 + 4 needs three.
    lengths = {tile.inner[2] for tile in tiles}
    assert 56 in lengths and not lengths & {7, 14, 28}


def test_loops_along_which_nothing_is_reused_are_outside_of_the_reduction():
    batched = TiledOperation({0: 6, 1: 196, 2: 64}, {4: 64}, 2, (1,))
    tiles = [*result_tiles(batched, 16, 32), *weight_tiles(batched, 16, 32)]
    assert tiles
    assert all(tile.middle[0] == 1 and tile.inner.get(0, 1) == 1 for tile in tiles)


def tileable(task):
    """Return an operation, and the steps and splits of random programs that tile it."""
    dag = task.tvm_task.compute_dag
    operation = tiled_operation(dag)
    programs = [steps_of(record) for record in random_records(task)]
    found = [(steps, splits) for steps in programs if (splits := tile_splits(dag, steps, operation))]
    assert found
    return operation, found


@pytest.mark.parametrize("kind", ["direct 3x3", "winograd 3x3", "1x1"])
def test_a_program_receives_a_tile_and_keeps_its_extents(kind, target):
    task = task_of(kind, 64, target)
    operation, found = tileable(task)
    random = Random(0)
    for tile in (*result_tiles(operation, 16, 32), *weight_tiles(operation, 16, 32)):
        steps, splits = random.choice(found)
        changed = with_tile(steps, splits, tile, 2, random)
        after = tile_splits(task.tvm_task.compute_dag, changed, operation)
        assert steps != changed
        for axis, split in after.spatial.items():
            assert split.lengths[-1] == tile.inner.get(axis, 1)
            assert split.lengths[1] == tile.middle.get(axis, split.lengths[1])
            assert split.extent % split.product == 0
            assert split.extent == splits.spatial[axis].extent
        for axis, length in tile.reduction.items():
            assert after.reduction[axis].lengths == (length,)


def test_the_outermost_loops_have_an_iteration_for_each_core(target):
    operation, found = tileable(task_of("direct 3x3", 64, target))
    tile = result_tiles(operation, 16, 32)[0]
    random, enough = Random(0), 0
    for _ in range(50):
        steps, splits = random.choice(found)
        changed = with_tile(steps, splits, tile, 2, random)
        lengths = [(split.extent, changed[split.step][4]) for split in splits.spatial.values()]
        enough += math.prod(extent // math.prod(inner) for extent, inner in lengths) >= 2
    assert enough >= 48


def test_a_seed_determines_the_programs(target):
    task = task_of("1x1", 32, target)

    def programs(seed):
        (one,) = start_searches([task], FAST, RecordLog(None), seed, {})
        return [identity(item) for item in one.tiled.generate([])]

    first = programs(1)
    assert len(set(first)) == len(first) > 10
    assert programs(1) == first
    assert set(programs(2)) != set(first)


@pytest.mark.parametrize("kind", sorted(KINDS.keys() - {"depthwise", "grouped"}))
def test_generated_programs_are_valid(kind, target, pool):
    task = task_of(kind, 32, target)
    (one,) = start_searches([task], FAST, RecordLog(None), 0, {})
    inputs = one.tiled.generate([])
    ranked = one.ranked(inputs)
    assert len(ranked) > len(inputs) / 2
    results = pool.measure(ranked[:4])
    assert [result.error_no for result in results] == [0] * 4


@pytest.mark.parametrize("kind", ["1x1", "winograd 3x3"])
def test_generated_programs_vectorize_the_operation(kind, target):
    task = task_of(kind, 64, target)
    # Ansor leaves about one in ten of its programs without vectors.
    many = replace(FAST, population=512)
    (one,) = start_searches([task], many, RecordLog(None), 0, {})
    operation, dag = tiled_operation(task.tvm_task.compute_dag), task.tvm_task.compute_dag

    def is_vectorized(steps):
        stage = tile_splits(dag, steps, operation).spatial[operation.vector].stage
        return stage in vectorized_stages(dag, steps)

    programs = [steps_of(record_of(task, item.state)) for item in one.tiled.generate([])]
    # Winograd's programs with blocks of tiles have fewer splits.
    programs = [steps for steps in programs if tile_splits(dag, steps, operation)]
    assert programs
    assert all(is_vectorized(steps) for steps in programs)
    if kind == "1x1":  # of the other kind, Ansor happens to vectorize all samples
        _, found = tileable(task)
        assert not all(is_vectorized(steps) for steps, _ in found)


def test_fast_programs_are_varied(target, tuned):
    task, best = tuned("direct 3x3")
    (one,) = start_searches([task], FAST, RecordLog(None), 0, {})
    generated = {identity(item): item for item in one.tiled.generate([best])}
    before, variants = steps_of(best.line), 0
    for item in generated.values():
        after = steps_of(dump(item, auto_scheduler.MeasureResult([0.0], 0, "", 0.0, 0.0)).line)
        differences = [(a, b) for a, b in zip(after, before, strict=False) if a != b]
        if len(after) == len(before) and len(differences) == 1:
            variants += 1
            ((new, old),) = differences
            assert new[:3] == old[:3]
            # The innermost length of a tiled axis stays.
            assert new[0] == "PR" or len(new[4]) == 1 or new[4][-1] == old[4][-1]
    assert variants >= 3


def test_gpus_get_no_tiles():
    task = task_of("1x1", 32, pinned_target("opencl -device=mali"))
    (one,) = start_searches([task], FAST, RecordLog(None), 0, {})
    assert one.tiled.generate([]) == []


def test_three_of_four_batches_have_register_tiles(target, pool, monkeypatch):
    task, log, evolved = task_of("1x1", 64, target), RecordLog(None), []
    evolve = search_module._evolve

    def count(search, size, *rest):
        evolved.append((search.trials, size))
        evolve(search, size, *rest)

    monkeypatch.setattr(search_module, "_evolve", count)
    search([task], replace(FAST, trials=16), pool, log)
    assert evolved == [(6, 2), (14, 2)]
    operation = tiled_operation(task.tvm_task.compute_dag)
    size = vector_lanes(str(target)), vector_registers(str(target))
    inner = {tile.inner[operation.vector] for tile in result_tiles(operation, *size)}
    inner |= {tile.inner[operation.vector] for tile in weight_tiles(operation, *size)}
    for record in log.measured[:6]:
        splits = tile_splits(task.tvm_task.compute_dag, steps_of(record.line), operation)
        assert splits.spatial[operation.vector].lengths[-1] in inner


def test_registers_of_targets():
    assert vector_registers(AVX512) == 32
    assert vector_registers("llvm -mcpu=core-avx2") == 16
    assert vector_registers("llvm -mtriple=aarch64-linux-gnu") == 32
