# SPDX-License-Identifier: Apache-2.0
"""How candidates are judged in less time: by new batch-norm statistics and a part of the validation split."""

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from itertools import islice
from typing import TYPE_CHECKING, Any

import torch
from torch.optim.swa_utils import update_bn
from torch.utils.data import DataLoader, Dataset, Subset

from batches import Shares, load_batches
from compute import ONE_DEVICE, ComputeSettings, Report, ignore, run_on
from evaluation import accuracy, without_tf32
from memory_format import prepare_model
from tvm.contrib.cprune.models.surgery import copy_model

if TYPE_CHECKING:
    from lightning_fabric import Fabric

# Batches for the statistics, as in EagleEye (Li et al., ECCV 2020), which selects pruned networks by their
# accuracy after this step.
BATCHES = 32
# Images in the part; a split of less than four times as many is always read whole.
PART_IMAGES = 1000


def recalibrate(model: torch.nn.Module, loader: DataLoader, compute: ComputeSettings = ONE_DEVICE) -> None:
    """Re-estimate a model's batch-norm statistics in place, from random batches of a loader's data set.

    One device computes them. The order of the images depends on the state of torch's random generator.
    """
    assert loader.batch_size is not None
    seed = int(torch.randint(2**31, ()))
    work = partial(_with_statistics, model, loader.dataset, loader.batch_size, compute.num_workers, seed)
    model.load_state_dict(run_on(replace(compute, devices=1), work, ignore))


def _with_statistics(
    model: torch.nn.Module,
    dataset: Dataset[Any],
    batch_size: int,
    workers: int,
    seed: int,
    fabric: "Fabric",
    _: Report,
) -> dict[str, torch.Tensor]:
    """Return a model's state on the CPU, with new batch-norm statistics."""
    network = fabric.to_device(prepare_model(copy_model(model), fabric.device))
    generator = torch.Generator().manual_seed(seed)
    shares = Shares(len(dataset), batch_size, 0, 1, generator)  # type: ignore[arg-type]
    batches = islice(load_batches(fabric, dataset, shares, workers), BATCHES)
    with without_tf32():
        update_bn((images for images, *_ in batches), network)
    return {name: value.cpu() for name, value in network.state_dict().items()}


def evaluation_of_part(
    loader: DataLoader, seed: int, compute: ComputeSettings = ONE_DEVICE
) -> Callable[[torch.nn.Module], tuple[int, int]] | None:
    """Return a function that evaluates models on a random part of a split (see ``Training.evaluate_part``).

    One device evaluates the part: starting a process on each takes seconds.

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
    part, one = DataLoader(images, loader.batch_size), replace(compute, devices=1)

    def evaluate_part(model: torch.nn.Module) -> tuple[int, int]:
        return round(accuracy(model, part, one) * PART_IMAGES), PART_IMAGES

    return evaluate_part
