# SPDX-License-Identifier: Apache-2.0
"""Importance: the scores of channels, and which channels are dropped."""

import copy
from functools import partial

import pytest
import torch
import torch_pruning as tp
from networks import Branches, OneLayer, randomize_norms
from torch import nn

from tvm.contrib.cprune.config import IMPORTANCES
from tvm.contrib.cprune.models.importance import accumulate_gradients, check_importance, score
from tvm.contrib.cprune.models.prunable import PrunableModel
from tvm.contrib.cprune.models.surgery import channels_to_drop, widths
from tvm.contrib.cprune.types import CandidateError, ChannelStep, CPruneError

SHAPE = (1, 3, 16, 16)


l1 = partial(score, importance="l1", seed=0)


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


def test_gradients_are_accumulated_in_evaluation_mode_and_the_mode_is_restored():
    model, modes = OneLayer(4, 16).train(), []
    model.register_forward_pre_hook(lambda module, _: modes.append(module.training))
    accumulate_gradients(model, [(torch.randn(2, 4, 8, 8), torch.tensor([1, 2]))] * 2, nn.CrossEntropyLoss())
    assert modes == [False, False]
    assert model.training


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


def test_a_group_that_torch_pruning_fails_to_score_is_no_candidate(monkeypatch):
    def fail(*_):
        raise RuntimeError("sizes differ\nat line 3")

    monkeypatch.setattr(tp.importance.GroupMagnitudeImportance, "__call__", fail)
    prunable = PrunableModel.trace(OneLayer(4, 16), (1, 4, 8, 8))
    assert prunable.scores(prunable.all_groups.groups, l1) == {}
    with pytest.raises(CandidateError, match="cannot score the channels of conv: RuntimeError: sizes differ"):
        score_group(prunable.model, "conv", "l1")
