# SPDX-License-Identifier: Apache-2.0
"""How long ``stack.py`` will take, from a timed batch of each network and its number of programs."""

import time
from collections.abc import Collection, Iterable
from itertools import islice

from torch import nn

from stack_levels import Levels, widths_at
from tvm.contrib.cprune.models.macs import MacCounter
from tvm.contrib.cprune.models.surgery import copy_model

# Typical seconds on two cores of a Zen 5.
SECONDS_PER_PROGRAM, SECONDS_PER_ROW = 0.4, 12.0


def training_seconds(levels: Levels, percents: Collection[int]) -> float:
    """Return the estimated seconds of the trainings that lead to some levels and are not done yet.

    A batch of the unpruned network is timed. The time of other levels is taken to follow their
    multiply-accumulates.
    """
    schedule = levels.schedule
    needed = [level for level in schedule.levels if level <= max(percents) and levels.find(level) is None]
    if not needed:
        return 0.0
    counter = MacCounter.of(levels.unpruned, levels.shape, levels.groups)
    total = counter.count({})
    images = len(levels.splits.train.dataset)  # type: ignore[arg-type]
    drawing, training = _seconds_per_image(levels)
    seconds = 0.0
    for percent in needed:
        share = counter.count(widths_at(levels.groups.groups, percent)) / total
        epochs = schedule.fine_tune_epochs if percent else schedule.epochs
        seconds += epochs * images * (drawing + training * share)
    return seconds


def _seconds_per_image(levels: Levels) -> tuple[float, float]:
    """Return the seconds for loading an image, and for training the unpruned network on it."""
    model = copy_model(levels.unpruned).train()
    started = time.perf_counter()
    batches = list(islice(iter(levels.splits.train), 2))
    loaded = time.perf_counter()
    for images, labels in batches:  # the last one counts, the first one warms up
        begun = time.perf_counter()
        nn.functional.cross_entropy(model(images), labels).backward()
    count = len(batches[-1][1])
    return (loaded - started) / (len(batches) * count), (time.perf_counter() - begun) / count


def measuring_seconds(levels: Levels, rows: Iterable[tuple[str, str]], trials: int) -> float:
    """Return the estimated seconds for compiling and timing some rows, each an algorithm and a tuning."""
    return sum(
        SECONDS_PER_ROW
        + SECONDS_PER_PROGRAM * programs(levels.unpruned, algorithm) * (trials if tuning == "tuned" else 1)
        for algorithm, tuning in rows
    )


def programs(model: nn.Module, algorithm: str) -> int:
    """Return about how many tasks an algorithm has that others do not: one for each shape of a weight."""
    shapes = {module.weight.shape for module in model.modules() if isinstance(module, nn.Conv2d)}
    return sum(algorithm != "winograd" or (shape[2] == 3 and shape[1] > 1) for shape in shapes)
