# SPDX-License-Identifier: Apache-2.0
"""Residual networks for small images (He et al., CVPR 2016)."""

import torch
from torch import nn


class BasicBlock(nn.Module):
    """Two 3x3 convolutions and a shortcut, which is a 1x1 convolution if the shape changes."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(outputs)
        self.shortcut: nn.Module = nn.Identity()
        if stride != 1 or inputs != outputs:
            self.shortcut = nn.Sequential(
                nn.Conv2d(inputs, outputs, 1, stride, bias=False), nn.BatchNorm2d(outputs)
            )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = torch.relu(self.bn1(self.conv1(x)))
        return torch.relu(self.bn2(self.conv2(y)) + self.shortcut(x))


class ResNet(nn.Module):
    """A 3x3 stem, stages of basic blocks, and a linear layer.

    Every stage but the first halves the resolution.
    """

    def __init__(self, blocks: tuple[int, ...], widths: tuple[int, ...], channels: int, classes: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, widths[0], 3, 1, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(widths[0])
        stages, inputs = [], widths[0]
        for stage, (count, width) in enumerate(zip(blocks, widths, strict=True)):
            strides = [1 if stage == 0 else 2] + [1] * (count - 1)
            stages.append(
                nn.Sequential(
                    *(BasicBlock(inputs if i == 0 else width, width, s) for i, s in enumerate(strides))
                )
            )
            inputs = width
        self.stages = nn.Sequential(*stages)
        self.fc = nn.Linear(inputs, classes)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.stages(torch.relu(self.bn1(self.conv1(x))))
        return self.fc(torch.flatten(nn.functional.adaptive_avg_pool2d(x, 1), 1))


def resnet8(channels: int, classes: int) -> ResNet:
    """Return a ResNet with three stages of one block, 64, 128 and 256 channels wide."""
    return ResNet((1, 1, 1), (64, 128, 256), channels, classes)


def resnet18(channels: int, classes: int) -> ResNet:
    """Return a ResNet with four stages of two blocks, 64 to 512 channels wide."""
    return ResNet((2, 2, 2, 2), (64, 128, 256, 512), channels, classes)
