# SPDX-License-Identifier: Apache-2.0
"""Pruned copies of models, and their checkpoints."""

import copy
from functools import partial

import pytest
import torch
from networks import Branches, GroupedConsumer, OneLayer, randomize_norms
from torch import nn

from models import make_model
from tvm.contrib.cprune.models.checkpoint import load_checkpoint, save_checkpoint, with_weights
from tvm.contrib.cprune.models.groups import find_groups
from tvm.contrib.cprune.models.importance import accumulate_gradients, score
from tvm.contrib.cprune.models.prunable import PrunableModel
from tvm.contrib.cprune.models.surgery import channels_to_drop, copy_model, macs_and_params, shrink, widths
from tvm.contrib.cprune.types import CandidateError, ChannelStep, CPruneError

SHAPE = (1, 3, 16, 16)


l1 = partial(score, importance="l1", seed=0)


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
