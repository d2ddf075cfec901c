# SPDX-License-Identifier: Apache-2.0
"""Programs of Winograd convolutions that compute one block of tiles after the other."""

import math
from random import Random
from types import SimpleNamespace

import numpy as np
import pytest
from networks import OneLayer
from programs import extract, random_records, record_of, reference, task_of
from torch import nn
from tvm.auto_scheduler import LayoutRewriteOption
from tvm.auto_scheduler.measure import MeasureErrorNo

import tvm
from tvm.contrib.cprune.measuring.records import state_of, to_input
from tvm.contrib.cprune.targets.winograd import TILES
from tvm.contrib.cprune.transform.pin_algorithms import winograd
from tvm.contrib.cprune.tuning.ansor.block_sizes import Block, Lengths, WinogradShape, block_choices
from tvm.contrib.cprune.tuning.ansor.steps import loop_counts, steps_of, with_steps
from tvm.contrib.cprune.tuning.ansor.tile_blocks import (
    STAGES,
    block_program,
    block_programs,
    is_block_program,
    winograd_shape,
)
from tvm.contrib.cprune.tuning.ansor.transplant import rewrite_steps

# The first stage of ResNet-18 at 224x224.
LARGE = WinogradShape(1, 14, 14, 64, 64, 4)


class Residual(nn.Module):
    """A convolution whose input is added to its output."""

    def __init__(self, last: nn.Module) -> None:
        super().__init__()
        self.conv, self.last = nn.Conv2d(8, 8, 3, padding=1), last

    def forward(self, x):
        return self.last(self.conv(x) + x)


def winograd_task(model, shape, tile, target):
    tasks = extract(model.eval(), shape, target, algorithms={"conv": winograd(tile)})
    (task,) = [task for task in tasks if "conv" in task.layers]
    return task


def output_of(task, state, inputs):
    """Return what a program computes."""
    schedule, tensors = task.tvm_task.compute_dag.apply_steps_from_state(state)
    arrays = [tvm.nd.array(value) for value in inputs]
    arrays.append(tvm.nd.array(np.zeros([int(n) for n in tensors[-1].shape], "float32")))
    tvm.build(schedule, tensors, task.tvm_task.target)(*arrays)
    return arrays[-1].numpy()


def inputs_of(task):
    random, tensors = np.random.default_rng(0), task.tvm_task.compute_dag.tensors[:-1]
    return [random.standard_normal([int(n) for n in tensor.shape]).astype("float32") for tensor in tensors]


def check_programs(task, count):
    """Check what some programs compute; ``reference`` runs the compute DAG without a schedule."""
    programs = list(block_programs(task.tvm_task, Random(0)))[:count]
    assert programs
    inputs = inputs_of(task)
    expected = reference(task, inputs)
    for program in programs:
        check_output(task, program.state, inputs, expected)


def check_output(task, state, inputs, expected):
    output = output_of(task, state, inputs)
    np.testing.assert_allclose(output, expected, rtol=0, atol=1e-5 * np.abs(expected).max())


@pytest.mark.parametrize("size", [(12, 12), (14, 9), (7, 7), (3, 5)], ids=str)
@pytest.mark.parametrize("tile", TILES)
def test_programs_compute_what_the_definition_does(tile, size, target):
    check_programs(winograd_task(OneLayer(6, 10), (2, 6, *size), tile, target), 3)


def test_blocks_of_a_part_of_the_channels(target):
    task = winograd_task(OneLayer(32, 64), (1, 32, 7, 7), 4, target)
    dag, inputs = task.tvm_task.compute_dag, inputs_of(task)
    shape, expected = winograd_shape(dag), reference(task, inputs)
    assert shape.large_weights
    for block, tiles in ((Block(2, 2, 32), 4), (Block(1, 2, 16), 2), (Block(1, 1, 32), 1)):
        state = block_program(dag, shape, Lengths(block, tiles, 16, 2), 16)
        check_output(task, state, inputs, expected)
        _, tensors = dag.apply_steps_from_state(state, LayoutRewriteOption.REWRITE_FOR_PRE_TRANSFORMED)
        assert 6 * 6 * 32 * 64 in sizes_of(tensors)


def test_residuals_and_odd_widths(target):
    for last in (nn.ReLU(), nn.Identity()):
        check_programs(winograd_task(Residual(last), (1, 8, 12, 12), 4, target), 2)
    check_programs(winograd_task(OneLayer(5, 57), (1, 5, 8, 8), 2, target), 2)


def test_the_packed_weights_are_not_larger(target):
    task = winograd_task(OneLayer(16, 32), (1, 16, 16, 16), 4, target)
    program, *_ = block_programs(task.tvm_task, Random(0))
    option = LayoutRewriteOption.REWRITE_FOR_PRE_TRANSFORMED
    _, tensors = task.tvm_task.compute_dag.apply_steps_from_state(program.state, option)
    assert 6 * 6 * 16 * 32 in sizes_of(tensors)


def sizes_of(tensors):
    return [math.prod(int(n) for n in tensor.shape) for tensor in tensors]


def test_all_cores_have_blocks_with_several_tiles():
    blocks = {choice.block for choice in block_choices(LARGE, 2, 16, 32)}
    # 14 rows of tiles for two cores: 7, 14 or 28 blocks. Smaller ones would read the weights too often.
    assert blocks == {Block(rows, columns, 64) for rows, columns in ((1, 7), (1, 14), (2, 14), (7, 14))}
    assert {choice.block for choice in block_choices(LARGE, 1, 16, 32)} > blocks


def test_weights_are_large_if_they_outweigh_the_activations(target):
    sizes = {6: True, 48: False}
    for size, large in sizes.items():
        task = winograd_task(OneLayer(8, 8), (1, 8, size, size), 4, target)
        assert winograd_shape(task.tvm_task.compute_dag).large_weights == large


def test_cores_divide_large_weights():
    shape = WinogradShape(1, 4, 4, 512, 512, 2, large_weights=True)
    blocks = {choice.block for choice in block_choices(shape, 2, 16, 32)}
    assert {Block(4, 4, 512 // parts) for parts in (2, 4, 8)} <= blocks
    assert Block(4, 4, 512) not in blocks
    assert all(block.channels == 64 for block in {choice.block for choice in block_choices(LARGE, 2, 16, 32)})


def test_images_of_one_tile_have_blocks():
    blocks = {choice.block for choice in block_choices(WinogradShape(8, 1, 1, 64, 64, 4), 2, 16, 32)}
    assert Block(1, 1, 64) in blocks


@pytest.mark.parametrize(("lanes", "registers"), [(16, 32), (8, 16), (4, 32)])
def test_results_fit_the_registers(lanes, registers):
    choices = list(block_choices(LARGE, 2, lanes, registers))
    assert choices
    for choice in choices:
        vectors = choice.outputs // lanes
        assert choice.outputs % lanes == 0
        assert choice.block.tiles % choice.tiles == 0
        assert choice.tiles > 1
        assert vectors * (choice.tiles + 1) < registers


def test_choices_are_distinct_and_the_seed_gives_their_order(target):
    task = winograd_task(OneLayer(16, 32), (1, 16, 16, 16), 4, target)
    first, again, other = (
        [record_of(task, program.state) for program in block_programs(task.tvm_task, Random(seed))]
        for seed in (0, 0, 1)
    )
    assert first == again
    assert first != other
    assert sorted(first) == sorted(set(other))


def test_a_program_whose_weights_tvm_packs_wrongly_fails(target, pool):
    task = winograd_task(OneLayer(8, 96), (1, 8, 7, 7), 4, target)
    dag = task.tvm_task.compute_dag
    program = block_program(dag, winograd_shape(dag), Lengths(Block(1, 2, 48), 2, 16, 1), 16)
    steps = steps_of(record_of(task, program))
    _, product = [number for number, step in enumerate(steps) if step[0] == "SP" and step[4] == [3, 16]]
    wrong = [list(step) for step in steps]
    wrong[product][4] = [1, 32]  # does not divide the 48 channels of a block
    line = record_of(task, program)
    inputs = [to_input(with_steps(line, changed), task.tvm_task) for changed in (steps, wrong)]
    good, bad = pool.measure(inputs)
    assert good.error_no == 0
    assert bad.error_no == MeasureErrorNo.INSTANTIATION_ERROR
    assert "TVM packs" in bad.error_msg


@pytest.mark.parametrize("kind", ["direct 3x3", "depthwise", "dense"])
def test_other_operations_have_no_such_programs(kind, target):
    tvm_task = task_of(kind, 32, target).tvm_task
    assert winograd_shape(tvm_task.compute_dag) is None
    assert list(block_programs(tvm_task, Random(0))) == []


def test_block_programs_are_told_from_those_of_ansor(target):
    task = winograd_task(OneLayer(16, 32), (1, 16, 16, 16), 4, target)
    blocks = [record_of(task, program.state) for program in block_programs(task.tvm_task, Random(0))]
    assert all(is_block_program(task.tvm_task, steps_of(line)) for line in blocks)
    assert not any(is_block_program(task.tvm_task, steps_of(line)) for line in random_records(task))
    # Ansor divides loops into five on GPUs.
    on_gpu = SimpleNamespace(target=tvm.target.Target("opencl"))
    assert not any(is_block_program(on_gpu, steps_of(line)) for line in blocks)


def test_steps_are_replayed_as_tvm_does(target):
    task = winograd_task(OneLayer(16, 32), (1, 16, 16, 16), 4, target)
    program, *_ = block_programs(task.tvm_task, Random(0))
    steps = steps_of(record_of(task, program.state))
    counts = loop_counts(task.tvm_task.compute_dag, steps)
    stages = zip(program.state.stages, counts, strict=True)
    # A placeholder has dimensions, but no loops.
    pairs = [(len(stage.iters), count) for stage, count in stages if stage.iters]
    assert len(pairs) > len(STAGES)
    assert all(loops == count for loops, count in pairs)


def test_a_transplant_to_another_width_computes_the_right_numbers(target):
    old, new = (winograd_task(OneLayer(8, width), (1, 8, 16, 16), 4, target) for width in (32, 16))
    shape = winograd_shape(old.tvm_task.compute_dag)
    state = block_program(old.tvm_task.compute_dag, shape, Lengths(Block(2, 4, 32), 4, 16, 2), 16)
    line = record_of(old, state)
    steps, *_ = rewrite_steps(line, old, new, 1)
    moved = state_of(with_steps(line, steps, new.workload_key))
    inputs = inputs_of(new)
    check_output(new, moved, inputs, reference(new, inputs))


@pytest.mark.parametrize("size", [(15, 13), (16, 31), (9, 40)], ids=str)
def test_a_transplant_to_another_image_keeps_the_blocks(size, target):
    """Blocks need not divide the image, nor the number of its tiles."""
    old, new = (winograd_task(OneLayer(8, 32), (1, 8, *image), 4, target) for image in ((16, 16), size))
    shape = winograd_shape(old.tvm_task.compute_dag)
    block = Lengths(Block(2, 4, 32), 4, 16, 2)
    line = record_of(old, block_program(old.tvm_task.compute_dag, shape, block, 16))
    (steps,) = rewrite_steps(line, old, new, 3)
    lengths = [[step[4] for step in program if step[0] == "SP"] for program in (steps_of(line), steps)]
    assert lengths[0] == lengths[1]
    inputs = inputs_of(new)
    check_output(new, state_of(with_steps(line, steps, new.workload_key)), inputs, reference(new, inputs))
