# SPDX-License-Identifier: Apache-2.0
"""Train and evaluate a classifier."""

import math
from collections.abc import Callable

import torch
from torch.utils.data import DataLoader

from tvm.contrib.cprune.types import CPruneError

# Short-term training after each pruning step (paper, section 4.1).
LEARNING_RATE, MOMENTUM, WEIGHT_DECAY = 1e-4, 0.9, 5e-4


def train(
    model: torch.nn.Module,
    loader: DataLoader,
    epochs: int,
    learning_rate: float = LEARNING_RATE,
    anneal: bool = False,
    log_interval: int = 0,
    say: Callable[[str], None] = print,
) -> None:
    """Train a model in place with SGD and cross-entropy loss.

    Parameters
    ----------
    anneal
        Use a one-cycle schedule with ``learning_rate`` as its maximum, for training from random weights. By
        default, the learning rate is constant.
    log_interval
        Number of batches between two reports of the loss; 0 for no reports.
    say
        Receives the reports, one line each.

    Raises
    ------
    CPruneError
        If the loss becomes infinite or NaN, or an image cannot be read.
    """
    optimizer = torch.optim.SGD(
        model.parameters(), learning_rate, momentum=MOMENTUM, weight_decay=WEIGHT_DECAY
    )
    steps = max(1, epochs * len(loader))
    schedule = (
        torch.optim.lr_scheduler.OneCycleLR(optimizer, learning_rate, total_steps=steps + 1)
        if anneal
        else None
    )
    criterion = torch.nn.CrossEntropyLoss()
    model.train()
    for epoch in range(epochs):
        for number, (inputs, targets) in enumerate(_readable(loader)):
            optimizer.zero_grad()
            loss = criterion(model(inputs), targets)
            if not math.isfinite(loss.item()):
                raise CPruneError(
                    f"the loss became {loss.item()} in epoch {epoch + 1}: lower the learning rate"
                )
            loss.backward()
            optimizer.step()
            if schedule:
                schedule.step()
            if log_interval and number % log_interval == 0:
                say(f"epoch {epoch + 1}/{epochs}, batch {number}/{len(loader)}: loss {loss.item():.4f}")
    model.eval()


def accuracy(model: torch.nn.Module, loader: DataLoader) -> float:
    """Return the fraction of images, in [0, 1], that a model classifies correctly."""
    model.eval()
    correct = count = 0
    with torch.no_grad():
        for inputs, targets in _readable(loader):
            correct += int((model(inputs).argmax(1) == targets).sum())
            count += len(targets)
    return correct / count


def _readable(loader: DataLoader):  # type: ignore[no-untyped-def]
    """Yield the batches of a loader; raise ``CPruneError`` if an image cannot be read."""
    try:
        yield from loader
    except OSError as error:
        raise CPruneError(f"an image of the data set cannot be read: {error}") from None
