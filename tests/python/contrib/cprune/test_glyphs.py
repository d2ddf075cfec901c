# SPDX-License-Identifier: Apache-2.0
"""The generated data set of characters."""

import numpy as np
import pytest
import torch
from torch.utils.data import TensorDataset

import data
import glyphs
from batches import Shares, load_batches
from compute import ONE_DEVICE, make_fabric
from tvm.contrib.cprune.types import CPruneError


@pytest.fixture(scope="module")
def splits():
    return data.load_data("glyphs", None, 32, 200, 0)


def tensors(loader):
    assert isinstance(loader.dataset, TensorDataset)
    return loader.dataset.tensors


def test_a_seed_determines_all_images(splits):
    images, labels = glyphs.glyph_images(0, range(300))
    again, same_labels = glyphs.glyph_images(0, range(300))
    assert torch.equal(images, again) and torch.equal(labels, same_labels)
    other, _ = glyphs.glyph_images(1, range(300))
    assert (images - other).abs().mean((1, 2, 3)).min() > 0.01


def test_an_image_is_the_same_alone_and_among_others():
    images, labels = glyphs.glyph_images(3, range(1000, 1500))
    for number in (1000, 1247, 1248, 1499):
        alone, label = glyphs.glyph_images(3, [number])
        assert torch.equal(alone[0], images[number - 1000])
        assert label.item() == labels[number - 1000] == number % 62
    reverse, _ = glyphs.glyph_images(3, range(1499, 999, -1))
    assert torch.equal(reverse.flip(0), images)


def test_images_are_normalized_and_not_blank():
    images, _ = glyphs.glyph_images(0, range(1240))
    assert images.shape == (1240, 3, 32, 32) and images.dtype == torch.float32
    assert images.isfinite().all()
    np.testing.assert_allclose(images.mean((0, 2, 3)), 0, atol=0.05)
    np.testing.assert_allclose(images.std((0, 2, 3)), 1, atol=0.05)
    np.testing.assert_allclose([images.min(), images.max()], [-0.5 / 0.27, 0.5 / 0.27], rtol=1e-5)
    assert images.flatten(1).std(1).min() > 0.05


def test_the_classes_for_evaluation_are_balanced(splits):
    assert splits.classes == tuple("0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz")
    assert splits.shape == (3, 32, 32)
    for loader, count in ((splits.validation, 20), (splits.test, 40)):
        images, labels = tensors(loader)
        assert images.shape == (62 * count, 3, 32, 32)
        assert torch.bincount(labels, minlength=62).tolist() == [count] * 62


def test_the_splits_take_different_numbers_of_one_seed(splits):
    for loader, first in ((splits.validation, 0), (splits.test, 1240)):
        images, _ = tensors(loader)
        expected, _ = glyphs.glyph_images(0, range(first, first + len(images), 400))
        assert torch.equal(images[::400], expected)
    training = splits.train.dataset
    # The training has the numbers from 60 images of each class on.
    for index, seed in ((0, 0), (61, 0), (62, 0), (5, 2**31 - 1)):
        expected, labels = glyphs.glyph_images(0, [3720 + index + 6200 * seed])
        image, label = training.with_seeds([(index, seed)])[0]
        assert torch.equal(image, expected[0]) and label == labels[0] == index % 62
    held_out = torch.cat([tensors(loader)[0] for loader in (splits.validation, splits.test)])
    assert len({image.numpy().tobytes() for image in held_out}) == 3720


def test_every_epoch_draws_new_images_in_an_order_that_the_seed_determines(monkeypatch):
    monkeypatch.setattr(data, "GLYPHS_PER_EPOCH", 620)
    dataset, fabric = data.load_data("glyphs", None, 32, 200, 0).train.dataset, make_fabric(ONE_DEVICE)

    def epoch(seed):
        shares = Shares(len(dataset), 32, 0, 1, torch.Generator().manual_seed(seed))
        batches = list(load_batches(fabric, dataset, shares, 0))
        assert [len(labels) for _, labels, _ in batches] == [32] * 19 + [12]
        return torch.cat([images for images, *_ in batches]), torch.cat([labels for _, labels, _ in batches])

    (images, labels), (more_images, more_labels) = epoch(5), epoch(6)
    for order in (labels, more_labels):
        assert torch.bincount(order, minlength=62).tolist() == [10] * 62
    assert not torch.equal(labels, more_labels)
    assert len({image.numpy().tobytes() for image in torch.cat([images, more_images])}) == 1240
    again, same_labels = epoch(5)
    assert torch.equal(images, again) and torch.equal(labels, same_labels)


def test_every_font_has_a_different_mask_of_each_class():
    """A character that a font lacks would be drawn as the same box as every other one."""
    masks = glyphs._masks().images
    assert masks.shape == (len(glyphs.FONTS) * 62, 1, 64, 64)
    for font in masks.view(-1, 62, 64 * 64):
        assert len({mask.numpy().tobytes() for mask in font}) == 62
        assert font.mean(1).min() > 0.005
    border = torch.ones(64, 64, dtype=torch.bool)
    border[1:-1, 1:-1] = False
    assert masks[:, 0, border].max() == 0  # no character is cut off


def test_the_character_is_in_the_middle_of_its_image(monkeypatch):
    """Without rotation, clutter and noise, an image is its mask in two colors."""
    for name, value in {
        "_ROTATION": 0,
        "_SHEAR": 0,
        "_SHIFT": 0,
        "_HEIGHT": (1, 1),
        "_STRETCH": (1, 1),
    }.items():
        monkeypatch.setattr(glyphs, name, value)
    labels = torch.arange(62)
    scalars = glyphs._Scalars(torch.zeros(62, glyphs._SCALARS))
    line = glyphs._line(labels, scalars)[:, 0]
    expected = torch.nn.functional.avg_pool2d(glyphs._masks().images[:62], 2)[:, 0]
    # The neighbors, which are zeros here, cover the sides.
    half = (glyphs._masks().advances[:62] * 8).int()
    for image, mask, columns in zip(line, expected, half, strict=True):
        middle = slice(16 - columns, 16 + columns)
        torch.testing.assert_close(image[:, middle], mask[:, middle], atol=0.02, rtol=0)


def test_a_size_is_refused():
    with pytest.raises(CPruneError, match="the images of glyphs have a size of their own"):
        data.load_data("glyphs", None, 32, 200, 0, image_size=64)
