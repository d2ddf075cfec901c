# SPDX-License-Identifier: Apache-2.0
"""Masks in NNI's form, and the models they stand for, beside NNI itself."""

import copy
import logging
import warnings

import pytest
import torch
from conftest import Branches, randomize_norms, table_of
from torch import nn

from models import make_model
from tvm.contrib.cprune.models.surgery import widths
from tvm.contrib.cprune.nni.masks import apply_masks, load_masks, masked_channels, save_masks, speedup
from tvm.contrib.cprune.types import CPruneError

X = torch.randn(1, 3, 32, 32, generator=torch.Generator().manual_seed(0))


def channel_masks(model: nn.Module, drops: dict[str, list[int]]) -> dict[str, dict[str, torch.Tensor]]:
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
def test_the_smaller_model_equals_nnis(name, pruner, tmp_path, quiet):
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
    save_masks(masks, tmp_path / "ours.pt")
    theirs = copy.deepcopy(model)
    ModelSpeedup(theirs, X, str(tmp_path / "ours.pt")).speedup_model()
    assert widths(small) == widths(theirs)
    torch.testing.assert_close(small(X), theirs(X), rtol=1e-5, atol=1e-5)
    if pruner == "LevelPruner":  # masks single weights: no channel goes as a whole
        assert widths(small) == widths(model)
    else:
        assert sum(widths(small).values()) < sum(widths(model).values())


@pytest.mark.parametrize("pruner", ["TaylorFOWeightPruner", "ActivationAPoZRankPruner"])
def test_masks_of_pruners_that_look_at_data(pruner, tmp_path, quiet):
    import nni
    from nni.compression.pytorch import pruning

    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 16, 3), nn.ReLU(), nn.Conv2d(16, 8, 3), nn.ReLU(), nn.Flatten())
    data = [(torch.randn(4, 3, 8, 8), torch.randint(0, 8, (4,))) for _ in range(3)]

    def train(module, optimizer, criterion, *_, **__):  # type: ignore[no-untyped-def]
        for inputs, targets in data:
            optimizer.zero_grad()
            criterion(module(inputs), targets).backward()
            optimizer.step()

    traced = nni.trace(torch.optim.SGD)(model.parameters(), lr=0.01)
    made = getattr(pruning, pruner)(
        model, [{"op_types": ["Conv2d"], "sparsity": 0.5}], train, traced, nn.CrossEntropyLoss(), 3
    )
    made.compress()
    made.export_model(str(tmp_path / "model.pt"), str(tmp_path / "masks.pt"))
    masks = load_masks(tmp_path / "masks.pt")
    assert len(masked_channels(masks, "0")) == 8
    state = torch.load(tmp_path / "model.pt", weights_only=True)
    plain = nn.Sequential(nn.Conv2d(3, 16, 3), nn.ReLU(), nn.Conv2d(16, 8, 3), nn.ReLU(), nn.Flatten())
    plain.load_state_dict(state)
    small = speedup(plain, masks, data[0][0])
    # The last layer's channels are the model's outputs, and stay.
    assert widths(small) == {"0": 8, "2": 8}


def test_coupled_channels_go_only_together():
    model = Branches(16).eval()
    x = torch.zeros(1, 3, 16, 16)
    # "left" is added to the stem: channel 3 is masked in both, 5 in one.
    alone = speedup(model, channel_masks(model, {"stem.0": [3, 5], "left": [3]}), x)
    assert widths(alone)["stem.0"] == widths(alone)["left"] == 15
    # Behind a concatenation a depthwise convolution filters the channels of two groups.
    assert widths(alone)["depthwise"] == 31


def test_a_grouped_convolution_keeps_its_groups_alike():
    model = Branches(16).eval()
    x = torch.zeros(1, 3, 16, 16)
    # Groups of four outputs each; the gate of squeeze-and-excitation has the same channels.
    layers = {"grouped": [0, 4, 8, 12, 1], "excite": [0, 4, 8, 12, 1]}
    small = speedup(model, channel_masks(model, layers), x)
    assert widths(small)["grouped"] == 12


def test_masks_are_snapped_to_the_structure():
    model = nn.Sequential(nn.Conv2d(3, 16, 3), nn.ReLU(), nn.Conv2d(16, 8, 3)).eval()
    with torch.no_grad():
        model[0].weight[[2, 7]] *= 10  # of the masked ones, these matter most
    masks = channel_masks(model, {"0": [1, 2, 3, 7, 9]})
    x = torch.zeros(1, 3, 8, 8)
    assert widths(speedup(model, masks, x))["0"] == 11
    rounded = speedup(model, masks, x, round_to_structure=True, table=table_of({"0": (4, 1), "2": (1, 1)}))
    assert widths(rounded)["0"] == 12
    kept = [torch.equal(rounded[0].weight[i], model[0].weight[j]) for i in range(12) for j in (2, 7)]
    assert any(kept)
    with pytest.raises(CPruneError, match="round_to_structure needs the task table"):
        speedup(model, masks, x, round_to_structure=True)


def test_a_layer_that_is_masked_as_a_whole_is_left():
    model = nn.Sequential(nn.Conv2d(3, 4, 1), nn.Conv2d(4, 2, 1)).eval()
    masks = channel_masks(model, {"0": [0, 1, 2, 3]})
    assert widths(speedup(model, masks, torch.zeros(1, 3, 4, 4)))["0"] == 4


def test_files_and_masks_that_do_not_belong_are_refused(tmp_path):
    model = nn.Sequential(nn.Conv2d(3, 4, 1), nn.Conv2d(4, 2, 1))
    (tmp_path / "damaged.pt").write_bytes(b"PK\x03\x04 no")
    torch.save([1, 2], tmp_path / "other.pt")
    for name, message in (("missing", "cannot read"), ("damaged", "not a mask"), ("other", "not a mask")):
        with pytest.raises(CPruneError, match=message):
            load_masks(tmp_path / f"{name}.pt")
    with pytest.raises(CPruneError, match=r"a mask is for 'conv', and the model has no such layer"):
        apply_masks(model, {"conv": {"weight": torch.ones(1)}})
    with pytest.raises(CPruneError, match=r"the mask of 0.weight has shape \(2,\), expected \(4, 3, 1, 1\)"):
        speedup(model, {"0": {"weight": torch.ones(2)}}, torch.zeros(1, 3, 4, 4))
