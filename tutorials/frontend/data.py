# SPDX-License-Identifier: Apache-2.0
"""Data sets of the tutorial.

Each has three splits: training, validation (for decisions while pruning) and test (read once, at the end).
"""

from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset, Subset, TensorDataset

import glyphs
from tvm.contrib.cprune.models.torchvision_models import import_torchvision
from tvm.contrib.cprune.types import CPruneError

# Fraction of the training images held out for validation, and the maximum number of images.
VALIDATION_FRACTION, MAX_VALIDATION_IMAGES = 0.1, 10_000
# Images of each class of glyphs for validation and test; images of an epoch of training.
GLYPHS_PER_CLASS, GLYPHS_PER_EPOCH = (20, 40), 6200


@dataclass(frozen=True)
class Splits:
    """Data loaders of a data set.

    Attributes
    ----------
    shape
        Shape of one image, ``(C, H, W)``.
    classes
        Names of the classes.
    """

    train: DataLoader
    validation: DataLoader
    test: DataLoader
    shape: tuple[int, int, int]
    classes: tuple[str, ...]


def _loaders(
    parts: tuple[Dataset, Dataset, Dataset], batch: int, test_batch: int
) -> tuple[DataLoader, DataLoader, DataLoader]:
    # Trainings and evaluations use only the data sets and batch sizes (see ``batches.load_batches``). The
    # Taylor importance and checks of outputs read a few batches, whose order and transforms follow from
    # torch's seed.
    train = DataLoader(parts[0], batch, shuffle=True)
    validation, test = (DataLoader(part, test_batch) for part in parts[1:])
    return train, validation, test


def _digits(data_dir: Path, batch: int, test_batch: int, seed: int) -> Splits:
    """Load scikit-learn's 1,797 handwritten digits (UCI), resized from 8x8 to 16x16 pixels.

    The splits hold 60 % (training), 20 % (validation) and 20 % (test) of the images.
    """
    from sklearn.datasets import load_digits

    raw = load_digits()
    images = torch.tensor(raw.images, dtype=torch.float32)[:, None] / 16
    images = torch.nn.functional.interpolate(images, size=16, mode="bilinear", align_corners=False)
    data = TensorDataset((images - images.mean()) / images.std(), torch.tensor(raw.target))
    order = np.random.default_rng(seed).permutation(len(data))
    ends = [0, len(order) * 3 // 5, len(order) * 4 // 5, len(order)]
    train, validation, test = (Subset(data, order[a:b].tolist()) for a, b in pairwise(ends))
    return Splits(*_loaders((train, validation, test), batch, test_batch), (1, 16, 16), tuple("0123456789"))


def _glyphs(data_dir: Path, batch: int, test_batch: int, seed: int) -> Splits:
    """Draw characters in random scenes: new ones in each epoch of training, the same ones for evaluation."""
    validation, test = (count * len(glyphs.CLASSES) for count in GLYPHS_PER_CLASS)
    training = glyphs.NewGlyphs(seed, validation + test, GLYPHS_PER_EPOCH)

    def fixed(part: range) -> DataLoader:
        return DataLoader(TensorDataset(*glyphs.glyph_images(seed, part)), test_batch)

    return Splits(
        DataLoader(training, batch, shuffle=True),
        fixed(range(validation)),
        fixed(range(validation, validation + test)),
        (3, glyphs.SIZE, glyphs.SIZE),
        glyphs.CLASSES,
    )


def _hold_out(augmented: Dataset, plain: Dataset, seed: int) -> tuple[Subset, Subset]:
    """Hold out random images for validation.

    ``augmented`` and ``plain`` are the same images with the transforms for training and for validation.
    """
    count = len(augmented)  # type: ignore[arg-type]
    held_out = min(MAX_VALIDATION_IMAGES, max(1, int(count * VALIDATION_FRACTION)))
    order = np.random.default_rng(seed).permutation(count).tolist()
    return Subset(augmented, order[held_out:]), Subset(plain, order[:held_out])


def _cifar10(data_dir: Path, batch: int, test_batch: int, seed: int) -> Splits:
    torchvision = import_torchvision()
    transforms = torchvision.transforms
    normalize = [
        transforms.ToTensor(),
        transforms.Normalize((0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616)),
    ]
    augment = transforms.Compose(
        [transforms.RandomCrop(32, 4), transforms.RandomHorizontalFlip(), *normalize]
    )
    plain = transforms.Compose(normalize)

    def load(train: bool, transform: Any) -> Any:
        try:
            return torchvision.datasets.CIFAR10(str(data_dir), train=train, transform=transform)
        except (RuntimeError, OSError, ValueError, KeyError, EOFError) as error:
            raise CPruneError(
                f"cifar10 in {data_dir} is missing or damaged ({error}); extract cifar-10-python.tar.gz "
                f"there to get {data_dir / 'cifar-10-batches-py'}"
            ) from None

    train, validation = _hold_out(load(True, augment), load(True, plain), seed)
    test = load(False, plain)
    loaders = _loaders((train, validation, test), batch, test_batch)
    return Splits(*loaders, (3, 32, 32), tuple(test.classes))


def _folder_transforms(size: int) -> tuple[Any, Any]:
    """Return the transforms of photographs for training, and for validation and test."""
    transforms = import_torchvision().transforms
    normalize = [transforms.ToTensor(), transforms.Normalize((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))]
    augment = [transforms.RandomResizedCrop(size), transforms.RandomHorizontalFlip(), *normalize]
    # The usual evaluation crops 224 pixels from 256.
    plain = [transforms.Resize(size * 8 // 7), transforms.CenterCrop(size), *normalize]
    return transforms.Compose(augment), transforms.Compose(plain)


def _open_folder(name: str, folder: Path, transform: Any) -> Any:
    """Open a folder with one folder of images for each class."""
    try:
        return import_torchvision().datasets.ImageFolder(str(folder), transform)
    except (OSError, RuntimeError) as error:
        raise CPruneError(
            f"{name} in {folder} has no usable images ({error}); expected {folder}/<class>/<image>.JPEG"
        ) from None


def _imagenet(data_dir: Path, batch: int, test_batch: int, seed: int, size: int) -> Splits:
    """Load images from the folders ``train`` and ``val``, which is the test split."""
    augment, plain = _folder_transforms(size)
    folder, test_folder = data_dir / "train", data_dir / "val"
    augmented = _open_folder("imagenet", folder, augment)
    test = _open_folder("imagenet", test_folder, plain)
    if augmented.classes != test.classes:
        raise CPruneError(f"{folder} and {test_folder} must have the same class folders")
    train, validation = _hold_out(augmented, _open_folder("imagenet", folder, plain), seed)
    loaders = _loaders((train, validation, test), batch, test_batch)
    return Splits(*loaders, (3, size, size), tuple(augmented.classes))


def _imagefolder(data_dir: Path, batch: int, test_batch: int, seed: int, size: int) -> Splits:
    """Load images from one folder for each class.

    The splits hold 70 % (training), 10 % (validation) and 20 % (test) of the images.
    """
    transforms = _folder_transforms(size)
    augmented, plain = (_open_folder("imagefolder", data_dir, transform) for transform in transforms)
    order = np.random.default_rng(seed).permutation(len(plain)).tolist()
    test, validation = len(order) // 5, len(order) // 10
    if not validation:
        raise CPruneError(f"imagefolder in {data_dir} has {len(order)} images, expected at least 10")
    parts = (
        Subset(augmented, order[test + validation :]),
        Subset(plain, order[test : test + validation]),
        Subset(plain, order[:test]),
    )
    return Splits(*_loaders(parts, batch, test_batch), (3, size, size), tuple(plain.classes))


DATASETS: dict[str, Callable[[Path, int, int, int], Splits]] = {
    "digits": _digits,
    "glyphs": _glyphs,
    "cifar10": _cifar10,
}
WITHOUT_FILES = ("digits", "glyphs")
# Data sets of photographs of any size, which are cropped.
FOLDERS: dict[str, Callable[[Path, int, int, int, int], Splits]] = {
    "imagenet": _imagenet,
    "imagefolder": _imagefolder,
}
IMAGE_SIZE = 224


def load_data(
    name: str, data_dir: Path, batch_size: int, test_batch_size: int, seed: int, image_size: int | None = None
) -> Splits:
    """Load a data set.

    Parameters
    ----------
    name
        A key of ``DATASETS`` or ``FOLDERS``.
    data_dir
        Folder of the files; digits and glyphs need none.
    batch_size, test_batch_size
        Images per batch for training, and for validation and test.
    seed
        Seed of the splits, and of the images of glyphs.
    image_size
        Rows and columns that photographs are cropped to; ``IMAGE_SIZE`` by default.

    Raises
    ------
    CPruneError
        If the name is unknown, the files are missing or damaged, or the images have a size of their own.
    """
    if name in FOLDERS:
        return FOLDERS[name](data_dir, batch_size, test_batch_size, seed, image_size or IMAGE_SIZE)
    if name not in DATASETS:
        expected = ", ".join((*DATASETS, *FOLDERS))
        raise CPruneError(f"unknown data set {name!r}; expected one of {expected}")
    if image_size is not None:
        raise CPruneError(f"the images of {name} have a size of their own; --image-size is {image_size}")
    return DATASETS[name](data_dir, batch_size, test_batch_size, seed)
