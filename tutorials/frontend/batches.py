# SPDX-License-Identifier: Apache-2.0
"""The batches of an epoch, shared between processes.

The images are the same for any number of processes and of loader workers.
"""

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import torch
from torch.utils.data import DataLoader, Dataset, Sampler

from memory_format import prepare_images
from tvm.contrib.cprune.types import CPruneError

if TYPE_CHECKING:
    from lightning_fabric import Fabric

# An image's number in the data set, and the seed of its random transforms.
Item = tuple[int, int]


class Shares(Sampler[list[Item]]):
    """The share of one process of every batch.

    Parameters
    ----------
    count
        Number of images in the data set.
    batch_size
        Images per batch, over all processes.
    rank, world
        Number of this process, and number of processes.
    generator
        Gives the order of the images and the seeds of their random transforms. None means the order of the
        data set.
    """

    def __init__(
        self, count: int, batch_size: int, rank: int, world: int, generator: torch.Generator | None = None
    ) -> None:
        if generator is None:
            self.order, self._seeds = torch.arange(count), torch.zeros(count, dtype=torch.int64)
        else:
            self.order = torch.randperm(count, generator=generator)
            self._seeds = torch.randint(2**31, (count,), generator=generator)
        self._batch_size, self._rank, self._world = batch_size, rank, world

    @property
    def batch_sizes(self) -> list[int]:
        """The number of images in each batch, over all processes."""
        count = len(self.order)
        return [min(self._batch_size, count - first) for first in range(0, count, self._batch_size)]

    def share(self, batch_size: int) -> int:
        """Return how many images of a batch are this process's; none if there are more processes."""
        return len(range(self._rank, batch_size, self._world))

    def __len__(self) -> int:
        return len(self.batch_sizes)

    def __iter__(self) -> Iterator[list[Item]]:
        for first in range(0, len(self.order), self._batch_size):
            batch = slice(first, first + self._batch_size)
            order, seeds = self.order[batch].tolist(), self._seeds[batch].tolist()
            items = list(zip(order, seeds, strict=True))
            # A loader cannot load an empty batch: the caller drops this image.
            yield items[self._rank :: self._world] or items[:1]


class _SeededImages(Dataset[Any]):
    """The images of a data set, with random transforms that depend only on each image's seed."""

    def __init__(self, dataset: Dataset[Any]) -> None:
        self._dataset = dataset

    def __getitem__(self, item: Item) -> Any:
        number, seed = item
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(seed)
            return self._dataset[number]

    def __getitems__(self, items: list[Item]) -> list[Any]:
        """Return a batch. A data set can have a method ``with_seeds`` that is faster than one by one."""
        with_seeds = getattr(self._dataset, "with_seeds", None)
        return list(with_seeds(items)) if with_seeds else [self[item] for item in items]


def load_batches(
    fabric: "Fabric", dataset: Dataset[Any], shares: Shares, workers: int
) -> Iterator[tuple[torch.Tensor, torch.Tensor, int]]:
    """Yield this process's images and labels of every batch, on its device, and the size of the whole batch.

    Models should be prepared for them by ``prepare_model``.

    Raises
    ------
    CPruneError
        If an image cannot be read.
    """
    loader = DataLoader(
        _SeededImages(dataset),
        batch_sampler=shares,
        num_workers=workers,
        pin_memory=fabric.device.type == "cuda",
    )
    loaded = fabric.setup_dataloaders(loader, use_distributed_sampler=False)
    try:
        for (inputs, labels), size in zip(loaded, shares.batch_sizes, strict=True):
            share = shares.share(size)
            yield prepare_images(inputs[:share]), labels[:share], size
    except OSError as error:
        raise CPruneError(f"an image of the data set cannot be read: {error}") from None
