# SPDX-License-Identifier: Apache-2.0
"""LeNet-5 (LeCun et al., 1998) with ReLU activations."""

import torch
from torch import nn


class LeNet(nn.Module):
    """Two 5x5 convolutions, each followed by max pooling, and three linear layers."""

    def __init__(self, channels: int, classes: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, 32, 5, padding=2)
        self.conv2 = nn.Conv2d(32, 64, 5, padding=2)
        self.fc1 = nn.Linear(64 * 4 * 4, 120)
        self.fc2 = nn.Linear(120, 84)
        self.fc3 = nn.Linear(84, classes)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = nn.functional.max_pool2d(torch.relu(self.conv1(x)), 2)
        x = nn.functional.max_pool2d(torch.relu(self.conv2(x)), 2)
        x = torch.flatten(nn.functional.adaptive_avg_pool2d(x, 4), 1)
        return self.fc3(torch.relu(self.fc2(torch.relu(self.fc1(x)))))
