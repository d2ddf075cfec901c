# SPDX-License-Identifier: Apache-2.0
"""The tutorial's batch-norm statistics of pruned models, and its part of the validation split."""

import copy
from typing import ClassVar

import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import compute
import judging
import main as tutorial
from compute import ComputeSettings
from evaluation import accuracy
from judging import BATCHES, evaluation_of_part, recalibrate
from training import training_on

IMAGES = torch.randn(8 * (BATCHES + 4), 3, 4, 4, generator=torch.Generator().manual_seed(1)) * 3 + 2
LABELS = torch.arange(len(IMAGES)) % 10


def loader(shuffle: bool = True) -> DataLoader:
    return DataLoader(TensorDataset(IMAGES, LABELS), 8, shuffle=shuffle)


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.BatchNorm2d(3), nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Flatten(), nn.Linear(32, 10)
    ).eval()


def test_statistics_are_the_averages_over_a_fixed_number_of_batches():
    model = network()
    before = copy.deepcopy(model)
    torch.manual_seed(3)
    recalibrate(model, loader())
    torch.manual_seed(3)
    generator = torch.Generator().manual_seed(int(torch.randint(2**31, ())))
    order = torch.randperm(len(IMAGES), generator=generator)
    batches = IMAGES[order].split(8)[:BATCHES]
    assert len(batches) == BATCHES < len(loader())
    for norm, inputs in ((model[0], batches), (model[2], [norm_and_convolve(before, x) for x in batches])):
        means = torch.stack([x.mean((0, 2, 3)) for x in inputs]).mean(0)
        variances = torch.stack([x.transpose(0, 1).flatten(1).var(1) for x in inputs]).mean(0)
        torch.testing.assert_close(norm.running_mean, means)
        torch.testing.assert_close(norm.running_var, variances)
        assert norm.momentum == 0.1
    assert not model.training
    for name, parameter in model.named_parameters():
        assert torch.equal(parameter, before.get_parameter(name))


def norm_and_convolve(model: nn.Module, images: torch.Tensor) -> torch.Tensor:
    """Return the input of the second batch norm in training mode."""
    with torch.no_grad():
        return copy.deepcopy(model).train()[:2](images)


class Precision(nn.Module):
    """A layer that notes whether cuDNN may round 32-bit numbers."""

    rounds: ClassVar[list[bool]] = []

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        self.rounds.append(torch.backends.cudnn.allow_tf32)
        return images


@pytest.mark.parametrize("evaluate", [recalibrate, accuracy])
def test_evaluations_compute_in_32_bits_on_a_gpu_too(evaluate, monkeypatch):
    monkeypatch.setattr(Precision, "rounds", [])
    before = torch.backends.cudnn.allow_tf32
    evaluate(nn.Sequential(Precision(), network()), loader())
    assert Precision.rounds and not any(Precision.rounds)
    assert torch.backends.cudnn.allow_tf32 == before


def test_a_part_of_the_split_is_fixed_by_the_seed(monkeypatch):
    monkeypatch.setattr(judging, "PART_IMAGES", 40)
    model, split = network(), loader(shuffle=False)
    state = torch.get_rng_state()
    # This process evaluates the part, however many devices there are.
    monkeypatch.setattr(compute, "_run_in_processes", None)
    evaluate = evaluation_of_part(split, 5, ComputeSettings("cpu", devices=2))
    assert torch.equal(torch.get_rng_state(), state)
    again, other = evaluation_of_part(split, seed=5), evaluation_of_part(split, seed=6)
    assert evaluate is not None and again is not None and other is not None
    order = torch.randperm(len(IMAGES), generator=torch.Generator().manual_seed(5))[:40]
    with torch.no_grad():
        correct = int((model(IMAGES[order]).argmax(1) == LABELS[order]).sum())
    assert evaluate(model) == again(model) == evaluate(model) == (correct, 40)
    assert 0 < correct < 40
    models = [nn.Sequential(nn.Flatten(), nn.Linear(48, 10)) for _ in range(8)]
    assert [evaluate(m) for m in models] != [other(m) for m in models]


def test_a_small_split_has_no_part(monkeypatch):
    monkeypatch.setattr(judging, "PART_IMAGES", len(IMAGES) // 4)
    assert evaluation_of_part(loader(), 0) is not None
    monkeypatch.setattr(judging, "PART_IMAGES", len(IMAGES) // 4 + 1)
    assert evaluation_of_part(loader(), 0) is None


@pytest.mark.parametrize(("rule", "recalibrates"), [("joint", True), ("paper", False)])
def test_the_tutorial_gives_the_functions_to_a_run(rule, recalibrates, tmp_path, monkeypatch):
    monkeypatch.setattr(judging, "PART_IMAGES", 80)
    settings = tutorial.make_settings(tutorial.parse_arguments(["--step-rule", rule]))
    splits = tutorial.load_data("digits", tmp_path, 32, 200, 0)
    training = training_on(splits, settings, tmp_path, nn.Identity())
    assert (training.recalibrate is not None) == recalibrates
    assert training.evaluate_part is not None
    model = tutorial.make_model("lenet", 1, 10, 16)
    correct, count = training.evaluate_part(model)
    assert (count, training.validation_size) == (80, len(splits.validation.dataset))
    whole = accuracy(model, splits.validation) * training.validation_size
    assert 0 <= correct <= whole
