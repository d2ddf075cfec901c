# SPDX-License-Identifier: Apache-2.0
"""Channel groups, importance, pruned copies and checkpoints."""

import copy
from functools import partial

import pytest
import torch
from networks import Branches, OneLayer, randomize_norms
from torch import nn

from models import make_model
from tvm.contrib.cprune.config import IMPORTANCES
from tvm.contrib.cprune.models.checkpoint import load_checkpoint, save_checkpoint, with_weights
from tvm.contrib.cprune.models.groups import find_groups
from tvm.contrib.cprune.models.importance import accumulate_gradients, check_importance, score
from tvm.contrib.cprune.models.prunable import PrunableModel
from tvm.contrib.cprune.models.surgery import channels_to_drop, copy_model, macs_and_params, shrink, widths
from tvm.contrib.cprune.nni.config_list import read_config_list
from tvm.contrib.cprune.types import CandidateError, ChannelStep, CPruneError

SHAPE = (1, 3, 16, 16)
l1 = partial(score, importance="l1", seed=0)


class GroupedConsumer(nn.Module):
    """A grouped convolution that reads the channels of a single layer."""

    def __init__(self):
        super().__init__()
        self.a = nn.Conv2d(4, 16, 1)
        self.b = nn.Conv2d(16, 16, 3, padding=1, groups=4)
        self.fc = nn.Linear(16, 3)

    def forward(self, x):
        return self.fc(self.b(torch.relu(self.a(x))).mean((2, 3)))


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


@pytest.mark.parametrize("layer", ["stem.0", "right", "mix", "grouped", "squeeze"])
def test_a_pruned_copy_computes_the_same_as_the_masked_model(layer):
    """Masked: every layer that reads the group's channels reads zeros in place of the dropped ones."""
    torch.manual_seed(0)
    model = randomize_norms(Branches())
    group = find_groups(model, SHAPE).of_layer(layer)
    scores = torch.rand(group.width)
    blocks = scores.reshape(group.round_to, -1)
    drop = blocks.shape[1] * torch.arange(group.round_to) + blocks.sum(0).argmin()
    step = ChannelStep(group, group.width - group.round_to, "")
    before = widths(model)
    small = shrink(model, SHAPE, [step], lambda _: scores)
    assert widths(model) == before
    changed = {name for name, width in widths(small).items() if width != before[name]}
    assert changed == {m.layer for m in group.members if m.side == "out"}

    masked = copy.deepcopy(model)
    for member in group.members:
        if member.side == "in":
            # In the concatenation, the channels of "right" follow 16 others.
            channels = drop + 16 if (layer, member.layer) == ("right", "mix") else drop
            masked.get_submodule(member.layer).register_forward_pre_hook(
                lambda _, inputs, channels=channels: inputs[0].index_fill(1, channels, 0)
            )
    x = torch.randn(2, 3, 16, 16)
    torch.testing.assert_close(small(x), masked(x), rtol=1e-5, atol=1e-5)
    assert not torch.allclose(masked(x), model(x), rtol=1e-5, atol=1e-5)


def test_the_channels_with_the_lowest_scores_are_dropped():
    torch.manual_seed(0)
    model = OneLayer(4, 16).eval()
    prunable = PrunableModel.trace(model, (1, 4, 8, 8))
    step = ChannelStep(prunable.groups().of_layer("conv"), 12, "")
    scores = model.conv.weight.data.abs().sum((1, 2, 3))
    drop = channels_to_drop(scores, step)
    assert drop == sorted(torch.argsort(scores)[:4].tolist())
    small = prunable.shrink([step], lambda _: scores).model
    masked = copy.deepcopy(model)
    masked.conv.weight.data[drop] = 0
    masked.conv.bias.data[drop] = 0
    x = torch.randn(3, 4, 8, 8)
    torch.testing.assert_close(small(x), masked(x), rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(prunable.drop_channels({"conv": drop}).model(x), small(x))


def test_every_group_of_a_grouped_convolution_loses_the_same_positions():
    torch.manual_seed(0)
    model = GroupedConsumer().eval()
    prunable = PrunableModel.trace(model, (1, 4, 8, 8))
    step = ChannelStep(prunable.groups().of_layer("a"), 8, "")
    scores = torch.rand(16)
    drop = channels_to_drop(scores, step)
    assert len({channel % 4 for channel in drop}) == 2
    small = prunable.shrink([step], lambda _: scores).model
    masked = copy.deepcopy(model)
    masked.a.weight.data[drop] = 0
    masked.a.bias.data[drop] = 0
    x = torch.randn(2, 4, 8, 8)
    torch.testing.assert_close(small(x), masked(x), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("importance", IMPORTANCES)
def test_every_importance_scores_every_channel(importance):
    torch.manual_seed(0)
    model = randomize_norms(Branches())
    if importance == "taylor":
        accumulate_gradients(
            model, [(torch.randn(2, 3, 16, 16), torch.tensor([1, 2]))], nn.CrossEntropyLoss()
        )
    scores = []

    def scorer(full_group):
        scores.append(score(full_group, importance, 3))
        return scores[-1]

    prunable = PrunableModel.trace(model, SHAPE)
    step = ChannelStep(prunable.groups().of_layer("stem.0"), 8, "")
    small = prunable.shrink([step], scorer).model
    assert scores[0].shape == (16,)
    assert torch.isfinite(scores[0]).all()
    assert len(set(scores[0].tolist())) > 1
    assert widths(small)["stem.0"] == 8


def test_bn_scale_ranks_channels_by_the_weights_of_the_batch_norm():
    model = randomize_norms(Branches())
    model.stem[1].weight.data = torch.arange(1.0, 17.0)
    prunable = PrunableModel.trace(model, SHAPE)
    step = ChannelStep(prunable.groups().of_layer("stem.0"), 8, "")
    scores = []

    def scorer(full_group):
        scores.append(score(full_group, "bn-scale", 0))
        return scores[-1]

    prunable.shrink([step], scorer)
    assert torch.equal(torch.argsort(scores[0]), torch.arange(16))


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


def score_group(model, layer, importance):
    prunable = PrunableModel.trace(model, (1, 4, 8, 8))
    step = ChannelStep(prunable.groups().of_layer(layer), 8, "")
    return prunable.shrink([step], lambda group: score(group, importance, 0))


def test_bn_scale_needs_a_batch_norm():
    with pytest.raises(CPruneError, match="cannot score the channels of conv: its group has no batch norm"):
        score_group(OneLayer(4, 16), "conv", "bn-scale")
    with pytest.raises(CPruneError, match="'bn-scale' needs batch norms"):
        check_importance(OneLayer(4, 16), "bn-scale")


def test_taylor_needs_gradients_of_every_layer():
    model = OneLayer(4, 16)
    data = [(torch.randn(2, 4, 8, 8), torch.tensor([1, 2]))]
    with pytest.raises(CandidateError, match="needs the gradients of conv, which has none"):
        score_group(model, "conv", "taylor")
    model.conv.requires_grad_(False)
    accumulate_gradients(model, data, nn.CrossEntropyLoss())
    with pytest.raises(CandidateError, match="needs the gradients of conv, which has none"):
        score_group(model, "conv", "taylor")
    model.requires_grad_(False)
    with pytest.raises(CPruneError, match="every parameter of the model is frozen"):
        accumulate_gradients(model, data, nn.CrossEntropyLoss())


def test_weights_of_zero_are_scored():
    model = OneLayer(4, 16)
    for parameter in model.parameters():
        nn.init.zeros_(parameter)
    prunable, scores = PrunableModel.trace(model, (1, 4, 8, 8)), []

    def scorer(group):
        scores.append(l1(group))
        return scores[-1]

    prunable.shrink([ChannelStep(prunable.groups().of_layer("conv"), 8, "")], scorer)
    assert torch.equal(scores[0], torch.zeros(16))


class Network(nn.Sequential):
    """Convolution, another layer, convolution, linear layer."""

    def __init__(self, *middle, width=12, head=None):
        super().__init__(
            nn.Conv2d(4, width, 1), *middle, nn.Conv2d(width, 8, 1), *(head or [nn.AdaptiveAvgPool2d(1)])
        )
        self.append(nn.Flatten()).append(nn.Linear(8, 3))


def test_widths_are_multiples_of_the_groups_of_a_group_norm():
    torch.manual_seed(0)
    prunable = PrunableModel.trace(Network(nn.GroupNorm(3, 12)), (1, 4, 8, 8))
    group = prunable.groups().of_layer("0")
    assert group.round_to == 3
    small = prunable.shrink([ChannelStep(group, 6, "")], l1)
    assert small.model(torch.randn(2, 4, 8, 8)).shape == (2, 3)
    assert small.groups().of_layer("0").round_to == 3


class View(nn.Module):
    """Reshapes to a fixed number of channels."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(4, 64, 1)
        self.fc = nn.Linear(64, 3)

    def forward(self, x):
        return self.fc(self.conv(x).mean((2, 3), keepdim=True).view(-1, 64))


def test_a_model_that_fails_after_pruning_is_a_rejected_candidate():
    prunable = PrunableModel.trace(View(), (1, 4, 8, 8))
    step = ChannelStep(prunable.groups().of_layer("conv"), 32, "")
    with pytest.raises(CandidateError, match="cannot prune conv: RuntimeError: shape") as raised:
        prunable.shrink([step], l1)
    assert isinstance(raised.value.__cause__, RuntimeError)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize("error", [ZeroDivisionError, AssertionError, KeyError, TypeError, IndexError])
def test_every_failure_of_surgery_is_a_rejected_candidate(error):
    prunable = PrunableModel.trace(OneLayer(4, 16), (1, 4, 8, 8))
    step = ChannelStep(prunable.groups().of_layer("conv"), 8, "")

    def scorer(_):
        raise error("first line\nsecond line")

    with pytest.raises(CandidateError, match="cannot prune conv"):
        prunable.shrink([step], scorer)


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


@pytest.mark.parametrize("name", ["resnet8", "lenet", "mobilenetv1", "mobilenetv2"])
def test_checkpoints_restore_pruned_models(name, tmp_path):
    torch.manual_seed(0)
    channels = 1 if name == "lenet" else 3
    shape = (1, channels, 16, 16)
    model = randomize_norms(make_model(name, channels, 10))
    prunable = PrunableModel.trace(model, shape)
    steps = [ChannelStep(g, g.width // 2, "") for g in prunable.groups().groups[:3]]
    small = prunable.shrink(steps, l1).model.eval()
    save_checkpoint(tmp_path, "small", small)
    loaded = load_checkpoint(tmp_path, "small", model).eval()
    assert widths(loaded) == widths(small)
    x = torch.randn(2, *shape[1:])
    torch.testing.assert_close(loaded(x), small(x))
    prunable = PrunableModel.trace(loaded, shape)
    again = prunable.shrink([ChannelStep(prunable.groups().groups[-1], 4, "")], l1).model
    assert again(x).shape == (2, 10)


def test_damaged_and_foreign_checkpoints_are_rejected(tmp_path):
    save_checkpoint(tmp_path, "x", OneLayer(4, 8))
    with pytest.raises(CPruneError, match="another architecture"):
        load_checkpoint(tmp_path, "x", Branches())
    (tmp_path / "checkpoints" / "x.pt").write_bytes(b"nonsense")
    with pytest.raises(CPruneError, match="cannot read checkpoint"):
        load_checkpoint(tmp_path, "x", OneLayer(4, 8))


def test_training_a_copy_of_a_pruned_model_leaves_the_model_unchanged():
    torch.manual_seed(0)
    data = [(torch.randn(4, 3, 16, 16), torch.tensor([1, 2, 3, 4]))]
    prunable = PrunableModel.trace(randomize_norms(Branches()), SHAPE)
    step = ChannelStep(prunable.groups().of_layer("stem.0"), 8, "")
    model = prunable.shrink([step], l1).model
    accumulate_gradients(model, data, nn.CrossEntropyLoss())
    gradients = {name: parameter.grad.clone() for name, parameter in model.named_parameters()}
    weights = copy.deepcopy(model.state_dict())

    duplicate = copy_model(model)
    assert all(parameter.grad is None for parameter in duplicate.parameters())
    assert not duplicate.training
    optimizer = torch.optim.SGD(duplicate.parameters(), 0.1)
    duplicate.train()
    for inputs, targets in data:
        nn.functional.cross_entropy(duplicate(inputs), targets).backward()
        optimizer.step()

    for name, value in model.state_dict().items():
        assert torch.equal(value, weights[name])
        assert not torch.equal(value, duplicate.state_dict()[name])
    for name, parameter in model.named_parameters():
        assert torch.equal(parameter.grad, gradients[name])


def test_macs_and_params():
    model = OneLayer(4, 8, stride=2)
    macs, params = macs_and_params(model, (1, 4, 8, 8))
    assert macs == 8 * 4 * 9 * 16 + 8 * 10
    assert params == 8 * 4 * 9 + 8 + 80 + 10


def test_with_weights_keeps_the_widths_of_an_unpruned_model():
    model = Branches()
    assert widths(with_weights(model, model.state_dict())) == widths(model)
