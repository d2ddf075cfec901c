# SPDX-License-Identifier: Apache-2.0
"""Train and evaluate a classifier."""

import math
from collections.abc import Callable, Iterator
from itertools import islice
from pathlib import Path

import torch
from torch.optim.lr_scheduler import LRScheduler, OneCycleLR
from torch.utils.data import DataLoader

from epoch_file import EpochFile
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
    checkpoint: Path | None = None,
    batches: int = 0,
) -> None:
    """Train a model in place with SGD and cross-entropy loss.

    The weights depend only on the arguments and on the state of torch's random generator, from which the
    loader must take the order of the images.

    Parameters
    ----------
    anneal
        Use a one-cycle schedule with ``learning_rate`` as its maximum, for training from random weights. By
        default, the learning rate is constant.
    log_interval
        Number of batches between two reports of the loss; 0 for no reports.
    say
        Receives the reports, one line each.
    checkpoint
        File that receives the state of the training after each epoch. If it holds the state of this very
        training, which was interrupted, the training continues there, with identical results. The file
        remains after the last epoch; the caller deletes it once the model is saved.
    batches
        Number of batches to train for instead of ``epochs``; 0 means whole epochs.

    Raises
    ------
    CPruneError
        If the loss becomes infinite or NaN, or an image or the checkpoint cannot be read.
    """
    optimizer = torch.optim.SGD(
        model.parameters(), learning_rate, momentum=MOMENTUM, weight_decay=WEIGHT_DECAY
    )
    epochs = -(-batches // max(1, len(loader))) if batches else epochs
    steps = batches or max(1, epochs * len(loader))
    schedule = OneCycleLR(optimizer, learning_rate, total_steps=steps + 1) if anneal else None
    settings = f"{epochs} {batches} {learning_rate} {anneal} {len(loader.dataset)} {loader.batch_size}"  # type: ignore[arg-type]
    file = EpochFile(checkpoint, model, optimizer, schedule, settings) if checkpoint else None
    complete = file.restore() if file else 0
    if complete:
        say(f"resuming the training after epoch {complete} of {epochs}")
    model.train()
    for epoch in range(complete, epochs):
        where = f"epoch {epoch + 1}/{epochs}"
        left = steps - epoch * len(loader)
        for number, loss in enumerate(_steps(model, loader, optimizer, schedule, left)):
            if not math.isfinite(loss):
                raise CPruneError(f"the loss became {loss} in {where}: lower the learning rate")
            if log_interval and number % log_interval == 0:
                say(f"{where}, batch {number}/{len(loader)}: loss {loss:.4f}")
        if file:
            file.save(epoch + 1)
    model.eval()


def _steps(
    model: torch.nn.Module,
    loader: DataLoader,
    optimizer: torch.optim.SGD,
    schedule: LRScheduler | None,
    limit: int,
) -> Iterator[float]:
    """Train for one epoch of at most ``limit`` batches, and yield the loss of each batch."""
    criterion = torch.nn.CrossEntropyLoss()
    for inputs, targets in islice(_readable(loader), limit):
        optimizer.zero_grad()
        loss = criterion(model(inputs), targets)
        loss.backward()
        optimizer.step()
        if schedule:
            schedule.step()
        yield loss.item()


def accuracy(model: torch.nn.Module, loader: DataLoader) -> float:
    """Return the fraction of images, in [0, 1], that a model classifies correctly.

    Raises
    ------
    CPruneError
        If the loader has no image, or an image cannot be read.
    """
    model.eval()
    correct = count = 0
    with torch.no_grad():
        for inputs, targets in _readable(loader):
            correct += int((model(inputs).argmax(1) == targets).sum())
            count += len(targets)
    if not count:
        raise CPruneError("accuracy is undefined: the data set contains no image for this evaluation")
    return correct / count


def _readable(loader: DataLoader):  # type: ignore[no-untyped-def]
    """Yield the batches of a loader; raise ``CPruneError`` if an image cannot be read."""
    try:
        yield from loader
    except OSError as error:
        raise CPruneError(f"an image of the data set cannot be read: {error}") from None
