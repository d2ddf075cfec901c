# SPDX-License-Identifier: Apache-2.0
"""Importance of channels: Torch-Pruning's scores under their usual names."""

from collections.abc import Iterable
from typing import Any

import torch
import torch_pruning as tp

from tvm.contrib.cprune.config import IMPORTANCES
from tvm.contrib.cprune.models.layers import PRUNABLE_LAYERS
from tvm.contrib.cprune.models.modes import evaluation_mode
from tvm.contrib.cprune.models.tracing import TORCH_ERRORS, summary
from tvm.contrib.cprune.types import CandidateError, CPruneError

Batch = tuple[torch.Tensor, torch.Tensor]


def _random(group: Any, seed: int) -> torch.Tensor:
    return torch.rand(len(group[0].idxs), generator=torch.Generator().manual_seed(seed))


def score(group: Any, importance: str, seed: int) -> torch.Tensor:
    """Return one score per channel of a full Torch-Pruning group; channels with low scores matter least.

    Parameters
    ----------
    importance
        One of ``IMPORTANCES``.
    seed
        Seed of the scores of "random".

    Raises
    ------
    CPruneError
        If the importance is unknown.
    CandidateError
        If the group has nothing to score: no batch norm with weights for "bn-scale", a layer without
        gradients for "taylor". Or if Torch-Pruning fails to score it.
    """
    if importance == "random":
        return _random(group, seed)
    # Scores are only compared within a group. Dividing them by their mean would make zeros NaN.
    scorers = {
        "l1": lambda: tp.importance.GroupMagnitudeImportance(p=1, normalizer=None),
        "l2": lambda: tp.importance.GroupMagnitudeImportance(p=2, normalizer=None),
        "fpgm": lambda: tp.importance.FPGMImportance(normalizer=None),
        "taylor": lambda: tp.importance.GroupTaylorImportance(normalizer=None),
        "bn-scale": lambda: tp.importance.BNScaleImportance(normalizer=None),
    }
    if importance not in scorers:
        raise CPruneError(f"unknown importance {importance!r}; expected one of {', '.join(IMPORTANCES)}")
    if importance == "taylor":
        _check_gradients(group)
    root = _name(group, group[0].dep.target.module)
    try:
        scores = scorers[importance]()(group)
    except TORCH_ERRORS as error:
        raise CandidateError(
            f"importance {importance!r} cannot score the channels of {root}: {summary(error)}"
        ) from error
    if scores is None:
        needed = "batch norm with weights" if importance == "bn-scale" else "layer with weights"
        raise CandidateError(
            f"importance {importance!r} cannot score the channels of {root}: its group has no {needed}"
        )
    if not bool(torch.isfinite(scores).all()):
        raise CandidateError(
            f"importance {importance!r} gives the channels of {root} scores that are not finite"
        )
    return scores.detach().cpu()


def _name(group: Any, module: torch.nn.Module) -> str:
    """Return the name of a layer of a group."""
    return next((name for name, m in group._DG.model.named_modules() if m is module), type(module).__name__)


def _check_gradients(group: Any) -> None:
    """Raise an error if a layer that the Taylor importance scores has no gradients."""
    for item in group:
        module = item.dep.target.module
        weight = getattr(module, "weight", None)
        scored = isinstance(module, (*PRUNABLE_LAYERS, torch.nn.LayerNorm))
        if scored and weight is not None and weight.grad is None:
            raise CandidateError(
                f"importance 'taylor' needs the gradients of {_name(group, module)}, which has none: "
                "the layer is frozen, or accumulate_gradients was not called"
            )


def accumulate_gradients(
    model: torch.nn.Module, batches: Iterable[Batch], criterion: torch.nn.Module, limit: int = 8
) -> None:
    """Sum the gradients of the loss over the first ``limit`` batches in ``parameter.grad``.

    The Taylor importance reads them there. They replace earlier ones. The model computes in evaluation mode.

    Raises
    ------
    CPruneError
        If every parameter of the model is frozen.
    """
    check_importance(model, "taylor")
    model.zero_grad()
    with evaluation_mode(model):
        for _, (inputs, targets) in zip(range(limit), batches, strict=False):
            criterion(model(inputs), targets).backward()


def check_importance(model: torch.nn.Module, importance: str) -> None:
    """Raise an error if an importance can score no channel of a model.

    Raises
    ------
    CPruneError
        If the importance is unknown, or "bn-scale" for a model without batch norms, or "taylor" for one whose
        parameters are all frozen.
    """
    if importance not in IMPORTANCES:
        raise CPruneError(f"unknown importance {importance!r}; expected one of {', '.join(IMPORTANCES)}")
    norms = [m for m in model.modules() if isinstance(m, torch.nn.modules.batchnorm._BatchNorm) and m.affine]
    if importance == "bn-scale" and not norms:
        raise CPruneError(
            "importance 'bn-scale' needs batch norms with weights, but the model has none; try 'l1'"
        )
    if importance == "taylor" and not any(parameter.requires_grad for parameter in model.parameters()):
        raise CPruneError("importance 'taylor' needs gradients, but every parameter of the model is frozen")
