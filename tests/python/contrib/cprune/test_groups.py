# SPDX-License-Identifier: Apache-2.0
"""Channel groups, scores and smaller copies."""

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
from tvm.contrib.cprune.models.surgery import channels_to_drop, macs_and_params, shrink, widths
from tvm.contrib.cprune.types import ChannelStep, CPruneError

SHAPE = (1, 3, 16, 16)
l1 = partial(score, importance="l1", seed=0)


def step(groups, layer, width):
    group = groups.of_layer(layer)
    return ChannelStep(group, width, "")


def test_coupled_layers_are_one_group():
    groups = find_groups(Branches(), SHAPE)
    residual = groups.of_layer("stem.0")
    assert residual == groups.of_layer("left")
    assert {(m.layer, m.side) for m in residual.members} >= {
        ("stem.0", "out"),
        ("left", "out"),
        ("left", "in"),
    }
    assert groups.unprunable == {"fc": "its outputs are the model's"}


def test_a_grouped_consumer_sets_the_unit():
    groups = find_groups(Branches(), SHAPE)
    assert groups.of_layer("mix").round_to == 4
    assert groups.of_layer("grouped").round_to == 4
    assert groups.of_layer("squeeze").round_to == 1


def test_a_concatenation_is_pruned_a_branch_at_a_time():
    groups = find_groups(Branches(), SHAPE)
    right = groups.of_layer("right")
    assert right.width == 16
    assert {(m.layer, m.side, m.width, m.scale) for m in right.members} == {
        ("right", "out", 16, 1),
        ("depthwise", "out", 32, 1),
        ("mix", "in", 32, 1),
    }


def test_a_grouped_convolution_behind_a_concatenation_is_refused():
    """Its groups would lose different numbers of channels."""

    class Behind(nn.Module):
        def __init__(self):
            super().__init__()
            self.a = nn.Conv2d(4, 8, 1)
            self.b = nn.Conv2d(4, 8, 1)
            self.grouped = nn.Conv2d(16, 8, 1, groups=4)
            self.fc = nn.Linear(8, 3)

        def forward(self, x):
            return self.fc(self.grouped(torch.cat([self.a(x), self.b(x)], 1)).mean((2, 3)))

    groups = find_groups(Behind(), (1, 4, 8, 8))
    assert [g.root for g in groups.groups] == ["grouped"]
    assert "grouped reads them in groups" in groups.unprunable["a"]


def test_a_depthwise_convolution_of_the_input_is_refused():
    class First(nn.Module):
        def __init__(self):
            super().__init__()
            self.dw = nn.Conv2d(4, 4, 3, groups=4)
            self.fc = nn.Linear(4, 3)

        def forward(self, x):
            return self.fc(self.dw(x).mean((2, 3)))

    assert "the model's inputs" in find_groups(First(), (1, 4, 8, 8)).unprunable["dw"]


@pytest.mark.parametrize("layer", ["stem.0", "right", "mix", "grouped", "squeeze"])
def test_a_smaller_copy_computes_what_the_masked_model_does(layer):
    """With the dropped channels' weights at zero and no norms to shift them, both models are the same
    function."""
    torch.manual_seed(0)
    model = Branches().eval()
    groups = find_groups(model, SHAPE)
    target = step(groups, layer, groups.of_layer(layer).width - groups.of_layer(layer).round_to)
    small = shrink(model, SHAPE, [target], l1)
    before = widths(model)
    changed = {name for name, width in widths(small).items() if width != before[name]}
    assert changed == {m.layer for m in target.group.members if m.side == "out"}
    x = torch.randn(2, 3, 16, 16)
    assert small(x).shape == model(x).shape
    assert widths(model) == before


def test_masked_equals_shrunk():
    torch.manual_seed(0)
    model = OneLayer(4, 16).eval()
    groups = find_groups(model, (1, 4, 8, 8))
    target = step(groups, "conv", 12)
    scores = model.conv.weight.data.abs().sum((1, 2, 3))
    drop = channels_to_drop(scores, target)
    assert drop == sorted(torch.argsort(scores)[:4].tolist())
    small = shrink(model, (1, 4, 8, 8), [target], lambda _: scores)
    masked = copy.deepcopy(model)
    masked.conv.weight.data[drop] = 0
    masked.conv.bias.data[drop] = 0
    x = torch.randn(3, 4, 8, 8)
    torch.testing.assert_close(small(x), masked(x), rtol=1e-5, atol=1e-5)


def test_a_grouped_convolution_loses_the_same_positions_in_each_group():
    """And so stays the same function as the masked one."""

    class Grouped(nn.Module):
        def __init__(self):
            super().__init__()
            self.a = nn.Conv2d(4, 16, 1)
            self.b = nn.Conv2d(16, 8, 3, padding=1, groups=4)
            self.fc = nn.Linear(8, 3)

        def forward(self, x):
            return self.fc(self.b(torch.relu(self.a(x))).mean((2, 3)))

    torch.manual_seed(0)
    model = Grouped().eval()
    groups = find_groups(model, (1, 4, 8, 8))
    target = step(groups, "a", 8)
    scores = torch.rand(16)
    drop = channels_to_drop(scores, target)
    assert len({channel % 4 for channel in drop}) == 2
    small = shrink(model, (1, 4, 8, 8), [target], lambda _: scores)
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
    seen = []

    def scorer(group):
        seen.append(score(group, importance, 3))
        return seen[-1]

    groups = find_groups(model, SHAPE)
    small = shrink(model, SHAPE, [step(groups, "stem.0", 8)], scorer)
    assert seen[0].shape == (16,)
    assert torch.isfinite(seen[0]).all()
    assert len(set(seen[0].tolist())) > 1
    assert widths(small)["stem.0"] == 8


def test_bn_scale_looks_at_the_norms():
    model = randomize_norms(Branches())
    model.stem[1].weight.data = torch.arange(1.0, 17.0)
    groups = find_groups(model, SHAPE)
    seen = []
    shrink(
        model, SHAPE, [step(groups, "stem.0", 8)], lambda g: seen.append(score(g, "bn-scale", 0)) or seen[-1]
    )
    assert torch.equal(torch.argsort(seen[0]), torch.arange(16))


def test_include_and_exclude():
    groups = find_groups(Branches(), SHAPE, include=["squeeze"])
    assert [g.root for g in groups.groups] == ["squeeze"]
    assert "not among the included" in groups.unprunable["stem.0"]
    groups = find_groups(Branches(), SHAPE, exclude=["left"])
    assert groups.of_layer("stem.0") is None
    with pytest.raises(CPruneError, match=r"nothing: no such layer; the model has stem\.0"):
        find_groups(Branches(), SHAPE, exclude=["nothing"])


@pytest.mark.parametrize("name", ["resnet8", "lenet", "mobilenetv1", "mobilenetv2"])
def test_checkpoints_restore_pruned_models(name, tmp_path):
    torch.manual_seed(0)
    channels = 1 if name == "lenet" else 3
    shape = (1, channels, 16, 16)
    model = randomize_norms(make_model(name, channels, 10))
    groups = find_groups(model, shape)
    steps = [ChannelStep(g, g.width // 2, "") for g in groups.groups[:3]]
    small = shrink(model, shape, steps, l1).eval()
    save_checkpoint(tmp_path, "small", small)
    loaded = load_checkpoint(tmp_path, "small", model).eval()
    assert widths(loaded) == widths(small)
    x = torch.randn(2, *shape[1:])
    torch.testing.assert_close(loaded(x), small(x))
    again = shrink(loaded, shape, [ChannelStep(find_groups(loaded, shape).groups[-1], 4, "")], l1)
    assert again(x).shape == (2, 10)


def test_damaged_and_foreign_checkpoints_are_refused(tmp_path):
    save_checkpoint(tmp_path, "x", OneLayer(4, 8))
    with pytest.raises(CPruneError, match="another architecture"):
        load_checkpoint(tmp_path, "x", Branches())
    (tmp_path / "checkpoints" / "x.pt").write_bytes(b"nonsense")
    with pytest.raises(CPruneError, match="cannot read checkpoint"):
        load_checkpoint(tmp_path, "x", OneLayer(4, 8))


def test_macs_and_params():
    model = OneLayer(4, 8, stride=2)
    macs, params = macs_and_params(model, (1, 4, 8, 8))
    assert macs == 8 * 4 * 9 * 16 + 8 * 10
    assert params == 8 * 4 * 9 + 8 + 80 + 10


def test_with_weights_keeps_the_widths_of_an_unpruned_model():
    model = Branches()
    assert widths(with_weights(model, model.state_dict())) == widths(model)
