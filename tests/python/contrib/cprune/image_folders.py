# SPDX-License-Identifier: Apache-2.0
"""Folders of photographs, in the format of ImageNet."""

from pathlib import Path

import numpy as np

CLASSES = ("n01440764", "n01443537")


def write_images(folder: Path, count: int, shape: tuple[int, int] = (300, 260)) -> None:
    """Write ``count`` photographs of noise for each of two classes; those of the second class are bright.

    Parameters
    ----------
    shape
        Rows and columns.
    """
    from PIL import Image

    generator = np.random.default_rng(0)
    for number, name in enumerate(CLASSES):
        (folder / name).mkdir(parents=True)
        for i in range(count):
            pixels = generator.integers(128 * number, 128 * (number + 1), (*shape, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(folder / name / f"{i}.JPEG")
