# SPDX-License-Identifier: Apache-2.0
"""The widths that the methods uniform and global choose, and what all methods share."""

import math

import pytest
import torch
from networks import Branches, GroupedConsumer, randomize_norms
from programs import table_of
from pruning import SHAPE, make_model
from torch import nn

from tvm.contrib.cprune.config import PruneConfig
from tvm.contrib.cprune.method_settings import METHODS, used_settings
from tvm.contrib.cprune.methods.global_ranking import GlobalRanking, normalized, ranking
from tvm.contrib.cprune.methods.one_shot import Problem
from tvm.contrib.cprune.methods.registry import method_of
from tvm.contrib.cprune.methods.uniform import Uniform
from tvm.contrib.cprune.methods.widths import fitting_widths, widths_to_measure
from tvm.contrib.cprune.models.importance import score
from tvm.contrib.cprune.models.macs import MacCounter
from tvm.contrib.cprune.models.prunable import PrunableModel
from tvm.contrib.cprune.models.surgery import channels_to_drop, macs_and_params
from tvm.contrib.cprune.types import ChannelGroup, ChannelStep, CPruneError, GroupMember


class Flattened(nn.Module):
    """A depthwise convolution, a transposed one, and a linear layer on the feature map."""

    def __init__(self) -> None:
        super().__init__()
        self.a = nn.Conv2d(3, 16, 3, padding=1)
        self.b = nn.Conv2d(16, 16, 3, padding=1, groups=16)
        self.c = nn.ConvTranspose2d(16, 24, 2, stride=2)
        self.fc = nn.Linear(24 * 64, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.fc(torch.relu(self.c(self.b(self.a(x)))).flatten(1))


NETWORKS = {
    "chain": (make_model(), SHAPE),
    "branches": (randomize_norms(Branches(32)), (1, 3, 8, 8)),
    "grouped": (GroupedConsumer(), (1, 4, 8, 8)),
    "flattened": (Flattened(), (1, 3, 4, 4)),
}
EVERY_NETWORK = pytest.mark.parametrize("name", NETWORKS)


def problem_of(name: str, settings: PruneConfig, table=None) -> tuple[PrunableModel, Problem]:
    """Return a network and the choice of widths to make for it."""
    prunable = PrunableModel.trace(*NETWORKS[name])
    groups = prunable.all_groups
    scores = prunable.scores(groups.groups, lambda group: score(group, settings.importance, 0))
    counter = MacCounter.of(prunable.model, prunable.input_shape, groups)
    return prunable, Problem(groups.groups, scores, counter, table, settings)


def macs_after(prunable: PrunableModel, widths: dict[str, int]) -> int:
    """Return the multiply-accumulates of the model that surgery leaves."""
    steps = [ChannelStep(g, widths.get(g.root, g.width), "") for g in prunable.all_groups.groups]
    drops = {s.group.root: channels_to_drop(torch.zeros(s.width), s) for s in steps}
    small = prunable.drop_channels({root: drop for root, drop in drops.items() if drop})
    return macs_and_params(small.model, prunable.input_shape)[0]


@EVERY_NETWORK
def test_counted_macs_are_those_of_the_pruned_model(name):
    prunable, problem = problem_of(name, PruneConfig())
    assert problem.counter.count({}) == macs_and_params(prunable.model, prunable.input_shape)[0]
    groups = prunable.all_groups.groups
    assert len(groups) >= 2
    for group in groups:
        widths = {group.root: group.width - group.round_to}
        assert problem.counter.count(widths) == macs_after(prunable, widths) < problem.counter.count({})
    widths = {g.root: g.width // 2 // g.round_to * g.round_to for g in groups}
    assert problem.counter.count(widths) == macs_after(prunable, widths)


@EVERY_NETWORK
@pytest.mark.parametrize("goal", [0.7, 0.5])
def test_uniform_takes_one_factor_and_is_one_channel_step_from_the_goal(name, goal):
    prunable, problem = problem_of(name, PruneConfig(method="uniform", macs_goal=goal, min_width=1))
    widths = Uniform().widths(problem)
    total = macs_and_params(prunable.model, prunable.input_shape)[0]
    assert macs_after(prunable, widths) <= goal * total
    # The factors at which each width is the nearest one; all of them share a factor.
    steps = {group.root: group.round_to / group.width for group in problem.groups}
    ratios = {group.root: widths[group.root] / group.width for group in problem.groups}
    lowest = max(ratios[root] - steps[root] / 2 for root in ratios)
    highest = min(ratios[root] + steps[root] / 2 for root in ratios)
    assert lowest < highest
    # The next wider model, in which the widths that change first have one more step, misses the goal.
    wider = {
        g.root: widths[g.root] + g.round_to * math.isclose(ratios[g.root] + steps[g.root] / 2, highest)
        for g in problem.groups
    }
    assert macs_after(prunable, wider) > goal * total


def test_uniform_rounds_to_the_nearest_widths_that_fit_the_programs():
    table = table_of({"a": (16, 1), "b": (1, 8), "c": (4, 1), "fc": (1, 1)})
    settings = PruneConfig(method="uniform", macs_goal=0.4, round_widths=True)
    prunable, problem = problem_of("chain", settings, table)
    widths = Uniform().widths(problem)
    # By hand: "a" must be a multiple of lcm(16, 8), "c" of 4; "b" is free.
    assert widths["a"] % 16 == 0 and widths["c"] % 4 == 0
    assert macs_after(prunable, widths) <= 0.4 * problem.counter.count({})
    free = Uniform().widths(problem_of("chain", PruneConfig(method="uniform", macs_goal=0.4))[1])
    assert widths != free
    for root, multiple in {"a": 16, "b": 1, "c": 4}.items():
        assert abs(widths[root] - free[root]) < 2 * multiple + 4


def test_a_group_whose_programs_fit_no_allowed_width_is_pruned_to_multiples_of_eight():
    # The programs fit multiples of 64; with one inner length changed, they would fit 48.
    table = table_of({"a": (64, 1), "b": (1, 64), "c": (1, 1), "fc": (1, 1)})
    _, problem = problem_of("chain", PruneConfig(max_sparsity=0.2), table)
    group = next(group for group in problem.groups if group.root == "a")
    assert fitting_widths(group, table, 64, problem.config) == (64, 56)
    assert fitting_widths(group, table, 64, PruneConfig(max_sparsity=0.3)) == (64, 48)
    producer = GroupMember("a", "out", 54, 1)
    by_three = ChannelGroup("a", 54, 3, (producer,))
    table = table_of({"a": (27, 1)})
    assert fitting_widths(by_three, table, 54, PruneConfig(min_width=20)) == (54, 27)
    assert fitting_widths(by_three, table, 54, PruneConfig(min_width=30)) == (54, 45, 36)
    assert fitting_widths(by_three, table, 54, PruneConfig(min_width=54)) == (54,)


def group_of(width: int) -> ChannelGroup:
    return ChannelGroup("a", width, 1, (GroupMember("a", "out", width, 1),))


def test_widths_to_measure_are_spread_by_ratio_and_fit_where_they_can():
    table, config = table_of({"a": (64, 1)}), PruneConfig(max_sparsity=0.9)
    # The programs fit multiples of 64. Equal ratios: 512, 373, 272, 198, 145, 106, 77, 56.
    assert widths_to_measure(group_of(512), table, config) == (512, 384, 256, 192, 128, 104, 80, 56)
    assert widths_to_measure(group_of(64), table, config) == (64, 56, 48, 40, 32, 24, 16, 8)
    assert widths_to_measure(group_of(60), table, PruneConfig(min_width=50)) == (60, 56)
    assert widths_to_measure(group_of(64), table, PruneConfig(min_width=64)) == (64,)


def test_the_global_ranking_is_the_one_computed_by_hand():
    one, two = (GroupMember(name, "out", width, 1) for name, width in (("one", 4), ("two", 6)))
    groups = (ChannelGroup("one", 4, 1, (one,)), ChannelGroup("two", 6, 2, (two,)))
    # Mean 4: 0.25, 0.5, 1.0, 2.25. Positions of the second group: (3, 6, 9) / 6 = 0.5, 1.0, 1.5.
    scores = {"one": torch.tensor([4.0, 1, 9, 2]), "two": torch.tensor([8.0, 2, 10, 4, 4, 8])}
    assert normalized(scores["two"], groups[1]).tolist() == [1.0, 0.5, 1.5]
    assert ranking(groups, scores, {"one": 1, "two": 2}) == ["one", "one", "two", "one", "two"]
    assert ranking(groups, scores, {"one": 3, "two": 4}) == ["one", "two"]
    zeros = torch.zeros(4)
    assert normalized(zeros, groups[0]).tolist() == [0.0] * 4


@EVERY_NETWORK
def test_global_removes_the_fewest_channels_in_the_order_of_the_ranking(name):
    settings = PruneConfig(method="global", macs_goal=0.6, min_width=1)
    prunable, problem = problem_of(name, settings)
    widths = GlobalRanking().widths(problem)
    total = macs_and_params(prunable.model, prunable.input_shape)[0]
    assert macs_after(prunable, widths) <= 0.6 * total
    removed, kept = [], []
    for group in problem.groups:
        positions = sorted(normalized(problem.scores[group.root], group).tolist())
        count = (group.width - widths[group.root]) // group.round_to
        removed += [(value, group) for value in positions[:count]]
        if widths[group.root] > math.ceil(group.width * 0.2):  # the limit on sparsity
            kept += positions[count:]
    last, group = max(removed, key=lambda item: item[0])
    assert last <= min(kept)
    more = {**widths, group.root: widths[group.root] + group.round_to}
    assert macs_after(prunable, more) > 0.6 * total


def test_limits_on_the_widths_hold_and_an_unreachable_goal_is_an_error():
    limits = {"min_width": 24, "layer_sparsity": (("b", 0.1),)}
    for method, decide in (("uniform", Uniform()), ("global", GlobalRanking())):
        settings = PruneConfig(method=method, macs_goal=0.6, **limits)
        prunable, problem = problem_of("chain", settings)
        widths = decide.widths(problem)
        assert widths["a"] >= 24 and widths["b"] >= 58 and widths["c"] >= 24
        decide.check(prunable, settings)
        hopeless = PruneConfig(method=method, macs_goal=0.2, **limits)
        with pytest.raises(CPruneError, match=r"keep 0\.2 of the multiply-accumulates, but 0\.\d+ remain"):
            decide.check(prunable, hopeless)
        with pytest.raises(CPruneError, match="the goal is to keep"):
            decide.widths(problem_of("chain", hopeless)[1])


def test_every_method_exists():
    assert len({type(method_of(name)) for name in METHODS}) == len(METHODS)


def test_a_group_without_a_score_keeps_its_width():
    prunable = PrunableModel.trace(*NETWORKS["branches"])
    scores = prunable.scores(prunable.all_groups.groups, lambda group: score(group, "bn-scale", 0))
    assert 0 < len(scores) < len(prunable.all_groups.groups)

    def out_of_memory(group):
        raise RuntimeError("out of memory")

    with pytest.raises(RuntimeError, match="out of memory"):
        prunable.scores(prunable.all_groups.groups, out_of_memory)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (
            {"method": "magic"},
            "method is 'magic', expected one of cprune, progressive, knapsack, netadapt, uniform, global",
        ),
        ({"method": "uniform"}, "macs_goal is 0, expected more than 0: the method uniform needs a goal"),
        ({"macs_goal": 0.5}, "macs_goal is 0.5, expected 0: the method cprune does not use it"),
        ({"macs_goal": 1.0}, "macs_goal is 1.0, expected at least 0 and less than 1"),
        (
            {"method": "global", "macs_goal": 0.5, "alpha": 0.9},
            "alpha is 0.9, expected 0.995: the method global does not use it",
        ),
        (
            {"method": "global", "macs_goal": 0.5, "round_widths": True},
            "round_widths is True, expected False: the method global does not use it",
        ),
        (
            {"method": "progressive", "alpha": 0.9},
            "alpha is 0.9, expected 0.995: the method progressive does not use it",
        ),
        (
            {"method": "netadapt", "step_rule": "paper"},
            "step_rule is 'paper', expected joint: the method netadapt does not use it",
        ),
        (
            {"method": "knapsack"},
            "latency_goal is 0, expected more than 0: the method knapsack needs this budget or a speedup",
        ),
        (
            {"method": "knapsack", "latency_goal": 3, "speedup_goal": 2},
            "latency_goal is 3, expected 0, as there is a speedup of 2: the method knapsack needs one budget",
        ),
    ],
)
def test_settings_that_a_method_does_not_use_or_misses_are_errors(settings, message):
    with pytest.raises(CPruneError) as error:
        PruneConfig(**settings)
    assert str(error.value) == message


def test_the_result_names_the_settings_that_the_method_uses():
    used = used_settings(PruneConfig(method="uniform", macs_goal=0.5))
    assert used["name"] == "uniform" and used["macs_goal"] == 0.5 and used["importance"] == "l1"
    assert not used.keys() & {"alpha", "beta", "step_rule", "latency_goal", "accuracy_requirement", "tune"}
    assert used_settings(PruneConfig())["step_rule"] == "joint"
