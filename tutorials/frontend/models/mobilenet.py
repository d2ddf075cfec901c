# SPDX-License-Identifier: Apache-2.0
"""MobileNet V1 (Howard et al., 2017) and V2 (Sandler et al., CVPR 2018) for small images."""

import torch
from torch import nn


def _conv(
    inputs: int, outputs: int, kernel: int, stride: int, groups: int = 1, relu: bool = True
) -> list[nn.Module]:
    """Return a convolution, its batch norm and, if ``relu``, a ReLU6."""
    conv = nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, groups=groups, bias=False)
    return [conv, nn.BatchNorm2d(outputs), *([nn.ReLU6(True)] if relu else [])]


class _Classifier(nn.Module):
    """A feature extractor, global average pooling, and a linear layer."""

    def __init__(self, features: list[nn.Module], width: int, classes: int) -> None:
        super().__init__()
        self.features = nn.Sequential(*features)
        self.classifier = nn.Linear(width, classes)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = nn.functional.adaptive_avg_pool2d(self.features(x), 1)
        return self.classifier(torch.flatten(x, 1))


class MobileNetV1(_Classifier):
    """A 3x3 stem and alternating depthwise 3x3 and pointwise convolutions."""

    # (output channels, stride) of each pair, with strides for 32x32 images.
    _PAIRS = (
        (64, 1),
        (128, 2),
        (128, 1),
        (256, 2),
        (256, 1),
        (512, 2),
        *((512, 1),) * 5,
        (1024, 2),
        (1024, 1),
    )

    def __init__(self, channels: int, classes: int) -> None:
        layers, inputs = _conv(channels, 32, 3, 1), 32
        for width, stride in self._PAIRS:
            layers += [*_conv(inputs, inputs, 3, stride, groups=inputs), *_conv(inputs, width, 1, 1)]
            inputs = width
        super().__init__(layers, inputs, classes)


class InvertedResidual(nn.Module):
    """Expansion, depthwise convolution and projection, with a shortcut if the shape does not change."""

    def __init__(self, inputs: int, outputs: int, stride: int, expansion: int) -> None:
        super().__init__()
        hidden = inputs * expansion
        self.shortcut = stride == 1 and inputs == outputs
        expand = _conv(inputs, hidden, 1, 1) if expansion != 1 else []
        self.body = nn.Sequential(
            *expand,
            *_conv(hidden, hidden, 3, stride, groups=hidden),
            *_conv(hidden, outputs, 1, 1, relu=False),
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + self.body(x) if self.shortcut else self.body(x)


class MobileNetV2(_Classifier):
    """A 3x3 stem, stages of inverted residual blocks, and a pointwise convolution."""

    # (expansion, output channels, blocks, stride) of each stage, with strides for 32x32 images.
    _STAGES = (
        (1, 16, 1, 1),
        (6, 24, 2, 1),
        (6, 32, 3, 2),
        (6, 64, 4, 2),
        (6, 96, 3, 1),
        (6, 160, 3, 2),
        (6, 320, 1, 1),
    )

    def __init__(self, channels: int, classes: int) -> None:
        layers, inputs = _conv(channels, 32, 3, 1), 32
        for expansion, width, count, stride in self._STAGES:
            for block in range(count):
                layers.append(InvertedResidual(inputs, width, stride if block == 0 else 1, expansion))
                inputs = width
        layers += _conv(inputs, 1280, 1, 1)
        super().__init__(layers, 1280, classes)
