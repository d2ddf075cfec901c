# SPDX-License-Identifier: Apache-2.0
import pytest

from tvm.contrib.cprune.config import PruneConfig
from tvm.contrib.cprune.step import floor_width, joint_step, paper_step, plan_step
from tvm.contrib.cprune.table import Row, TaskTable
from tvm.contrib.cprune.types import ChannelGroup, GroupMember, Latency, Program, Split, Subgraph, Task


def row(layer, out=(), inner=()):
    task = Task(f'["{layer}"]', (Subgraph("s", "nn.conv2d", (layer,)),), 1.0)
    out_splits = tuple(Split(i, "conv", (0,), extent, lengths) for i, (extent, lengths) in enumerate(out))
    in_splits = tuple(Split(i, "conv", (1,), extent, lengths) for i, (extent, lengths) in enumerate(inner))
    return Row(task, Program("", Latency((1.0,)), out_splits, in_splits))


def table(*rows):
    return TaskTable(rows, "llvm", 2, True)


def group(width, *members, round_to=1):
    return ChannelGroup(members[0].layer, width, round_to, members)


A = GroupMember("a", "out", 256, 1)
B = GroupMember("b", "in", 256, 1)


def test_a_joint_step_fits_producer_and_consumer():
    programs = table(row("a", out=[(256, (4, 8))]), row("b", inner=[(256, (3,))]))
    assert (
        joint_step(group(256, A, B), programs) is None
        or joint_step(group(256, A, B), programs).next_width % 32 == 0
    )
    programs = table(row("a", out=[(256, (4, 8))]), row("b", inner=[(256, (64,))]))
    assert joint_step(group(256, A, B), programs).next_width == 192


def test_a_coarse_step_lets_one_inner_length_shrink():
    programs = table(row("a", out=[(256, (16, 16))]))
    step = joint_step(group(256, A), programs)
    assert step.next_width == 240
    assert "changed" in step.reason


def test_a_concatenating_consumer_fits_as_a_whole():
    consumer = GroupMember("b", "in", 256 + 64, 1)
    programs = table(row("a", out=[(256, (8,))]), row("b", inner=[(320, (32,))]))
    assert joint_step(group(256, A, consumer), programs).next_width == 224


def test_a_flattened_consumer_loses_several_features_a_channel():
    consumer = GroupMember("b", "in", 256 * 4, 4)
    programs = table(row("b", inner=[(1024, (64,))]))
    assert joint_step(group(256, A, consumer), programs).next_width == 240


def test_a_grouped_consumer_and_its_unit():
    consumer = GroupMember("b", "in", 256, 1, groups=4)
    programs = table(row("b", inner=[(64, (16,))]))
    assert joint_step(group(256, A, consumer, round_to=4), programs).next_width == 192


def test_a_further_step_starts_where_the_last_one_ended():
    programs = table(row("a", out=[(256, (4, 8))]))
    assert joint_step(group(256, A), programs, start=224).next_width == 192


def test_the_papers_step():
    programs = table(row("a", out=[(256, (4, 8, 2)), (256, (16,))]))
    # 256 = 4 x 4 x 8 x 2: without the 8 that is 32; 256 = 16 x 16: 16.
    step = paper_step(group(256, A), programs, ["a"])
    assert step.next_width == 256 - 32


@pytest.mark.parametrize(("width", "round_to", "expected"), [(256, 1, 52), (256, 8, 56), (20, 1, 8)])
def test_floor_width(width, round_to, expected):
    config = PruneConfig(max_sparsity=0.8, min_width=8)
    assert floor_width(group(width, A, round_to=round_to), width, config) == expected


def test_no_layer_of_a_group_loses_more_than_its_own_share():
    config = PruneConfig(max_sparsity=0.8, layer_sparsity=(("c", 0.25),))
    coupled = GroupMember("c", "out", 256, 1)
    assert floor_width(group(256, A, coupled), 256, config) == 192
    assert floor_width(group(256, A), 256, config) == 52


def test_no_step_below_the_floor():
    programs = table(row("a", out=[(64, (32,))]))
    members = GroupMember("a", "out", 64, 1)
    assert plan_step(group(64, members), programs, ["a"], 256, PruneConfig(max_sparsity=0.8)) is None
    assert plan_step(group(64, members), programs, ["a"], 64, PruneConfig(max_sparsity=0.8)).next_width == 32
