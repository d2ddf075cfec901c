# SPDX-License-Identifier: Apache-2.0
"""Elbows, speedups, widths and templates of ``benchmarks/stack.py``."""

import sys

import pytest
import torch
from commands import ROOT

from tvm.contrib.cprune.models.groups import find_groups
from tvm.contrib.cprune.models.macs import MacCounter
from tvm.contrib.cprune.models.surgery import macs_and_params

sys.path.insert(0, str(ROOT / "benchmarks"))
sys.path.insert(0, str(ROOT / "tutorials" / "frontend"))

from models import make_model
from stack_estimate import programs
from stack_levels import MIN_WIDTH, pruned, widths_at
from stack_programs import ALGORITHMS, usable
from stack_report import Row, elbow, expected_speedup, page, table

SHAPE = (1, 1, 16, 16)
DIRECT, WINOGRAD, SPATIAL = ALGORITHMS.values()


def test_the_elbow_is_the_last_level_at_which_latency_falls_faster_than_accuracy():
    # Scaled losses of latency: 0, 0.4, 0.8, 0.9, 1. Of accuracy: 0, 0.05, 0.1, 0.6, 1.
    levels, losses = (0, 25, 50, 75, 95), ((0, 0), (0.4, 0.05), (0.8, 0.1), (0.9, 0.6), (1, 1))
    points = [(p, 10 - 8 * x, 0.9 - 0.5 * y) for p, (x, y) in zip(levels, losses, strict=True)]
    assert elbow(points) == 50
    # The units of latency and accuracy do not matter.
    assert elbow([(p, 1e3 * latency, 7 + 3 * accuracy) for p, latency, accuracy in points]) == 50


@pytest.mark.parametrize(
    "points",
    [
        [(0, 4.0, 0.9), (50, 2.0, 0.5)],
        [(0, 4.0, 0.9), (50, 3.9, 0.3), (95, 2.0, 0.2)],
        [(0, 2.0, 0.9), (50, 3.0, 0.8), (95, 2.5, 0.2)],
        [(0, 4.0, 0.9), (50, 2.0, 0.9), (95, 1.0, 0.9)],
    ],
    ids=["two levels", "below the chord", "slower than before", "nothing lost"],
)
def test_a_curve_without_an_elbow_has_none(points):
    assert elbow(points) is None


@pytest.fixture
def network():
    torch.manual_seed(0)
    return make_model("resnet8", 1, 10, 16).eval()


def test_a_level_keeps_its_share_of_the_unpruned_channels(network):
    groups = find_groups(network, SHAPE)
    half, least = (widths_at(groups.groups, percent) for percent in (50, 95))
    assert half == {group.root: group.width // 2 for group in groups.groups}
    assert set(least.values()) == {3, 6, 13}
    assert widths_at(groups.groups, 0) == {group.root: group.width for group in groups.groups}
    narrow = find_groups(make_model("mobilenetv2", 3, 10).eval(), (1, 3, 32, 32)).groups
    assert min(widths_at(narrow, 95).values()) == MIN_WIDTH


def test_each_level_removes_the_smallest_channels_of_the_one_before_it(network):
    block, order = network.stages[0][0], torch.randperm(64).float()
    with torch.no_grad():
        block.conv1.weight.copy_(order[:, None, None, None].expand_as(block.conv1.weight))
        block.conv2.weight.fill_(1.0)
        block.bn1.bias.copy_(order)  # follows the channels, and does not count as magnitude
    groups, level = find_groups(network, SHAPE).groups, network
    for percent, kept in ((50, range(32, 64)), (75, range(48, 64))):
        level = pruned(level, SHAPE, widths_at(groups, percent))
        assert sorted(level.stages[0][0].bn1.bias.tolist()) == list(kept)


def test_the_expected_speedup_is_the_ratio_of_multiply_accumulates(network):
    groups = find_groups(network, SHAPE)
    half = widths_at(groups.groups, 50)
    before, after = (macs_and_params(m, SHAPE)[0] for m in (network, pruned(network, SHAPE, half)))
    assert after == MacCounter.of(network, SHAPE, groups).count(half)
    # All layers but the first one lose half of their inputs and half of their outputs.
    assert 3.5 < expected_speedup(before, after) < 4


@pytest.mark.parametrize(
    ("templates", "algorithm", "expected"),
    [
        ({DIRECT, WINOGRAD, SPATIAL}, "winograd", {WINOGRAD}),
        ({DIRECT, WINOGRAD, SPATIAL}, "direct", {DIRECT}),
        ({DIRECT, SPATIAL}, "winograd", {DIRECT}),
        ({DIRECT, SPATIAL}, "spatial-pack", {SPATIAL}),
        ({"dense_pack.x86", "dense_nopack.x86"}, "winograd", {"dense_pack.x86", "dense_nopack.x86"}),
    ],
)
def test_a_layer_that_an_algorithm_cannot_compute_is_direct(templates, algorithm, expected):
    assert usable(templates, algorithm) == expected


def test_only_kernels_of_3x3_count_for_winograd(network):
    assert programs(network, "direct") == programs(network, "spatial-pack") == 8
    assert programs(network, "winograd") == 5


def rows_of(accuracies, actual):
    return [
        Row("net", percent, "direct", tuning, 2, a, 2 / s, 0.01, 2.0, s, 100 / (100 - percent))
        for tuning in ("tuned", "untuned")
        for percent, a, s in zip((0, 50, 95), accuracies, actual, strict=True)
    ]


def test_the_table_has_a_line_for_each_curve_and_the_page_a_mark_for_each_row():
    rows = rows_of((0.9, 0.88, 0.1), (1.0, 1.8, 2.0))
    *_, untuned, tuned = table(rows).splitlines()
    assert untuned == "| 2 | untuned | direct | 2.000 ms, 1.0 | 1.111 ms, 1.8 | 1.000 ms, 2.0 | 50 % |"
    assert tuned == untuned.replace("untuned", "tuned")
    html = page(rows)
    # Each row is a mark of the accuracy and of the share of the latency; the elbows are stars.
    assert html.count('class="mark symbol') == 12
    assert html.count('class="mark symbol star') == 2
