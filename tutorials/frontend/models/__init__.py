# SPDX-License-Identifier: Apache-2.0
"""The tutorial's networks, by name: small ones from here, all others from torchvision."""

from collections.abc import Callable

import torch

from models.lenet import LeNet
from models.mobilenet import MobileNetV1, MobileNetV2
from models.resnet import resnet8, resnet18
from models.vgg import vgg16
from tvm.contrib.cprune.models.torchvision_models import load_torchvision, torchvision_names
from tvm.contrib.cprune.types import CPruneError

# Each takes the number of input channels and of classes, and any input from 8x8 up (LeNet: from 16x16).
MODELS: dict[str, Callable[[int, int], torch.nn.Module]] = {
    "resnet8": resnet8,
    "resnet18": resnet18,
    "vgg16": vgg16,
    "mobilenetv1": MobileNetV1,
    "mobilenetv2": MobileNetV2,
    "lenet": LeNet,
}


def make_model(name: str, channels: int, classes: int) -> torch.nn.Module:
    """Return a new network.

    Raises
    ------
    CPruneError
        If the name is neither in ``MODELS`` nor one of torchvision's, or the network cannot take the input.
    """
    if name in MODELS:
        return MODELS[name](channels, classes)
    if name not in torchvision_names():
        known = ", ".join(MODELS)
        raise CPruneError(f"unknown model {name!r}; expected one of {known}, or a model of torchvision")
    if channels != 3:
        raise CPruneError(f"{name} takes images of 3 channels, this data set has {channels}")
    return load_torchvision(name, classes)
