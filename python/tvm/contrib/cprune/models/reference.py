# SPDX-License-Identifier: Apache-2.0
"""Reference outputs of PyTorch models, and the inputs they are compared on."""

from collections.abc import Callable
from typing import Any

import numpy as np
import torch

from tvm.contrib.cprune.models.modes import evaluation_mode
from tvm.contrib.cprune.numerics import Array, OutputError, compare_outputs


def torch_outputs(model: torch.nn.Module, data: Array) -> list[Array]:
    """Return all outputs of a model in evaluation mode, nested ones flattened.

    Parameters
    ----------
    data
        One batch, ``(N, C, H, W)``.
    """
    device = next((p.device for p in model.parameters()), torch.device("cpu"))
    with evaluation_mode(model), torch.no_grad():
        outputs = model(torch.from_numpy(np.ascontiguousarray(data)).to(device))
    return [tensor.cpu().numpy() for tensor in _flatten(outputs)]


def _flatten(outputs: Any) -> list[torch.Tensor]:
    if isinstance(outputs, torch.Tensor):
        return [outputs]
    return [tensor for output in outputs for tensor in _flatten(output)]


def check_batches(shape: tuple[int, ...], samples: Array | None, seed: int = 0) -> list[Array]:
    """Return the batches that outputs are compared on: real samples, if there are any, and random ones.

    Parameters
    ----------
    shape
        Shape of one batch.
    samples
        Real inputs, ``(M, C, H, W)``. They are repeated to fill the last batch.

    Returns
    -------
    batches
        At least one batch of shape ``shape``.
    """
    batches = []
    if samples is not None and len(samples):
        count = -(-len(samples) // shape[0])
        filled = np.resize(samples, (count * shape[0], *samples.shape[1:]))
        batches = [filled[i : i + shape[0]].astype("float32") for i in range(0, len(filled), shape[0])]
    batches.append(np.random.default_rng(seed).standard_normal(shape).astype("float32"))
    return batches


def compare_with_torch(
    model: torch.nn.Module,
    execute: Callable[[Array], list[Array]],
    batches: list[Array],
    tolerance: float,
    what: str,
) -> OutputError:
    """Compare all outputs of a compiled or exported model with PyTorch's.

    Parameters
    ----------
    execute
        Runs the other model on one batch, and returns its outputs.
    batches
        Inputs; see ``check_batches``.
    tolerance, what
        See ``compare_outputs``.

    Raises
    ------
    CPruneError
        If the number or the shapes of the outputs differ, an output is not finite, or the error exceeds
        ``tolerance``.
    """
    error = OutputError()
    for data in batches:
        error = error.joined(compare_outputs(execute(data), torch_outputs(model, data), tolerance, what))
    return error
