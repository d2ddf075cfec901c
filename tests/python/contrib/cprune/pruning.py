# SPDX-License-Identifier: Apache-2.0
"""A small network to prune, its settings, and a training and timing that do not depend on the machine."""

from typing import Any

import torch
from programs import FAST
from torch import nn

from tvm.contrib.cprune.config import PruneConfig
from tvm.contrib.cprune.loop.training import Training
from tvm.contrib.cprune.models.checkpoint import digest
from tvm.contrib.cprune.models.surgery import macs_and_params
from tvm.contrib.cprune.types import Latency

SHAPE = (1, 8, 16, 16)


class Chain(nn.Module):
    """Three convolutions and a linear layer; optionally the last convolution can use Winograd."""

    def __init__(self, winograd: bool = False) -> None:
        super().__init__()
        self.a = nn.Conv2d(8, 64, 3, stride=2, padding=1)
        self.b = nn.Conv2d(64, 64, 1)
        self.c = nn.Conv2d(64, 32, 3, stride=1 if winograd else 2, padding=1)
        self.fc = nn.Linear(32, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = torch.relu(self.b(torch.relu(self.a(x))))
        return self.fc(torch.relu(self.c(x)).mean((2, 3)))


def make_model(winograd: bool = False) -> nn.Module:
    torch.manual_seed(0)
    return Chain(winograd).eval()


def state_of(model: nn.Module) -> tuple[Any, ...]:
    """Return what a run must not change: a digest of the weights, the gradients, modes and devices."""
    gradients = {name: None if p.grad is None else p.grad.tolist() for name, p in model.named_parameters()}
    modes = [module.training for module in model.modules()]
    return digest(model), gradients, modes, [p.device for p in model.parameters()]


def training(accuracies=None) -> Training:
    """Return a training without data that reports ``accuracies`` in turn, 0.9 by default."""
    values = iter(accuracies) if accuracies is not None else None
    return Training(short_term=lambda _: None, evaluate=lambda _: 0.9 if values is None else next(values))


def config(**changes) -> PruneConfig:
    settings = {
        "alpha": 0.99,
        "beta": 1.0,
        "max_iterations": 3,
        "min_width": 8,
        "measure_repeats": 5,
        "tune": FAST,
    }
    return PruneConfig(**{**settings, **changes})


def time_by_macs(compiler, candidates, rounds=1):
    """Return latencies proportional to multiply-accumulates: decisions must not depend on the machine."""
    macs = {name: macs_and_params(c.model, compiler.input_shape)[0] for name, c in candidates.items()}
    return {name: Latency((count * 1e-9,) * 20) for name, count in macs.items()}
