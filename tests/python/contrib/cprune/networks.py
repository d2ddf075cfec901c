# SPDX-License-Identifier: Apache-2.0
"""Small networks to prune, and one network for each kind of layer that is tuned."""

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import nn

from tvm.contrib.cprune.types import Algorithm, Side


class OneLayer(nn.Module):
    """A convolution, a ReLU, and a linear layer on the mean over rows and columns."""

    def __init__(self, inputs: int, outputs: int, kernel: int = 3, stride: int = 1, groups: int = 1) -> None:
        super().__init__()
        self.conv = nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, groups=groups)
        self.fc = nn.Linear(outputs, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        result: torch.Tensor = self.fc(torch.relu(self.conv(x)).mean((2, 3)))
        return result


class Branches(nn.Module):
    """A residual, a concatenation, depthwise and grouped convolutions, and squeeze-and-excitation."""

    def __init__(self, width: int = 16) -> None:
        super().__init__()
        self.stem = nn.Sequential(
            nn.Conv2d(3, width, 3, padding=1, bias=False), nn.BatchNorm2d(width), nn.ReLU()
        )
        self.left = nn.Conv2d(width, width, 3, padding=1)
        self.right = nn.Conv2d(width, width, 1)
        self.depthwise = nn.Conv2d(2 * width, 2 * width, 3, padding=1, groups=2 * width, bias=False)
        self.norm = nn.BatchNorm2d(2 * width)
        self.mix = nn.Conv2d(2 * width, width, 1)
        self.grouped = nn.Conv2d(width, width, 3, stride=2, padding=1, groups=4)
        self.squeeze = nn.Conv2d(width, 8, 1)
        self.excite = nn.Conv2d(8, width, 1)
        self.fc = nn.Linear(width, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.stem(x)
        x = torch.cat([torch.relu(self.left(x)) + x, self.right(x)], 1)
        x = torch.relu(self.mix(torch.relu(self.norm(self.depthwise(x)))))
        x = torch.relu(self.grouped(x))
        gate = torch.sigmoid(self.excite(torch.relu(self.squeeze(x.mean((2, 3), keepdim=True)))))
        result: torch.Tensor = self.fc((x * gate).mean((2, 3)))
        return result


class GroupedConsumer(nn.Module):
    """A grouped convolution that reads the channels of a single layer."""

    def __init__(self) -> None:
        super().__init__()
        self.a = nn.Conv2d(4, 16, 1)
        self.b = nn.Conv2d(16, 16, 3, padding=1, groups=4)
        self.fc = nn.Linear(16, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        result: torch.Tensor = self.fc(self.b(torch.relu(self.a(x))).mean((2, 3)))
        return result


def randomize_norms(model: nn.Module) -> nn.Module:
    """Give batch norms random statistics, so that an error in folding them changes the outputs."""
    generator = torch.Generator().manual_seed(0)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            assert module.running_mean is not None and module.running_var is not None
            module.running_mean.normal_(0, 0.1, generator=generator)
            module.running_var.uniform_(0.5, 1.5, generator=generator)
            module.weight.data.uniform_(0.5, 1.5, generator=generator)
            module.bias.data.normal_(0, 0.1, generator=generator)
    return model.eval()


class Kind(NamedTuple):
    """A kind of layer to tune.

    Attributes
    ----------
    make
        Returns the network with that layer at a width.
    algorithm
        The algorithm of the convolution.
    layer
        The layer's name.
    width
        The width at which programs are searched.
    side
        Whether the width counts the layer's output or input channels.
    """

    make: Callable[[int], OneLayer]
    algorithm: Algorithm = "direct"
    layer: str = "conv"
    width: int = 64
    side: Side = "out"


KINDS: dict[str, Kind] = {
    "direct 3x3": Kind(lambda width: OneLayer(8, width)),
    "winograd 3x3": Kind(lambda width: OneLayer(8, width), "winograd-4"),
    "1x1": Kind(lambda width: OneLayer(16, width, kernel=1)),
    "strided": Kind(lambda width: OneLayer(8, width, stride=2)),
    "grouped": Kind(lambda width: OneLayer(8, width, groups=4)),
    "depthwise": Kind(lambda width: OneLayer(width, width, groups=width)),
    "reduction": Kind(lambda width: OneLayer(width, 32), side="in"),
    "dense": Kind(lambda width: OneLayer(8, width), layer="fc", side="in"),
}
# AutoTVM has no Winograd template for CPUs, and cannot resize tasks of grouped convolutions.
TEMPLATE_KINDS = [kind for kind in KINDS if kind not in ("winograd 3x3", "grouped")]
