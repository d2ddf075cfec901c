# SPDX-License-Identifier: Apache-2.0
"""The loss of a training, optionally with distillation (Hinton et al. 2015, https://arxiv.org/abs/1503.02531)."""

import torch
from torch.nn.functional import cross_entropy, kl_div, log_softmax

# Softens the outputs that a distillation compares.
TEMPERATURE = 4.0


def loss_of(
    outputs: torch.Tensor, labels: torch.Tensor, teacher: torch.Tensor | None = None, distill: float = 0.0
) -> torch.Tensor:
    """Return the sum over images of ``(1 - distill) * cross entropy + distill * T^2 * KL(teacher, outputs)``.

    The Kullback-Leibler divergence compares the softmax of both outputs divided by ``TEMPERATURE``, T. The
    factor T^2 keeps its gradients as large as those of the cross entropy (Hinton et al. 2015, section 2).

    Parameters
    ----------
    outputs, teacher
        Logits of the network and of its teacher, ``(N, classes)``.
    """
    loss = cross_entropy(outputs, labels, reduction="sum")
    if teacher is None:
        return loss
    soft, expected = (log_softmax(logits / TEMPERATURE, 1) for logits in (outputs, teacher))
    divergence = kl_div(soft, expected, reduction="sum", log_target=True)
    return (1 - distill) * loss + distill * TEMPERATURE**2 * divergence
