# SPDX-License-Identifier: Apache-2.0
"""How candidates are judged in less time: by new batch-norm statistics and a part of the validation split."""

from collections.abc import Callable
from itertools import islice

import torch
from torch.optim.swa_utils import update_bn
from torch.utils.data import DataLoader, Subset

from train import accuracy

# Batches for the statistics, as in EagleEye (Li et al., ECCV 2020), which selects pruned networks by their
# accuracy after this step.
BATCHES = 32
# Images in the part; a split of less than four times as many is always read whole.
PART_IMAGES = 1000


def recalibrate(model: torch.nn.Module, loader: DataLoader) -> None:
    """Re-estimate a model's batch-norm statistics in place, from the first batches of a loader."""
    update_bn(islice(loader, BATCHES), model, next(model.parameters()).device)


def evaluation_of_part(loader: DataLoader, seed: int) -> Callable[[torch.nn.Module], tuple[int, int]] | None:
    """Return a function that evaluates models on a random part of a split (see ``Training.evaluate_part``).

    Parameters
    ----------
    loader
        The split.
    seed
        Selects the images.

    Returns
    -------
    The function, or None if the split is small.
    """
    size = len(loader.dataset)  # type: ignore[arg-type]
    if size < 4 * PART_IMAGES:
        return None
    order = torch.randperm(size, generator=torch.Generator().manual_seed(seed))
    images = Subset(loader.dataset, sorted(order[:PART_IMAGES].tolist()))
    part = DataLoader(images, loader.batch_size, num_workers=loader.num_workers)

    def evaluate_part(model: torch.nn.Module) -> tuple[int, int]:
        return round(accuracy(model, part) * PART_IMAGES), PART_IMAGES

    return evaluate_part
