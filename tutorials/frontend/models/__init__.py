# SPDX-License-Identifier: Apache-2.0
"""Networks of the tutorial by name: small ones defined here, all others from torchvision."""

from collections.abc import Callable

import torch

from models.lenet import LeNet
from models.mobilenet import MobileNetV1, MobileNetV2
from models.resnet import resnet8, resnet18
from models.vgg import vgg16
from tvm.contrib.cprune.models.torchvision_models import load_torchvision, torchvision_names
from tvm.contrib.cprune.types import CPruneError

# Constructors take the numbers of input channels and classes. Inputs are at least 8x8 pixels (LeNet: 16x16).
MODELS: dict[str, Callable[[int, int], torch.nn.Module]] = {
    "resnet8": resnet8,
    "resnet18": resnet18,
    "vgg16": vgg16,
    "mobilenetv1": MobileNetV1,
    "mobilenetv2": MobileNetV2,
    "lenet": LeNet,
}


# Rows and columns from which a name stands for torchvision's network. Ours have no stride in their stem.
LARGE = 64
# torchvision's names of our networks, where they differ.
_TORCHVISION_NAMES = {"mobilenetv2": "mobilenet_v2"}
_SMALL, _TORCHVISION = "small/", "torchvision/"
# Largest learning rate of a training from random weights. Networks without shortcuts, whose names start with
# these words, need a lower one: VGG-16 does not learn at 0.02, and torchvision lowers the rate for both.
TRAIN_RATE, PLAIN_TRAIN_RATE, PLAIN = 0.05, 0.01, ("vgg", "alexnet")


def full_name(name: str, size: int) -> str:
    """Return the name of a network with its prefix: "small/" for ours, "torchvision/" for torchvision's.

    Parameters
    ----------
    name
        A key of ``MODELS``, or the name of a torchvision classification model, with or without a prefix.
    size
        Rows and columns of the images. Without a prefix, a name that both have means our network below
        ``LARGE``, and otherwise torchvision's.

    Raises
    ------
    CPruneError
        If the name is unknown.
    """
    prefix, separator, plain = name.rpartition("/")
    other = _TORCHVISION_NAMES.get(plain, plain)
    small = plain in MODELS and prefix + separator in ("", _SMALL)
    large = other in torchvision_names() and prefix + separator in ("", _TORCHVISION)
    if not (small or large):
        raise CPruneError(
            f"unknown model {name!r}; expected one of {', '.join(MODELS)}, or a torchvision model "
            f"(prefix: {_SMALL} or {_TORCHVISION})"
        )
    return _TORCHVISION + other if large and (size >= LARGE or not small) else _SMALL + plain


def train_rate(name: str) -> float:
    """Return the largest learning rate of a network's training from random weights."""
    return PLAIN_TRAIN_RATE if name.rpartition("/")[2].startswith(PLAIN) else TRAIN_RATE


def make_model(
    name: str, channels: int, classes: int, size: int = 32, weights: str | None = None
) -> torch.nn.Module:
    """Return a network.

    Parameters
    ----------
    name, size
        See ``full_name``.
    channels
        Number of input channels; torchvision models require 3.
    weights
        Name of torchvision's weights; None means random weights.

    Raises
    ------
    CPruneError
        If the name or the weights are unknown, or the model does not support this number of channels.
    """
    full = full_name(name, size)
    if full.startswith(_SMALL):
        if weights is not None:
            raise CPruneError(f"{full} has no weights {weights!r}: expected a network of torchvision")
        return MODELS[full.removeprefix(_SMALL)](channels, classes)
    if channels != 3:
        raise CPruneError(f"{full} requires images with 3 channels, but this data set has {channels}")
    return load_torchvision(full.removeprefix(_TORCHVISION), classes, weights)
