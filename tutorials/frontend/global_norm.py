# SPDX-License-Identifier: Apache-2.0
"""Batch normalization over the shares of all processes."""

from typing import Any

import torch
import torch.distributed as dist
from torch.nn.modules.batchnorm import _BatchNorm


def with_global_norms(model: torch.nn.Module, device: torch.device) -> torch.nn.Module:
    """Return a model whose batch normalization uses the statistics of the whole batch; its layers change.

    PyTorch's ``SyncBatchNorm`` runs on GPUs only.
    """
    if device.type != "cpu":
        return torch.nn.SyncBatchNorm.convert_sync_batchnorm(model)
    for module in model.modules():
        if isinstance(module, _BatchNorm):
            module.__class__ = _GlobalBatchNorm
    return model


class _GlobalBatchNorm(_BatchNorm):
    """Batch normalization of inputs ``(N, C, ...)`` whose mean and variance are those of all processes."""

    def _check_input_dim(self, _: torch.Tensor) -> None:
        """Accept every number of dimensions."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if not self.training:
            return super().forward(x)
        dims = [0, *range(2, x.dim())]
        values = x.float()

        def column(vector: torch.Tensor) -> torch.Tensor:
            return vector.reshape(-1, *[1] * (x.dim() - 2))

        count = _sum(torch.tensor(float(x.numel() // x.shape[1])))
        mean = _sum(values.sum(dims)) / count
        centered = values - column(mean)
        variance = _sum(centered.square().sum(dims)) / count
        self._track(mean.detach(), variance.detach() * count / (count - 1).clamp(min=1))
        result = centered * column(torch.rsqrt(variance + self.eps))
        if self.affine:
            result = result * column(self.weight) + column(self.bias)
        return result.to(x.dtype)

    def _track(self, mean: torch.Tensor, variance: torch.Tensor) -> None:
        """Update the running statistics; ``variance`` is the unbiased estimate."""
        if self.running_mean is None or self.running_var is None or self.num_batches_tracked is None:
            return
        self.num_batches_tracked.add_(1)
        factor = 1 / self.num_batches_tracked.item() if self.momentum is None else self.momentum
        self.running_mean.lerp_(mean, factor)
        self.running_var.lerp_(variance, factor)


class _Sum(torch.autograd.Function):
    """The sum of a tensor over all processes. Each gradient is the sum over all processes, too."""

    @staticmethod
    def forward(_: Any, tensor: torch.Tensor) -> torch.Tensor:
        total = tensor.clone()
        dist.all_reduce(total)
        return total

    @staticmethod
    def backward(_: Any, gradient: torch.Tensor) -> torch.Tensor:
        return _Sum.apply(gradient.contiguous())


def _sum(tensor: torch.Tensor) -> torch.Tensor:
    total: torch.Tensor = _Sum.apply(tensor)
    return total
