# SPDX-License-Identifier: Apache-2.0
"""VGG-16 with batch norm for small images (Simonyan and Zisserman, ICLR 2015)."""

import torch
from torch import nn

_STAGES = ((64, 64), (128, 128), (256, 256, 256), (512, 512, 512), (512, 512, 512))


class VGG(nn.Module):
    """Stages of 3x3 convolutions, each followed by 2x2 max pooling (sizes rounded up), and a linear layer."""

    def __init__(self, channels: int, classes: int) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        inputs = channels
        for stage in _STAGES:
            for width in stage:
                layers += [
                    nn.Conv2d(inputs, width, 3, padding=1, bias=False),
                    nn.BatchNorm2d(width),
                    nn.ReLU(True),
                ]
                inputs = width
            layers.append(nn.MaxPool2d(2, ceil_mode=True))
        self.features = nn.Sequential(*layers)
        self.classifier = nn.Linear(inputs, classes)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = nn.functional.adaptive_avg_pool2d(self.features(x), 1)
        return self.classifier(torch.flatten(x, 1))


def vgg16(channels: int, classes: int) -> VGG:
    """Return VGG-16 with a single linear layer."""
    return VGG(channels, classes)
