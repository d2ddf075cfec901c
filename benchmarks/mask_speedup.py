# SPDX-License-Identifier: Apache-2.0
"""Compare the PyTorch latency of a masked model and of the model without the masked channels, by batch size.

    python benchmarks/mask_speedup.py

In VGG-16 (32x32), half of the channels of every convolution are masked, those with the smallest l1 norms. A
mask alone saves no time, because the zeros are still computed.
"""

import argparse
import time

import torch

from common import SHAPE, median, print_machine, spread
from models import make_model
from tvm.contrib.cprune.nni.masks import apply_masks, speedup
from tvm.contrib.cprune.targets.target import host_threads

BATCHES, RUNS = (1, 2, 4, 8, 16, 32), 15


def l1_masks(model: torch.nn.Module, sparsity: float) -> dict[str, dict[str, torch.Tensor]]:
    """Mask the fraction ``sparsity`` of each convolution's channels, those with the smallest l1 norms."""
    masks = {}
    for name, module in model.named_modules():
        if isinstance(module, torch.nn.Conv2d):
            norms = module.weight.detach().abs().sum((1, 2, 3))
            drop = norms.argsort()[: round(sparsity * len(norms))]
            masks[name] = {"weight": torch.ones_like(module.weight)}
            masks[name]["weight"][drop] = 0
    return masks


def measure(models: dict[str, torch.nn.Module], batch: int) -> dict[str, list[float]]:
    """Return the seconds of ``RUNS`` runs of each model. The models take turns; two runs warm up."""
    inputs = torch.randn(batch, *SHAPE[1:])
    seconds: dict[str, list[float]] = {name: [] for name in models}
    with torch.no_grad():
        for _ in range(RUNS + 2):
            for name, model in models.items():
                started = time.perf_counter()
                model(inputs)
                seconds[name].append(time.perf_counter() - started)
    return {name: times[2:] for name, times in seconds.items()}


def main() -> None:
    argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    ).parse_args()
    print_machine()
    torch.manual_seed(0)
    torch.set_num_threads(host_threads())
    model = make_model("vgg16", 3, 10).eval()
    masks = l1_masks(model, 0.5)
    apply_masks(model, masks)
    small = speedup(model, masks, torch.zeros(SHAPE)).eval()
    print(f"{'batch':>5} {'masked [ms]':>16} {'pruned [ms]':>16} {'speedup':>8}")
    for batch in BATCHES:
        seconds = measure({"masked": model, "pruned": small}, batch)
        cells = [f"{median(t) * 1e3:.2f} ± {spread(t) * 1e3:.2f}" for t in seconds.values()]
        ratio = median(seconds["masked"]) / median(seconds["pruned"])
        print(f"{batch:5} {cells[0]:>16} {cells[1]:>16} {ratio:8.2f}", flush=True)


if __name__ == "__main__":
    main()
