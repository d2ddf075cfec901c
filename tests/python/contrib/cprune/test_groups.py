# SPDX-License-Identifier: Apache-2.0
"""Channel groups, importance, pruned copies and checkpoints."""

import copy
from functools import partial

import pytest
import torch
from conftest import Branches, OneLayer, randomize_norms
from torch import nn

from models import make_model
from tvm.contrib.cprune.config import IMPORTANCES
from tvm.contrib.cprune.models.checkpoint import load_checkpoint, save_checkpoint, with_weights
from tvm.contrib.cprune.models.groups import find_groups
from tvm.contrib.cprune.models.importance import accumulate_gradients, score
from tvm.contrib.cprune.models.prunable import PrunableModel
from tvm.contrib.cprune.models.surgery import channels_to_drop, copy_model, macs_and_params, shrink, widths
from tvm.contrib.cprune.types import ChannelStep, CPruneError

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
