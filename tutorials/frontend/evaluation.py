# SPDX-License-Identifier: Apache-2.0
"""Evaluate a classifier, on one device or several."""

from contextlib import AbstractContextManager
from functools import partial
from typing import TYPE_CHECKING, Any

import torch
from torch.utils.data import DataLoader, Dataset

from batches import Shares, load_batches
from compute import ONE_DEVICE, ComputeSettings, Report, ignore, run_on
from memory_format import prepare_model
from tvm.contrib.cprune.models.surgery import copy_model
from tvm.contrib.cprune.types import CPruneError

if TYPE_CHECKING:
    from lightning_fabric import Fabric


def accuracy(model: torch.nn.Module, loader: DataLoader, compute: ComputeSettings = ONE_DEVICE) -> float:
    """Return the fraction of images, in [0, 1], that a model on the CPU classifies correctly.

    The model computes in 32-bit precision, as its compiled programs do.

    Raises
    ------
    CPruneError
        If the loader has no image, an image cannot be read, or the devices are not available.
    """
    assert loader.batch_size is not None
    model.eval()
    work = partial(_count, model, loader.dataset, loader.batch_size, compute.num_workers)
    correct, count = run_on(compute, work, ignore)
    if not count:
        raise CPruneError("accuracy is undefined: the data set contains no image for this evaluation")
    return float(correct / count)


def without_tf32() -> AbstractContextManager[None]:
    """Return a context in which GPUs convolve in 32-bit precision; by default, cuDNN uses 19 bits (TF32)."""
    return torch.backends.cudnn.flags(enabled=True, allow_tf32=False)


def _count(
    model: torch.nn.Module, dataset: Dataset[Any], batch_size: int, workers: int, fabric: "Fabric", _: Report
) -> tuple[int, int]:
    """Return how many images are classified correctly, and how many there are."""
    network, correct = fabric.to_device(prepare_model(copy_model(model), fabric.device)), 0
    count: int = len(dataset)  # type: ignore[arg-type]
    shares = Shares(count, batch_size, fabric.global_rank, fabric.world_size)
    with torch.no_grad(), without_tf32():
        for inputs, labels, _size in load_batches(fabric, dataset, shares, workers):
            correct += int((network(inputs).argmax(1) == labels).sum())
    total = fabric.all_reduce(torch.tensor(correct, device=fabric.device), reduce_op="sum")
    assert isinstance(total, torch.Tensor)
    return int(total), count
