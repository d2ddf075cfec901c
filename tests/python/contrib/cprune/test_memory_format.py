# SPDX-License-Identifier: Apache-2.0
"""Training and evaluation with channels last, which the model does not keep."""

import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from compute import ComputeSettings
from evaluation import accuracy
from judging import recalibrate
from memory_format import prepare_images, prepare_model
from train import Recipe, train

LAST = torch.channels_last
CPU = ComputeSettings("cpu")
FORMATS: list[bool] = []


class Convolution(nn.Conv2d):
    """Records whether its images and its weight have their channels last."""

    def forward(self, images):
        FORMATS.append(
            images.is_contiguous(memory_format=LAST) and self.weight.is_contiguous(memory_format=LAST)
        )
        return super().forward(images)


@pytest.mark.parametrize(
    "work",
    [
        lambda model, loader: train(model, loader, Recipe(1), compute=CPU),
        lambda model, loader: train(model, loader, Recipe(1, distill=0.5), teacher=model, compute=CPU),
        lambda model, loader: accuracy(model, loader, CPU),
        lambda model, loader: recalibrate(model, loader, CPU),
    ],
)
def test_networks_compute_with_channels_last_and_models_keep_their_format(work):
    torch.manual_seed(0)
    model = nn.Sequential(Convolution(3, 8, 3), nn.BatchNorm2d(8), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    images = TensorDataset(torch.randn(16, 3, 8, 8), torch.arange(16) % 8)
    FORMATS.clear()
    work(model, DataLoader(images, 4))
    assert FORMATS and all(FORMATS)
    assert all(value.is_contiguous() for value in model.state_dict().values())


def test_devices_that_do_not_support_the_format_get_none():
    model = nn.Conv2d(3, 8, 3)
    assert prepare_model(model, torch.device("mps")).weight.is_contiguous()
    assert prepare_images(torch.empty(2, 3, 8, 8, device="meta")).is_contiguous()
    assert prepare_images(torch.empty(2, 8)).shape == (2, 8)
