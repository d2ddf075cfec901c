# SPDX-License-Identifier: Apache-2.0
"""Checkpoints of pruned models with every kind of layer that Torch-Pruning changes."""

from collections.abc import Sequence
from functools import partial
from typing import Any

import pytest
import torch
import torch_pruning as tp
from torch import nn

from tvm.contrib.cprune.models.checkpoint import load_checkpoint, save_checkpoint, with_weights
from tvm.contrib.cprune.models.importance import score
from tvm.contrib.cprune.models.layers import NEVER_PRUNED, reason_to_keep
from tvm.contrib.cprune.models.prunable import PrunableModel
from tvm.contrib.cprune.types import ChannelStep

Kind = tp.ops.OPTYPE
l1 = partial(score, importance="l1", seed=0)
CONVS = [(nn.Conv1d, nn.ConvTranspose1d), (nn.Conv2d, nn.ConvTranspose2d), (nn.Conv3d, nn.ConvTranspose3d)]


class Scale(nn.Module):
    """One parameter per channel, in no layer that Torch-Pruning has."""

    def __init__(self, width):
        super().__init__()
        self.scale = nn.Parameter(torch.rand(width, 1, 1))

    def forward(self, x):
        return x * self.scale


class ChannelsLast(nn.Module):
    """Applies a layer to the last dimension."""

    def __init__(self, layer):
        super().__init__()
        self.layer = layer

    def forward(self, x):
        return self.layer(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


# For each kind, layers with 16 channels that are put between two convolutions of 1, 2 or 3 dimensions.
LAYERS: dict[Any, Sequence[tuple[int, nn.Module]]] = {
    Kind.CONV: [(d, make(16, 16, 1)) for d, pair in enumerate(CONVS, 1) for make in pair]
    + [(2, nn.Conv2d(16, 16, 1, groups=4))],
    Kind.DEPTHWISE_CONV: [
        (d, make(16, 16, 1, groups=16)) for d, pair in enumerate(CONVS, 1) for make in pair
    ],
    Kind.LINEAR: [(2, ChannelsLast(nn.Linear(16, 16)))],
    Kind.BN: [
        (1, nn.BatchNorm1d(16)),
        (2, nn.BatchNorm2d(16)),
        (3, nn.BatchNorm3d(16)),
        (2, nn.BatchNorm2d(16, affine=False)),
        (2, nn.BatchNorm2d(16, track_running_stats=False)),
    ],
    Kind.IN: [
        (1, nn.InstanceNorm1d(16, affine=True)),
        (2, nn.InstanceNorm2d(16, affine=True, track_running_stats=True)),
        (1, nn.InstanceNorm1d(16, track_running_stats=True)),
        (2, nn.InstanceNorm2d(16)),
    ],
    Kind.LN: [(2, ChannelsLast(nn.LayerNorm(16))), (2, ChannelsLast(nn.LayerNorm(16, bias=False)))],
    Kind.GN: [(2, nn.GroupNorm(4, 16)), (1, nn.GroupNorm(1, 16))],
    Kind.PRELU: [(2, nn.PReLU(16)), (2, nn.PReLU())],
    Kind.PARAMETER: [(2, Scale(16))],
}
CASES = [(kind, d, layer) for kind, layers in LAYERS.items() for d, layer in layers]


def test_every_kind_of_layer_that_is_pruned_has_a_checkpoint_test():
    assert set(LAYERS) | NEVER_PRUNED == set(tp.pruner.function.PrunerBox)


@pytest.mark.parametrize("layer", [nn.MultiheadAttention(4, 2), nn.LSTM(4, 4), nn.Embedding(4, 4)])
def test_other_kinds_are_never_pruned(layer):
    assert tp.ops.module2type(layer) in NEVER_PRUNED
    assert "is never pruned" in reason_to_keep(layer)


def network(dims, layer):
    conv = CONVS[dims - 1][0]
    return nn.Sequential(conv(4, 16, 1), layer, nn.ReLU(), conv(16, 8, 1), nn.Flatten())


@pytest.mark.parametrize(("kind", "dims", "layer"), CASES, ids=[f"{k.name} {d}d {m}" for k, d, m in CASES])
def test_a_pruned_layer_survives_save_and_load(kind, dims, layer, tmp_path):
    torch.manual_seed(0)
    model = network(dims, layer).eval()
    x = torch.randn(2, 4, *(3, 4, 2)[:dims])
    small = PrunableModel.trace(model, tuple(x.shape))
    # The second round turns grouped convolutions into depthwise ones, the third prunes these.
    for width in (8, 4, 2):
        for root in [group.root for group in small.groups().groups]:
            group = small.groups().of_layer(root)
            if group is not None and width % group.round_to == 0:
                small = small.shrink([ChannelStep(group, width, "")], l1)
    assert sum(p.numel() for p in small.model.parameters()) < sum(p.numel() for p in model.parameters())
    save_checkpoint(tmp_path, "small", small.model)
    loaded = load_checkpoint(tmp_path, "small", model).eval()
    torch.testing.assert_close(loaded(x), small.model(x))
    for module, reference in zip(loaded.modules(), small.model.modules(), strict=True):
        assert module.extra_repr() == reference.extra_repr() or getattr(module, "affine", True) is False
    assert PrunableModel.trace(loaded, tuple(x.shape)).all_groups == small.all_groups


@pytest.mark.parametrize(
    "layer", [ChannelsLast(nn.LayerNorm(16, elementwise_affine=False)), nn.GroupNorm(4, 16, affine=False)]
)
def test_a_norm_whose_width_a_checkpoint_cannot_record_is_kept(layer):
    prunable = PrunableModel.trace(network(2, layer), (1, 4, 4, 4))
    assert "a checkpoint cannot record its width" in prunable.groups().unprunable["0"]


def test_loaded_weights_stay_on_the_device_of_the_architecture():
    small = network(2, nn.BatchNorm2d(16))
    small = PrunableModel.trace(small, (1, 4, 4, 4)).drop_channels({"0": [1, 2]}).model
    architecture = network(2, nn.BatchNorm2d(16)).to("meta")
    loaded = with_weights(architecture, small.state_dict())
    assert {tensor.device.type for tensor in [*loaded.parameters(), *loaded.buffers()]} == {"meta"}
    assert loaded[0].out_channels == 14


def test_loaded_weights_stay_frozen():
    model = network(2, nn.BatchNorm2d(16))
    small = PrunableModel.trace(model, (1, 4, 4, 4)).drop_channels({"0": [1, 2]}).model
    model[0].requires_grad_(False)
    loaded = with_weights(model, small.state_dict())
    assert not loaded[0].weight.requires_grad
    assert loaded[3].weight.requires_grad


def test_buffers_outside_the_state_dict_are_kept():
    model = network(2, nn.BatchNorm2d(16))
    model.register_buffer("table", torch.ones(3), persistent=False)
    assert torch.equal(with_weights(model, model.state_dict()).table, torch.ones(3))
