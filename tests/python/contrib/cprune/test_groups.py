# SPDX-License-Identifier: Apache-2.0
"""Channel groups: which layers are pruned together, and why some keep their channels."""

from functools import partial

import pytest
import torch
from networks import Branches, GroupedConsumer, OneLayer
from torch import nn

from models import make_model
from tvm.contrib.cprune.models.groups import find_groups
from tvm.contrib.cprune.models.importance import score
from tvm.contrib.cprune.models.prunable import PrunableModel
from tvm.contrib.cprune.models.surgery import macs_and_params, widths
from tvm.contrib.cprune.nni.config_list import read_config_list
from tvm.contrib.cprune.types import ChannelStep, CPruneError

SHAPE = (1, 3, 16, 16)
l1 = partial(score, importance="l1", seed=0)


class GroupedAfterConcat(nn.Module):
    """A grouped convolution that reads the channels of two layers."""

    def __init__(self):
        super().__init__()
        self.a = nn.Conv2d(4, 8, 1)
        self.b = nn.Conv2d(4, 8, 1)
        self.grouped = nn.Conv2d(16, 16, 1, groups=4)
        self.fc = nn.Linear(16, 3)

    def forward(self, x):
        return self.fc(self.grouped(torch.cat([self.a(x), self.b(x)], 1)).mean((2, 3)))


class DepthwiseFirst(nn.Module):
    """A depthwise convolution that reads the model's input."""

    def __init__(self):
        super().__init__()
        self.dw = nn.Conv2d(4, 4, 3, groups=4)
        self.fc = nn.Linear(4, 3)

    def forward(self, x):
        return self.fc(self.dw(x).mean((2, 3)))


def test_coupled_layers_share_a_group():
    groups = find_groups(Branches(), SHAPE)
    residual = groups.of_layer("stem.0")
    assert residual == groups.of_layer("left")
    assert {(m.layer, m.side) for m in residual.members} >= {
        ("stem.0", "out"),
        ("left", "out"),
        ("left", "in"),
    }
    assert groups.unprunable == {"fc": "its outputs are the model's"}


def test_a_grouped_consumer_sets_round_to():
    groups = find_groups(Branches(), SHAPE)
    assert groups.of_layer("mix").round_to == 4
    assert groups.of_layer("grouped").round_to == 4
    assert groups.of_layer("squeeze").round_to == 1


def test_concatenated_layers_are_pruned_separately():
    groups = find_groups(Branches(), SHAPE)
    right = groups.of_layer("right")
    assert right.width == 16
    assert {(m.layer, m.side, m.width, m.scale) for m in right.members} == {
        ("right", "out", 16, 1),
        ("depthwise", "out", 32, 1),
        ("mix", "in", 32, 1),
    }


def test_producers_of_a_grouped_convolution_after_a_concatenation_are_unprunable():
    """Otherwise its groups would lose different numbers of channels."""
    groups = find_groups(GroupedAfterConcat(), (1, 4, 8, 8))
    assert [g.root for g in groups.groups] == ["grouped"]
    assert groups.unprunable["a"].startswith("grouped convolves its channels in groups")


def test_a_depthwise_convolution_of_the_input_is_unprunable():
    assert "the model's inputs" in find_groups(DepthwiseFirst(), (1, 4, 8, 8)).unprunable["dw"]


NETWORKS = {
    "one layer": (lambda: OneLayer(4, 16), (1, 4, 8, 8)),
    "branches": (Branches, SHAPE),
    "grouped consumer": (GroupedConsumer, (1, 4, 8, 8)),
    "grouped after concat": (GroupedAfterConcat, (1, 4, 8, 8)),
    "lenet": (lambda: make_model("lenet", 1, 10), (1, 1, 16, 16)),
    **{
        name: (partial(make_model, name, 3, 10), (1, 3, 32, 32))
        for name in ("resnet8", "vgg16", "mobilenetv1", "mobilenetv2", "mobilenet_v3_small", "googlenet")
    },
}


@pytest.mark.parametrize("network", NETWORKS)
def test_groups_after_pruning_equal_those_of_a_new_trace(network):
    """In the second round, grouped convolutions reach one output channel per group and turn depthwise."""
    make, shape = NETWORKS[network]
    prunable = PrunableModel.trace(make(), shape)
    for _ in range(2):
        steps = [
            ChannelStep(group, group.width // 2 // group.round_to * group.round_to, "")
            for group in prunable.groups().groups
            if group.width >= 2 * group.round_to
        ]
        assert steps
        prunable = prunable.shrink(steps, l1)
        assert prunable.all_groups == PrunableModel.trace(prunable.model, shape).all_groups


def test_include_and_exclude_select_groups():
    prunable = PrunableModel.trace(Branches(), SHAPE)
    groups = prunable.groups(include=["squeeze"])
    assert [g.root for g in groups.groups] == ["squeeze"]
    assert groups.unprunable["stem.0"] == "it is not among the included layers"
    groups = prunable.groups(exclude=["left"])
    assert groups.of_layer("stem.0") is None
    assert groups.unprunable["stem.0"] == "its group contains the excluded layer left"
    with pytest.raises(CPruneError, match=r"no such layer: nothing; expected some of stem\.0, left"):
        find_groups(Branches(), SHAPE, exclude=["nothing"])


LAYERS = ("stem.0", "left", "right", "depthwise", "mix", "grouped", "squeeze", "excite")


@pytest.mark.parametrize("layer", LAYERS)
@pytest.mark.parametrize("by", ["config_list", "exclude"])
def test_an_excluded_layer_keeps_its_channels(layer, by):
    model = Branches()
    if by == "exclude":
        settings = {"include": [name for name in LAYERS if name != layer], "exclude": [layer]}
    else:
        config_list = [{"sparsity": 0.5}, {"op_names": [layer], "exclude": True}]
        settings = read_config_list(model, config_list)
    prunable = PrunableModel.trace(model, SHAPE)
    groups = prunable.groups(settings["include"], settings.get("exclude", ()))
    assert groups.of_layer(layer) is None
    assert layer in groups.unprunable
    small = prunable.shrink([ChannelStep(g, g.width // 2, "") for g in groups.groups], l1).model
    assert widths(small)[layer] == widths(model)[layer]


@pytest.mark.parametrize("layer", LAYERS)
def test_a_layer_is_either_pruned_or_has_a_reason(layer):
    """A depthwise convolution after a concatenation shrinks with the side that is not excluded."""
    prunable = PrunableModel.trace(Branches(), SHAPE)
    for groups in (prunable.groups(exclude=[layer]), prunable.groups(include=[layer])):
        pruned = {m.layer for group in groups.groups for m in group.members if m.side == "out"}
        assert not pruned & set(groups.unprunable)
        assert pruned | set(groups.unprunable) == set(groups.layers)


def test_an_included_depthwise_layer_prunes_both_sides_of_its_concatenation():
    groups = PrunableModel.trace(Branches(), SHAPE).groups(include=["depthwise"])
    assert [group.root for group in groups.groups] == ["stem.0", "right"]


def test_a_model_without_parameters_is_refused():
    with pytest.raises(CPruneError, match="Flatten has no parameters"):
        find_groups(nn.Flatten(), (1, 4, 8, 8))


def test_a_frozen_layer_is_traced_and_stays_frozen():
    model = Branches()
    model.stem.requires_grad_(False)
    prunable = PrunableModel.trace(model, SHAPE)
    group = prunable.groups().of_layer("left")
    assert group.root == "stem.0"
    assert not model.stem[0].weight.requires_grad
    small = prunable.shrink([ChannelStep(group, 8, "")], l1).model
    assert not small.stem[0].weight.requires_grad
    assert small.left.weight.requires_grad


class Reordered(nn.Module):
    """Applies a function to the channels between two convolutions."""

    def __init__(self, function, inputs):
        super().__init__()
        self.a = nn.Conv2d(4, 16, 1)
        self.b = nn.Conv2d(inputs, 4, 1)
        self.function = function

    def forward(self, x):
        return self.b(self.function(self.a(x))).mean((2, 3))


REORDERINGS = {
    "split": (lambda x: sum(reversed(x.split([8, 8], 1))), 8),
    "chunk": (lambda x: x.chunk(2, -3)[1] * 2 + x.chunk(2, 1)[0], 8),
    "slice": (lambda x: x[:, :8], 8),
    "index": (lambda x: x[:, torch.arange(15, -1, -1)], 16),
    "flip": (lambda x: x.flip(1), 16),
    "pad": (lambda x: nn.functional.pad(x, (0, 0, 0, 0, 2, 2)), 20),
    "pixel shuffle": (lambda x: nn.functional.pixel_shuffle(x, 2), 4),
    "channel shuffle": (lambda x: nn.functional.channel_shuffle(x, 4), 16),
    "shuffle by views": (lambda x: x.view(1, 4, 4, 8, 8).transpose(1, 2).reshape(1, 16, 8, 8), 16),
}


@pytest.mark.parametrize("name", REORDERINGS)
def test_reordered_channels_are_kept(name):
    function, inputs = REORDERINGS[name]
    groups = find_groups(Reordered(function, inputs), (1, 4, 8, 8))
    assert groups.of_layer("a") is None
    assert groups.unprunable["a"].startswith("its channels are ")


def test_slices_of_height_and_width_do_not_matter():
    groups = find_groups(Reordered(lambda x: x[:, :, 1:, ::2], 16), (1, 4, 8, 8))
    assert groups.of_layer("a").width == 16


class Upsampling(nn.Module):
    """Transposed convolutions, one of them with groups."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(4, 16, 1)
        self.up = nn.ConvTranspose2d(16, 12, 2, stride=2)
        self.depthwise = nn.ConvTranspose2d(12, 12, 2, stride=2, groups=12)
        self.mix = nn.Conv2d(12, 8, 1)
        self.grouped = nn.ConvTranspose2d(8, 8, 1, groups=2)
        self.fc = nn.Linear(8, 3)

    def forward(self, x):
        x = self.depthwise(torch.relu(self.up(torch.relu(self.conv(x)))))
        return self.fc(self.grouped(self.mix(x)).mean((2, 3)))


def test_layers_before_transposed_convolutions_are_pruned_or_have_a_reason():
    torch.manual_seed(0)
    model = Upsampling().eval()
    prunable = PrunableModel.trace(model, (1, 4, 8, 8))
    groups = prunable.groups()
    assert [g.root for g in groups.groups] == ["conv", "up"]
    reason = "its channels reach grouped, which is a transposed convolution with groups"
    assert groups.unprunable["mix"] == groups.unprunable["grouped"] == reason
    small = prunable.drop_channels({"conv": [1, 5], "up": [0, 7]}).model
    with torch.no_grad():
        model.up.weight[[1, 5]] = 0
        model.mix.weight[:, [0, 7]] = 0
    x = torch.randn(2, 4, 8, 8)
    torch.testing.assert_close(small(x), model(x), rtol=1e-5, atol=1e-5)
    macs, _ = macs_and_params(model, (1, 4, 8, 8))
    assert macs == 64 * (4 * 16 + 16 * 12 * 4 + 12 * 4 * 4) + 1024 * (12 * 8 + 8 * 4) + 8 * 3


def test_a_linear_layer_over_the_last_of_many_dimensions_is_pruned():
    class ChannelsLast(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv = nn.Conv2d(4, 16, 1)
            self.norm = nn.LayerNorm(16)
            self.a, self.b, self.fc = nn.Linear(16, 32), nn.Linear(32, 16), nn.Linear(16, 3)

        def forward(self, x):
            x = self.conv(x).permute(0, 2, 3, 1)
            return self.fc((x + self.b(torch.relu(self.a(self.norm(x))))).mean((1, 2)))

    prunable = PrunableModel.trace(ChannelsLast(), (1, 4, 8, 8))
    groups = prunable.groups()
    assert groups.unprunable == {"fc": "its outputs are the model's"}
    small = prunable.shrink([ChannelStep(group, 8, "") for group in groups.groups], l1).model
    assert widths(small) == {"conv": 8, "a": 8, "b": 8, "fc": 3}


def test_an_untraceable_model_is_reported():
    with pytest.raises(CPruneError, match=r"cannot trace OneLayer with inputs of shape \(1, 3, 8, 8\)"):
        find_groups(OneLayer(4, 8), (1, 3, 8, 8))
