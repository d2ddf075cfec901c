# SPDX-License-Identifier: Apache-2.0
"""A network pruned level by level, for ``stack.py``.

Every level starts from the one before it. Each channel group loses the channels with the lowest l1 norms,
until the level's share of the unpruned network's channels is removed. The network is then trained with the
1cycle schedule (Smith and Topin, 2017).
"""

import json
import time
from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import torch

from common import ROOT  # noqa: F401  (lets the modules of the tutorial be imported)
from compute import ComputeSettings
from data import Splits
from evaluation import accuracy
from models import make_model, train_rate
from train import Recipe, train
from training import FINE_TUNE_LEARNING_RATE
from tvm.contrib.cprune.files import write_text
from tvm.contrib.cprune.methods.uniform import nearest
from tvm.contrib.cprune.models.checkpoint import load_checkpoint, save_checkpoint
from tvm.contrib.cprune.models.importance import score
from tvm.contrib.cprune.models.prunable import PrunableModel
from tvm.contrib.cprune.models.surgery import macs_and_params
from tvm.contrib.cprune.types import ChannelGroup, ChannelStep

# A depthwise convolution with a single channel would become a plain one.
MIN_WIDTH = 2


class Schedule(NamedTuple):
    """How a network is trained and pruned.

    ``levels`` are percentages of the channels to remove, in ascending order, the first one 0. ``epochs`` is
    that of the first training, ``fine_tune_epochs`` that of each level.
    """

    levels: tuple[int, ...]
    epochs: int
    fine_tune_epochs: int
    precision: Any


class Level(NamedTuple):
    """A pruned and trained network: percentage of channels removed, test accuracy, and size."""

    percent: int
    accuracy: float
    macs: int
    parameters: int
    seconds: float


def widths_at(groups: Iterable[ChannelGroup], percent: int) -> dict[str, int]:
    """Return the width of each group of an unpruned network at a level, by root."""
    smallest = {
        group.root: min(group.width, -(-MIN_WIDTH // group.round_to) * group.round_to) for group in groups
    }
    return {group.root: nearest(group, 1 - percent / 100, smallest[group.root], {}) for group in groups}


def pruned(model: torch.nn.Module, shape: tuple[int, ...], widths: dict[str, int]) -> torch.nn.Module:
    """Return a copy of a network with the given widths, by root of the group, without its training."""
    prunable = PrunableModel.trace(model, shape)
    steps = [
        ChannelStep(group, widths[group.root], "")
        for group in prunable.groups().groups
        if widths[group.root] < group.width
    ]
    return prunable.shrink(steps, partial(score, importance="l1", seed=0)).model


class Levels:
    """The levels of one network; those that a folder holds are not trained again.

    Parameters
    ----------
    folder
        Receives the weights and the accuracy of each level, and the state of an interrupted training.
    report
        Receives the progress of trainings; see ``train``.
    """

    def __init__(
        self,
        network: str,
        schedule: Schedule,
        splits: Splits,
        folder: Path,
        report: Callable[[dict[str, Any]], None] = lambda _: None,
    ) -> None:
        self.network, self.schedule, self.splits, self.folder = network, schedule, splits, folder
        self._report = report
        self.shape = (1, *splits.shape)
        torch.manual_seed(0)
        self.unpruned = make_model(network, splits.shape[0], len(splits.classes), splits.shape[-1]).eval()
        self.groups = PrunableModel.trace(self.unpruned, self.shape).groups()

    def model(self, percent: int) -> torch.nn.Module:
        """Return the trained network of a level that ``train`` has reached."""
        return load_checkpoint(self.folder, _name(percent), self.unpruned).eval()

    def find(self, percent: int) -> Level | None:
        """Return a level that the folder holds, None if it is not trained yet."""
        file = self.folder / f"{_name(percent)}.json"
        return Level(**json.loads(file.read_text())) if file.exists() else None

    def train(self, percent: int) -> Level:
        """Return a level, after training it and those before it unless the folder holds them."""
        done = self.find(percent)
        if done:
            return done
        before = [level for level in self.schedule.levels if level < percent]
        if before:
            self.train(before[-1])
        started, schedule = time.monotonic(), self.schedule
        model, recipe = self.unpruned, Recipe(schedule.epochs, train_rate(self.network), anneal=True)
        if before:
            widths = widths_at(self.groups.groups, percent)
            model = pruned(self.model(before[-1]), self.shape, widths)
            recipe = Recipe(schedule.fine_tune_epochs, FINE_TUNE_LEARNING_RATE, anneal=True)
        checkpoint = self.folder / "training.pt"
        torch.manual_seed(percent)
        train(
            model,
            self.splits.train,
            recipe,
            checkpoint=checkpoint,
            compute=ComputeSettings(precision=schedule.precision),
            name=f"training of {self.network} at {percent} %",
            report=self._report,
        )
        save_checkpoint(self.folder, _name(percent), model)
        macs, parameters = macs_and_params(model, self.shape)
        seconds = time.monotonic() - started
        level = Level(percent, accuracy(model, self.splits.test), macs, parameters, seconds)
        write_text(self.folder / f"{_name(percent)}.json", json.dumps(level._asdict()))
        checkpoint.unlink(missing_ok=True)
        return level


def _name(percent: int) -> str:
    return f"level-{percent:02}"
