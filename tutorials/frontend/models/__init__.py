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


def make_model(name: str, channels: int, classes: int) -> torch.nn.Module:
    """Return a network with random weights.

    Parameters
    ----------
    name
        A key of ``MODELS``, or the name of a torchvision classification model.
    channels
        Number of input channels; torchvision models require 3.

    Raises
    ------
    CPruneError
        If the name is unknown, or the model does not support this number of channels.
    """
    if name in MODELS:
        return MODELS[name](channels, classes)
    if name not in torchvision_names():
        raise CPruneError(
            f"unknown model {name!r}; expected one of {', '.join(MODELS)}, or a torchvision model"
        )
    if channels != 3:
        raise CPruneError(f"{name} requires images with 3 channels, but this data set has {channels}")
    return load_torchvision(name, classes)
