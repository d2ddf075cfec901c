# SPDX-License-Identifier: Apache-2.0
"""Distillation from the unpruned network."""

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import main
import training
from compute import ComputeSettings
from data import load_data
from distillation import loss_of
from options import make_settings, parse_arguments
from train import Recipe, train
from tvm.contrib.cprune.models.checkpoint import digest

CPU = ComputeSettings("cpu")
IMAGES = torch.randn(16, 6, generator=torch.Generator().manual_seed(1))
DATA = DataLoader(TensorDataset(IMAGES, torch.arange(16) % 4), 8)


def softmax(logits: np.ndarray) -> np.ndarray:
    powers = np.exp(logits - logits.max(1, keepdims=True))
    return powers / powers.sum(1, keepdims=True)


@pytest.mark.parametrize("distill", [0.0, 0.25, 1.0])
def test_the_loss_is_that_of_hinton_et_al(distill):
    generator = np.random.default_rng(0)
    outputs, teacher = generator.normal(0, 3, (2, 5, 4))
    labels = np.array([0, 3, 1, 1, 2])
    p, q = softmax(teacher / 4), softmax(outputs / 4)
    soft = 4**2 * np.sum(p * (np.log(p) - np.log(q)))
    hard = -np.sum(np.log(softmax(outputs)[np.arange(5), labels]))
    expected = (1 - distill) * hard + distill * soft
    loss = loss_of(torch.tensor(outputs), torch.tensor(labels), torch.tensor(teacher), distill)
    assert loss.item() == pytest.approx(expected, rel=1e-9)
    assert soft > 1 and hard > 1


def network(seed: int) -> nn.Module:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(6, 8), nn.BatchNorm1d(8), nn.Dropout(0.5), nn.Linear(8, 4))


def test_a_network_learns_the_outputs_of_its_teacher_which_does_not_change():
    teacher, student, plain = network(1).train(), network(2), network(2)
    before = digest(teacher)

    def distance(model: nn.Module) -> float:
        return (model.eval()(IMAGES) - teacher.eval()(IMAGES)).square().mean().item()

    start = distance(student)
    for model, weight in ((student, 1.0), (plain, 0.0)):
        torch.manual_seed(0)
        train(model, DATA, Recipe(30, 0.05, distill=weight), teacher=teacher, compute=CPU)
    assert distance(student) < 0.5 * start < distance(plain)
    assert digest(teacher) == before
    assert all(parameter.grad is None for parameter in teacher.parameters())


def test_gradients_flow_into_the_student_only(monkeypatch):
    """The teacher's outputs that the loss gets have no graph."""
    seen = []

    def spy(outputs, labels, teacher, distill):
        seen.append((outputs.requires_grad, teacher.requires_grad))
        return loss_of(outputs, labels, teacher, distill)

    monkeypatch.setattr("train.loss_of", spy)
    train(network(2), DATA, Recipe(1, distill=0.5), teacher=network(1), compute=CPU)
    assert seen == [(True, False)] * 2


def test_only_the_final_training_distills_and_only_if_it_is_asked_to(monkeypatch, tmp_path):
    calls = []
    monkeypatch.setattr(training, "train", lambda *given, **options: calls.append((given[2], options)))
    splits, unpruned = load_data("digits", None, 32, 200, 0), network(1)
    settings = make_settings(parse_arguments(["--distill", "0.5"]))
    trainer = training.training_on(splits, settings, tmp_path, unpruned)
    trainer.short_term(network(2))
    assert trainer.long_term is not None
    trainer.long_term(network(2))
    assert [recipe.distill for recipe, _ in calls] == [0, 0.5]
    assert calls[1][1]["teacher"] is unpruned
    assert make_settings(parse_arguments([])).train.distill == 0


@pytest.mark.parametrize(
    ("arguments", "shared"),
    [
        (["--distill", "0.5"], False),
        (["--precision", "bf16-mixed"], False),
        (["--accelerator", "cpu", "--devices", "2", "--num-workers", "3"], True),
    ],
)
def test_a_resumed_run_must_share_what_changes_its_result(arguments, shared):
    splits = load_data("digits", None, 32, 200, 0)
    labels, others = (
        main.labels_of(make_settings(parse_arguments(given)), splits) for given in ([], arguments)
    )
    assert (labels == others) is shared
