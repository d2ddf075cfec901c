# SPDX-License-Identifier: Apache-2.0
"""Images of characters in a scene: the fonts of matplotlib under random transformations, colors and clutter.

Nothing is downloaded. An image depends only on the seed and on its number. No classifier reaches an accuracy
of 1: in some fonts I and l are the same stroke, and 0 and O differ only in their width, which is random.
"""

import math
import string
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch.nn.functional import avg_pool2d, grid_sample, interpolate, pad
from torch.utils.data import Dataset

CLASSES = tuple(string.digits + string.ascii_uppercase + string.ascii_lowercase)
# Rows and columns of an image.
SIZE = 32
# The text fonts of matplotlib that contain all classes. Its other fonts have symbols or old-style digits.
FONTS = (
    *(f"DejaVuSans{style}" for style in ("", "-Bold", "-BoldOblique", "-Oblique")),
    *(f"DejaVuSansMono{style}" for style in ("", "-Bold", "-BoldOblique", "-Oblique")),
    *(f"DejaVuSerif{style}" for style in ("", "-Bold", "-BoldItalic", "-Italic")),
    *(f"STIXGeneral{style}" for style in ("", "Bol", "BolIta", "Italic")),
    *("cmb10", "cmr10", "cmss10", "cmti10", "cmtt10"),
)

# Masks are squares. Their center is at half the height of the capitals, which is the same in all fonts.
_MASK, _CAPITAL = 64, 32
# Largest rotation in radians, shear, and shift from the center in half images.
_ROTATION, _SHEAR, _SHIFT = 0.3, 0.25, 0.15
# Factors of the height and, relative to it, of the width. At 1, capitals are half as high as images. With
# a wider range of heights, the size would not tell c from C.
_HEIGHT, _STRETCH = (1.0, 1.25), (0.8, 1.2)
# Difference in brightness between a character and its background; largest standard deviation of the noise.
_CONTRAST, _NOISE = (0.3, 0.8), 0.08
# Largest difference of a color from gray, for each of red, green and blue.
_COLOR = 0.15
# Random numbers that an image takes besides textures and noise.
_SCALARS = 46
# Standard deviation of the pixels in [0, 1]; their mean is 0.5.
_DEVIATION = 0.27
# Images that are drawn together.
_CHUNK = 248


class _Masks(NamedTuple):
    """Characters, ``(fonts * classes, 1, 64, 64)`` in [0, 1], and the space that they take, in half masks."""

    images: torch.Tensor
    advances: torch.Tensor


@cache
def _masks() -> _Masks:
    """Draw every class in every font once."""
    from matplotlib import get_data_path
    from PIL import Image, ImageDraw, ImageFont

    images, advances = [], []
    for name in FONTS:
        path = str(Path(get_data_path()) / "fonts" / "ttf" / f"{name}.ttf")
        _, top, _, bottom = ImageFont.truetype(path, 1000).getbbox("H", anchor="ls")
        font = ImageFont.truetype(
            path, _CAPITAL * 1000 / (bottom - top), layout_engine=ImageFont.Layout.BASIC
        )
        for character in CLASSES:
            image = Image.new("L", (_MASK, _MASK))
            baseline = (_MASK + _CAPITAL) / 2
            ImageDraw.Draw(image).text((_MASK / 2, baseline), character, 255, font, anchor="ms")
            images.append(np.asarray(image, np.float32) / 255)
            advances.append(font.getlength(character) / (_MASK / 2))
    return _Masks(torch.tensor(np.stack(images))[:, None], torch.tensor(advances))


class _Draws(NamedTuple):
    """The random numbers of images: uniform in [0, 1), except for the noise, which is standard normal."""

    scalars: torch.Tensor
    coarse: torch.Tensor
    fine: torch.Tensor
    noise: torch.Tensor


def _draw(seed: int, numbers: Sequence[int]) -> _Draws:
    """Draw the random numbers of each image from a generator of its own."""
    images = []
    for number in numbers:
        generator = np.random.default_rng((seed, number))
        uniform = [generator.random(shape, np.float32) for shape in (_SCALARS, (6, 4, 4), (6, 11, 11))]
        images.append((*uniform, generator.standard_normal((3, SIZE, SIZE), np.float32)))
    return _Draws(*(torch.from_numpy(np.stack(parts)) for parts in zip(*images, strict=True)))


class _Scalars:
    """Hands out uniform random numbers, each time another one for every image."""

    def __init__(self, draws: torch.Tensor) -> None:
        self._columns = iter(draws.T)

    def between(self, low: float, high: float) -> torch.Tensor:
        """Return numbers in [low, high), ``(N,)``."""
        return low + (high - low) * next(self._columns)

    def factor(self, low: float, high: float) -> torch.Tensor:
        """Return numbers in [low, high) to combine with images, ``(N, 1, 1, 1)``."""
        return self.between(low, high)[:, None, None, None]

    def below(self, count: int) -> torch.Tensor:
        """Return integers in [0, count), ``(N,)``."""
        return (next(self._columns) * count).long()

    def tint(self) -> torch.Tensor:
        """Return differences from gray, ``(N, 3, 1, 1)``."""
        return torch.cat([self.factor(-_COLOR, _COLOR) for _ in range(3)], 1)


def _poses(scalars: _Scalars, rotation: float, height: tuple[float, float]) -> torch.Tensor:
    """Return random linear maps from images to masks, ``(N, 2, 2)``."""
    angle = scalars.between(-rotation, rotation)
    shear = scalars.between(-_SHEAR, _SHEAR)
    y_scale = 1 / scalars.between(*height)
    x_scale = y_scale / scalars.between(*_STRETCH)
    cos, sin = angle.cos(), angle.sin()
    entries = (x_scale * (cos - shear * sin), x_scale * (sin + shear * cos), -y_scale * sin, y_scale * cos)
    return torch.stack(entries, 1).view(-1, 2, 2)


def _place(
    glyphs: torch.Tensor, pose: torch.Tensor, center: torch.Tensor, along: torch.Tensor
) -> torch.Tensor:
    """Draw one mask into each image.

    Parameters
    ----------
    glyphs
        Indices of the masks, ``(N,)``.
    pose, center
        Linear map from the image to the mask, ``(N, 2, 2)``, and its center, ``(N, 2)`` in half images.
    along
        Distance of the mask from the center along the line of text, ``(N,)`` in half masks.

    Returns
    -------
    Coverage of the pixels in [0, 1], ``(N, 1, 32, 32)``.
    """
    pixels = (torch.arange(SIZE) + 0.5) * 2 / SIZE - 1
    x, y = (pixels - center[:, axis, None] for axis in (0, 1))
    grid = x[:, None, :, None] * pose[:, None, None, :, 0] + y[:, :, None, None] * pose[:, None, None, :, 1]
    grid[..., 0] -= along[:, None, None]
    return grid_sample(_masks().images[glyphs], grid, align_corners=False)


def _line(labels: torch.Tensor, scalars: _Scalars) -> torch.Tensor:
    """Draw each label between two random characters of the same font."""
    font = scalars.below(len(FONTS)) * len(CLASSES)
    pose = _poses(scalars, _ROTATION, _HEIGHT)
    center = torch.stack([scalars.between(-_SHIFT, _SHIFT) for _ in range(2)], 1)
    advances = _masks().advances
    line = _place(font + labels, pose, center, torch.zeros(len(labels)))
    for side in (-1, 1):
        neighbor = font + scalars.below(len(CLASSES))
        distance = (advances[font + labels] + advances[neighbor]) / 2 + scalars.between(0, 0.3)
        line = torch.maximum(line, _place(neighbor, pose, center, side * distance))
    return line


def _stray(scalars: _Scalars) -> torch.Tensor:
    """Draw a random character near the border of each image."""
    glyphs = scalars.below(len(FONTS) * len(CLASSES))
    pose = _poses(scalars, math.pi, (0.8, 2))
    angle, distance = scalars.between(-math.pi, math.pi), scalars.between(0.8, 1.2)
    center = torch.stack([distance * angle.cos(), distance * angle.sin()], 1)
    return _place(glyphs, pose, center, torch.zeros(len(glyphs)))


def _texture(noise: torch.Tensor) -> torch.Tensor:
    """Enlarge noise in [0, 1) to textures in [-0.5, 0.5), ``(N, C, 32, 32)``."""
    return interpolate(noise, SIZE, mode="bilinear", align_corners=False) - 0.5


def _render(labels: torch.Tensor, draws: _Draws) -> torch.Tensor:
    """Compose images of their random numbers, from the background to the noise of the camera."""
    scalars = _Scalars(draws.scalars)
    light = scalars.factor(0, 1)
    contrast = scalars.factor(*_CONTRAST) * torch.where(light < 0.5, 1, -1)
    textures = scalars.factor(0.1, 0.3) * _texture(draws.coarse) + scalars.factor(0, 0.3) * _texture(
        draws.fine
    )
    back, front = textures.chunk(2, 1)
    image = light + scalars.tint() + back
    image = image.lerp(scalars.factor(0, 1) + scalars.tint(), _stray(scalars))
    image = image.lerp(light + contrast + scalars.tint() + front / 2, _line(labels, scalars))
    image = image.lerp(scalars.factor(0, 1) + scalars.tint(), _stray(scalars) * scalars.factor(0, 0.6))
    blurred = avg_pool2d(pad(image, (1, 1, 1, 1), mode="replicate"), 3, 1)
    image = image.lerp(blurred, scalars.factor(0, 1))
    return (image + scalars.factor(0, _NOISE) * draws.noise).clamp(0, 1)


def glyph_images(seed: int, numbers: Sequence[int]) -> tuple[torch.Tensor, torch.Tensor]:
    """Return images by their numbers.

    Parameters
    ----------
    seed
        Seed of all images.
    numbers
        At least one number of an image, 0 or more. Image ``i`` shows the class ``i % 62``.

    Returns
    -------
    Images, ``(N, 3, 32, 32)`` with mean 0 and standard deviation 1 over all images, and labels, ``(N,)``.
    """
    labels = torch.tensor(numbers) % len(CLASSES)
    chunks = (slice(start, start + _CHUNK) for start in range(0, len(numbers), _CHUNK))
    images = [_render(labels[chunk], _draw(seed, numbers[chunk])) for chunk in chunks]
    return (torch.cat(images) - 0.5) / _DEVIATION, labels


class NewGlyphs(Dataset[tuple[torch.Tensor, torch.Tensor]]):
    """Images that are different ones whenever they are read.

    Item ``i`` shows the class ``i % 62``. For each of 2**31 seeds, the items are other images.

    Parameters
    ----------
    seed
        Seed of all images (see ``glyph_images``).
    first
        Smallest number of an image, a multiple of 62.
    count
        Number of items, a multiple of 62.
    """

    def __init__(self, seed: int, first: int, count: int) -> None:
        assert first % len(CLASSES) == count % len(CLASSES) == 0
        self._seed, self._first, self._count = seed, first, count

    def __len__(self) -> int:
        return self._count

    def __getitem__(self, index: int) -> tuple[torch.Tensor, torch.Tensor]:
        return self.with_seeds([(index, int(torch.randint(2**31, ())))])[0]

    def with_seeds(self, items: Sequence[tuple[int, int]]) -> list[tuple[torch.Tensor, torch.Tensor]]:
        """Return items by their index and seed, which is faster than to draw them one by one."""
        numbers = [self._first + index + self._count * seed for index, seed in items]
        return list(zip(*glyph_images(self._seed, numbers), strict=True))
