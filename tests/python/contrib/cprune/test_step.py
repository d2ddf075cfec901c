# SPDX-License-Identifier: Apache-2.0
"""The step rules: widths that fit the programs of producers and consumers."""

from dataclasses import replace

import pytest

from tvm.contrib.cprune.config import PruneConfig
from tvm.contrib.cprune.loop.proposal import separate, stay_above
from tvm.contrib.cprune.methods.widths import fitting_widths
from tvm.contrib.cprune.step import joint_step, minimum_width, paper_step, partial_steps, plan_step
from tvm.contrib.cprune.table import Row, TaskTable
from tvm.contrib.cprune.types import (
    ChannelGroup,
    ChannelStep,
    GroupMember,
    Latency,
    Program,
    Split,
    Subgraph,
    Task,
)


def row(layer, out=(), inputs=(), seconds=1.0):
    """Return a row whose program splits channels of ``(extent, inner lengths)``."""
    task = Task(f'["{layer}"]', (Subgraph("s", "nn.conv2d", (layer,)),), 1.0)
    out_splits = tuple(Split(i, "conv", (0,), extent, lengths) for i, (extent, lengths) in enumerate(out))
    in_splits = tuple(Split(i, "conv", (1,), extent, lengths) for i, (extent, lengths) in enumerate(inputs))
    return Row(task, Program("", Latency((seconds,)), out_splits, in_splits))


def table(*rows):
    return TaskTable(rows, "llvm", 2, True)


def group(width, *members, round_to=1):
    return ChannelGroup(members[0].layer, width, round_to, members)


A = GroupMember("a", "out", 256, 1)
B = GroupMember("b", "in", 256, 1)


def test_joint_step_fits_producer_and_consumer():
    programs = table(row("a", out=[(256, (4, 8))]), row("b", inputs=[(256, (64,))]))
    assert joint_step(group(256, A, B), programs).next_width == 192
    # The width must be a multiple of both 32 and 3.
    programs = table(row("a", out=[(256, (4, 8))]), row("b", inputs=[(256, (3,))]))
    step = joint_step(group(256, A, B), programs)
    assert (step.next_width, step.reason) == (192, "fits every program")


def test_joint_step_is_none_if_no_width_fits():
    # The smallest multiple of both 3 and 5 exceeds 4, and odd lengths cannot be halved.
    members = (GroupMember("a", "out", 4, 1), GroupMember("b", "in", 4, 1))
    programs = table(row("a", out=[(4, (3,))]), row("b", inputs=[(4, (5,))]))
    assert joint_step(group(4, *members), programs) is None


def test_joint_step_ends_at_a_width_of_one():
    programs = table(row("a", out=[(2, (1,))]))
    channels = group(2, GroupMember("a", "out", 2, 1))
    assert joint_step(channels, programs).next_width == 1
    assert joint_step(channels, programs, start=1) is None
    assert fitting_widths(channels, programs, 2, PruneConfig(min_width=1, max_sparsity=0.9)) == (2, 1)


def test_joint_step_lets_one_inner_length_shrink_if_it_would_remove_more_than_half():
    programs = table(row("a", out=[(256, (16, 16))]))
    step = joint_step(group(256, A), programs)
    assert step.next_width == 240
    assert step.reason == "fits with one inner length changed"


def test_concatenating_consumer_fits_with_all_of_its_channels():
    consumer = GroupMember("b", "in", 256 + 64, 1)
    programs = table(row("a", out=[(256, (8,))]), row("b", inputs=[(320, (32,))]))
    assert joint_step(group(256, A, consumer), programs).next_width == 224


def test_consumer_behind_flatten_loses_several_features_per_channel():
    consumer = GroupMember("b", "in", 256 * 4, 4)
    programs = table(row("b", inputs=[(1024, (64,))]))
    assert joint_step(group(256, A, consumer), programs).next_width == 240


def test_step_fits_each_group_of_a_grouped_consumer():
    consumer = GroupMember("b", "in", 256, 1, groups=4)
    programs = table(row("b", inputs=[(64, (16,))]))
    assert joint_step(group(256, A, consumer, round_to=4), programs).next_width == 192


def test_further_step_starts_from_the_given_width():
    programs = table(row("a", out=[(256, (4, 8))]))
    assert joint_step(group(256, A), programs, start=224).next_width == 192


def test_paper_step_multiplies_all_tile_factors_but_the_largest():
    programs = table(row("a", out=[(256, (4, 8, 2)), (256, (16,))]))
    # 256 = 4 x 4 x 8 x 2 gives 4 x 4 x 2 = 32; 256 = 16 x 16 gives 16. The largest product counts.
    step = paper_step(group(256, A), programs, ["a"])
    assert step.next_width == 256 - 32


@pytest.mark.parametrize(("width", "round_to", "expected"), [(256, 1, 52), (256, 8, 56), (20, 1, 8)])
def test_minimum_width_is_rounded_up_and_at_least_min_width(width, round_to, expected):
    config = PruneConfig(max_sparsity=0.8, min_width=8)
    assert minimum_width(group(width, A, round_to=round_to), width, config) == expected


def test_group_keeps_the_width_of_its_least_sparse_layer():
    config = PruneConfig(max_sparsity=0.8, layer_sparsity=(("c", 0.25),))
    coupled = GroupMember("c", "out", 256, 1)
    assert minimum_width(group(256, A, coupled), 256, config) == 192
    assert minimum_width(group(256, A), 256, config) == 52


def test_no_step_goes_below_the_minimum_width():
    programs = table(row("a", out=[(64, (32,))]))
    members = GroupMember("a", "out", 64, 1)
    assert plan_step(group(64, members), programs, ["a"], 256, PruneConfig(max_sparsity=0.8)) is None
    assert plan_step(group(64, members), programs, ["a"], 64, PruneConfig(max_sparsity=0.8)).next_width == 32


@pytest.mark.parametrize(
    ("stride", "min_width", "expected"),
    [
        (1, 8, (112, 1)),
        (2, 8, (96, 2)),
        (4, 8, (64, 4)),
        (5, 8, (64, 4)),  # half of the width
        (4, 90, (96, 2)),
        (4, 128, None),
    ],
)
def test_a_longer_step_keeps_half_of_the_width_and_the_minimum(stride, min_width, expected):
    programs, config = table(row("a", out=[(128, (16,))])), PruneConfig(min_width=min_width)
    step = plan_step(group(128, A), programs, ["a"], 128, config, stride=stride)
    assert (step and (step.next_width, step.stride)) == expected


def choices(*rows, width=32, floor=8, start=None):
    """Return the widths and reasons for a group of the layers of all rows, produced by the first."""
    layers = [item.task.layers[0] for item in rows]
    members = [GroupMember(layer, "in" if n else "out", width, 1) for n, layer in enumerate(layers)]
    return [
        (s.next_width, s.reason) for s in partial_steps(group(width, *members), table(*rows), floor, start)
    ]


def test_partial_steps_fit_the_most_work():
    a, b = row("a", out=[(32, (7,))], seconds=6.0), row("b", inputs=[(32, (9,))], seconds=4.0)
    reason = "fits programs that do 60% of the work"
    assert choices(a, b) == [(28, reason), (21, reason)]
    # Now the other program is the costlier one.
    assert choices(a, replace_seconds(b, 9.0)) == [(27, reason), (18, reason)]
    assert choices(a, replace_seconds(b, 6.0))[0] == (28, "fits programs that do 50% of the work")
    assert choices(a, b, floor=22) == [(28, reason)]
    assert choices(a, b, start=28) == [(21, reason), (14, reason)]
    # A program that fits every width does not count.
    assert choices(a, b, row("c", inputs=[(32, (1,))], seconds=90.0)) == choices(a, b)
    assert choices(row("a", out=[(32, (1,))])) == []


def replace_seconds(item, seconds):
    return Row(item.task, replace(item.program, latency=Latency((seconds,))))


def test_partial_steps_prefer_programs_that_fit_exactly():
    # With one inner length changed, 24, 20 and 16 fit the program of a; only 16 fits it exactly.
    a, b = row("a", out=[(32, (4, 4))], seconds=6.0), row("b", inputs=[(32, (31,))], seconds=4.0)
    assert [width for width, _ in choices(a, b)] == [16, 28, 24]


def test_work_counts_only_the_subgraphs_with_channels_of_the_group():
    a, b = row("a", out=[(32, (7,))], seconds=6.0), row("b", inputs=[(32, (9,))], seconds=4.0)
    subgraphs = tuple(Subgraph(layer, "nn.conv2d", (layer,)) for layer in ("b", "d", "e"))
    repeated = Row(replace(b.task, subgraphs=subgraphs), b.program)
    # d and e run the same program on other channels.
    assert choices(a, repeated) == choices(a, b)
    members = [
        GroupMember("a", "out", 32, 1),
        *(GroupMember(layer, "in", 32, 1) for layer in ("b", "d", "e")),
    ]
    steps = partial_steps(group(32, *members), table(a, repeated), 8)
    assert [step.next_width for step in steps] == [27, 18]


def test_a_longer_step_counts_from_the_width_that_was_too_slow():
    programs = table(row("a", out=[(128, (16,))]))
    step = plan_step(group(128, A), programs, ["a"], 128, PruneConfig(), start=96, stride=4)
    assert (step.next_width, step.stride) == (64, 2)


def test_the_papers_rule_has_no_longer_steps():
    programs, config = table(row("a", out=[(128, (2, 8))])), PruneConfig(step_rule="paper")
    steps = [plan_step(group(128, A), programs, ["a"], 128, config, stride=stride) for stride in (1, 4)]
    assert steps[0] == steps[1] == paper_step(group(128, A), programs, ["a"])


def test_separated_groups_are_pruned_one_by_one():
    a, b, c = (ChannelStep(group(64, GroupMember(name, "out", 64, 1)), 32, "") for name in "abc")
    assert separate((a, b, c), set(), set()) == (a, b, c)
    assert separate((a, b, c), {"b"}, set()) == (a, c)
    assert separate((a, b), {"a", "b"}, set()) == (a,)
    # Those that failed alone come last.
    assert separate((a, b), {"a", "b"}, {"a"}) == (b,)
    assert separate((a, b), {"a", "b"}, {"a", "b"}) == (a,)


@pytest.mark.parametrize(
    ("next_width", "limit", "start", "expected"),
    [
        (96, 64, None, 96),  # above the limit
        (64, 64, None, 96),
        (32, 64, None, 96),
        (64, 64, 96, 80),  # 96 was too slow
        (64, 64, 80, None),
        (112, 112, None, None),  # no width of whole vectors between
        (100, 110, None, None),
    ],
)
def test_steps_stay_above_a_width_that_cost_too_much_accuracy(next_width, limit, start, expected):
    channels = group(128, A)
    step = stay_above(ChannelStep(channels, next_width, ""), channels, limit, start, 16)
    assert (step and step.next_width) == expected


def test_halfway_widths_on_a_gpu_are_multiples_of_eight():
    channels = group(100, A)
    step = ChannelStep(channels, 50, "")
    assert stay_above(step, channels, 50, None, 1).next_width == 80
    assert stay_above(step, channels, 92, None, 1).next_width == 96
    assert stay_above(step, channels, 96, None, 1) is None


def test_a_halfway_width_needs_no_width_that_fits():
    assert stay_above(None, group(128, A), 64, None, 16).next_width == 96


def test_a_halfway_width_has_whole_blocks_of_a_group():
    channels = group(120, A, round_to=12)
    assert stay_above(ChannelStep(channels, 60, ""), channels, 60, None, 8).next_width == 96
