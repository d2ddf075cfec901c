# SPDX-License-Identifier: Apache-2.0
"""The channels of a pixel side by side in memory, which makes PyTorch's convolutions faster."""

import torch


def prepare_model(model: torch.nn.Module) -> torch.nn.Module:
    """Store a model's weights with their channels last, in place, and return the model."""
    prepared: torch.nn.Module = model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    return prepared


def prepare_images(images: torch.Tensor) -> torch.Tensor:
    """Return images with their channels last; inputs of other ranks are returned as they are."""
    return images.contiguous(memory_format=torch.channels_last) if images.ndim == 4 else images
