# SPDX-License-Identifier: Apache-2.0
"""Importance of channels: Torch-Pruning's scores under their usual names."""

from collections.abc import Iterable
from typing import Any

import torch
import torch_pruning as tp

from tvm.contrib.cprune.config import IMPORTANCES
from tvm.contrib.cprune.types import CPruneError

Batch = tuple[torch.Tensor, torch.Tensor]


def _random(group: Any, seed: int) -> torch.Tensor:
    return torch.rand(len(group[0].idxs), generator=torch.Generator().manual_seed(seed))


def score(group: Any, importance: str, seed: int) -> torch.Tensor:
    """Return one score per channel of a full Torch-Pruning group; channels with low scores matter least.

    Parameters
    ----------
    importance
        One of ``IMPORTANCES``. A group without the layers that it reads (batch norms for "bn-scale") is
        scored by "l1".
    seed
        Seed of the scores of "random".

    Raises
    ------
    CPruneError
        If the importance is unknown.
    """
    if importance == "random":
        return _random(group, seed)
    scorers = {
        "l1": lambda: tp.importance.GroupMagnitudeImportance(p=1),
        "l2": lambda: tp.importance.GroupMagnitudeImportance(p=2),
        "fpgm": lambda: tp.importance.FPGMImportance(),
        "taylor": lambda: tp.importance.GroupTaylorImportance(),
        "bn-scale": lambda: tp.importance.BNScaleImportance(),
    }
    if importance not in scorers:
        raise CPruneError(f"unknown importance {importance!r}; expected one of {', '.join(IMPORTANCES)}")
    scores = scorers[importance]()(group)
    if scores is None:
        scores = tp.importance.GroupMagnitudeImportance(p=1)(group)
    return scores.detach().cpu()


def accumulate_gradients(
    model: torch.nn.Module, batches: Iterable[Batch], criterion: torch.nn.Module, limit: int = 8
) -> None:
    """Sum the gradients of the loss over the first ``limit`` batches in ``parameter.grad``.

    The Taylor importance reads them there.
    """
    model.zero_grad()
    model.eval()
    for _, (inputs, targets) in zip(range(limit), batches, strict=False):
        criterion(model(inputs), targets).backward()
