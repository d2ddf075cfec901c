# SPDX-License-Identifier: Apache-2.0
"""The channels of a pixel side by side in memory, which makes PyTorch's convolutions faster."""

import torch

# On others, such as MPS, PyTorch's gradients of batch norms do not support this format.
DEVICES = ("cpu", "cuda")


def prepare_model(model: torch.nn.Module, device: torch.device) -> torch.nn.Module:
    """Store a model's weights with their channels last, in place, and return the model.

    Parameters
    ----------
    device
        Where the model will run. On some kinds of devices, the weights stay as they are.
    """
    if device.type not in DEVICES:
        return model
    prepared: torch.nn.Module = model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    return prepared


def prepare_images(images: torch.Tensor) -> torch.Tensor:
    """Return images in the format of a prepared model; inputs of other ranks are returned as they are."""
    if images.ndim != 4 or images.device.type not in DEVICES:
        return images
    return images.contiguous(memory_format=torch.channels_last)
