# SPDX-License-Identifier: Apache-2.0
"""NNI masks and the smaller models made from them, compared with NNI's own ``ModelSpeedup``."""

import copy
import logging
import warnings

import pytest
import torch
from networks import Branches, randomize_norms
from programs import table_of
from torch import nn

from models import make_model
from tvm.contrib.cprune.models.surgery import widths
from tvm.contrib.cprune.nni.masks import apply_masks, load_masks, masked_channels, save_masks, speedup
from tvm.contrib.cprune.types import CPruneError

X = torch.randn(1, 3, 32, 32, generator=torch.Generator().manual_seed(0))


def channel_masks(model: nn.Module, drops: dict[str, list[int]]) -> dict[str, dict[str, torch.Tensor]]:
    """Return masks for whole output channels of some layers."""
    masks = {}
    for layer, channels in drops.items():
        module = model.get_submodule(layer)
        masks[layer] = {"weight": torch.ones_like(module.weight)}
        masks[layer]["weight"][channels] = 0
        if module.bias is not None:
            masks[layer]["bias"] = torch.ones_like(module.bias)
            masks[layer]["bias"][channels] = 0
    return masks


@pytest.fixture
def quiet():
    """Suppress NNI's warnings and log messages."""
    logging.disable(logging.WARNING)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield
    logging.disable(logging.NOTSET)


PAIRS = [
    ("resnet18", "L1NormPruner"),
    ("resnet18", "LevelPruner"),
    ("vgg16", "L2NormPruner"),
    ("mobilenetv2", "L1NormPruner"),
]


@pytest.mark.parametrize(("name", "pruner"), PAIRS)
def test_speedup_returns_the_same_model_as_nni(name, pruner, tmp_path, quiet):
    from nni.compression.pytorch import pruning
    from nni.compression.pytorch.speedup import ModelSpeedup

    torch.manual_seed(0)
    model = randomize_norms(make_model(name, 3, 10))
    config = [{"op_types": ["Conv2d"], "sparsity": 0.5}]
    nni_pruner = getattr(pruning, pruner)(copy.deepcopy(model), config)
    nni_pruner.compress()
    mask_file = tmp_path / "masks.pt"
    nni_pruner.export_model(str(tmp_path / "model.pt"), str(mask_file))

    masks = load_masks(mask_file)
    apply_masks(model, masks)
    small = speedup(model, masks, X)
    save_masks(masks, tmp_path / "saved.pt")
    nni_small = copy.deepcopy(model)
    ModelSpeedup(nni_small, X, str(tmp_path / "saved.pt")).speedup_model()
    assert widths(small) == widths(nni_small)
    torch.testing.assert_close(small(X), nni_small(X), rtol=1e-5, atol=1e-5)
    if pruner == "LevelPruner":  # masks single weights, so that no channel is masked completely
        assert widths(small) == widths(model)
    else:
        assert sum(widths(small).values()) < sum(widths(model).values())


@pytest.mark.parametrize("pruner", ["TaylorFOWeightPruner", "ActivationAPoZRankPruner"])
def test_masks_of_data_driven_nni_pruners_can_be_applied(pruner, tmp_path, quiet):
    import nni
    from nni.compression.pytorch import pruning

    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 16, 3), nn.ReLU(), nn.Conv2d(16, 8, 3), nn.ReLU(), nn.Flatten())
    data = [(torch.randn(4, 3, 8, 8), torch.randint(0, 8, (4,))) for _ in range(3)]

    def train(module, optimizer, criterion, *_, **__):
        for inputs, targets in data:
            optimizer.zero_grad()
            criterion(module(inputs), targets).backward()
            optimizer.step()

    traced = nni.trace(torch.optim.SGD)(model.parameters(), lr=0.01)
    nni_pruner = getattr(pruning, pruner)(
        model, [{"op_types": ["Conv2d"], "sparsity": 0.5}], train, traced, nn.CrossEntropyLoss(), 3
    )
    nni_pruner.compress()
    nni_pruner.export_model(str(tmp_path / "model.pt"), str(tmp_path / "masks.pt"))
    masks = load_masks(tmp_path / "masks.pt")
    assert len(masked_channels(masks, "0")) == 8
    state = torch.load(tmp_path / "model.pt", weights_only=True)
    plain = nn.Sequential(nn.Conv2d(3, 16, 3), nn.ReLU(), nn.Conv2d(16, 8, 3), nn.ReLU(), nn.Flatten())
    plain.load_state_dict(state)
    small = speedup(plain, masks, data[0][0])
    # The channels of the last layer are the model's outputs and must be kept.
    assert widths(small) == {"0": 8, "2": 8}


def test_coupled_channels_are_removed_only_if_all_producers_mask_them():
    model = Branches(16).eval()
    x = torch.zeros(1, 3, 16, 16)
    # "left" is added to the stem. Channel 3 is masked in both, channel 5 in one of them.
    small = speedup(model, channel_masks(model, {"stem.0": [3, 5], "left": [3]}), x)
    assert widths(small)["stem.0"] == widths(small)["left"] == 15
    # After the concatenation, the depthwise convolution has the channels of two groups.
    assert widths(small)["depthwise"] == 31


class TwoReaders(nn.Module):
    """Two depthwise convolutions that read the same channels; their sum may contain the channels, too."""

    def __init__(self, residual: bool):
        super().__init__()
        self.a = nn.Conv2d(3, 8, 1)
        self.left = nn.Conv2d(8, 8, 3, padding=1, groups=8, bias=False)
        self.right = nn.Conv2d(8, 8, 3, padding=1, groups=8, bias=False)
        self.b = nn.Conv2d(8, 4, 1)
        self.residual = residual

    def forward(self, x):
        x = torch.relu(self.a(x))
        y = self.left(x) + self.right(x)
        return self.b(y + x if self.residual else y)


@pytest.mark.parametrize(
    ("residual", "drops", "width"),
    [
        (False, {"left": [2, 3]}, 8),
        (False, {"left": [2, 3], "right": [3, 4]}, 7),
        (True, {"left": [2, 3], "right": [3, 4]}, 8),
        (True, {"a": [1, 3], "left": [2, 3], "right": [3, 4]}, 6),
        (True, {"a": [1]}, 7),
    ],
)
def test_channels_that_another_branch_reads_are_kept(residual, drops, width):
    torch.manual_seed(0)
    model = TwoReaders(residual).eval()
    masks = channel_masks(model, drops)
    apply_masks(model, masks)
    small = speedup(model, masks, torch.zeros(1, 3, 8, 8))
    x = torch.randn(2, 3, 8, 8)
    torch.testing.assert_close(small(x), model(x), rtol=1e-5, atol=1e-5)
    assert widths(small)["a"] == width


def test_the_groups_of_a_grouped_convolution_keep_equal_sizes():
    model = Branches(16).eval()
    x = torch.zeros(1, 3, 16, 16)
    # Each group has four outputs. "excite" scales these channels, so that it produces them, too.
    layers = {"grouped": [0, 4, 8, 12, 1], "excite": [0, 4, 8, 12, 1]}
    small = speedup(model, channel_masks(model, layers), x)
    assert widths(small)["grouped"] == 12


def test_round_to_structure_keeps_the_most_important_masked_channels():
    model = nn.Sequential(nn.Conv2d(3, 16, 3), nn.ReLU(), nn.Conv2d(16, 8, 3)).eval()
    with torch.no_grad():
        model[0].weight[[2, 7]] *= 10  # the most important masked channels
    masks = channel_masks(model, {"0": [1, 2, 3, 7, 9]})
    x = torch.zeros(1, 3, 8, 8)
    assert widths(speedup(model, masks, x))["0"] == 11
    rounded = speedup(model, masks, x, round_to_structure=True, table=table_of({"0": (4, 1), "2": (1, 1)}))
    assert widths(rounded)["0"] == 12
    kept = [torch.equal(rounded[0].weight[i], model[0].weight[j]) for i in range(12) for j in (2, 7)]
    assert any(kept)
    with pytest.raises(CPruneError, match="round_to_structure needs the task table"):
        speedup(model, masks, x, round_to_structure=True)


def test_a_completely_masked_layer_is_not_pruned():
    model = nn.Sequential(nn.Conv2d(3, 4, 1), nn.Conv2d(4, 2, 1)).eval()
    masks = channel_masks(model, {"0": [0, 1, 2, 3]})
    assert widths(speedup(model, masks, torch.zeros(1, 3, 4, 4)))["0"] == 4


def test_invalid_mask_files_and_mismatched_masks_are_rejected(tmp_path):
    model = nn.Sequential(nn.Conv2d(3, 4, 1), nn.Conv2d(4, 2, 1))
    (tmp_path / "damaged.pt").write_bytes(b"PK\x03\x04 no")
    torch.save([1, 2], tmp_path / "other.pt")
    for name, message in (("missing", "cannot read"), ("damaged", "not a mask"), ("other", "not a mask")):
        with pytest.raises(CPruneError, match=message):
            load_masks(tmp_path / f"{name}.pt")
    with pytest.raises(CPruneError, match="the masks contain 'conv', which is not a layer of the model"):
        apply_masks(model, {"conv": {"weight": torch.ones(1)}})
    with pytest.raises(CPruneError, match=r"the mask of 0.weight has shape \(2,\), expected \(4, 3, 1, 1\)"):
        speedup(model, {"0": {"weight": torch.ones(2)}}, torch.zeros(1, 3, 4, 4))
