# SPDX-License-Identifier: Apache-2.0
"""A masked model against the model without the masked channels: latency in PyTorch by batch size.

    python benchmarks/mask_speedup.py

Half of the channels of each convolution of VGG-16 (32x32) are masked, by the l1 norm. A mask alone saves
nothing: the zeros are computed with.
"""

import argparse
import time

import torch

from common import SHAPE, median, print_machine, spread
from models import make_model
from tvm.contrib.cprune.nni.masks import apply_masks, speedup
from tvm.contrib.cprune.targets.target import host_threads

BATCHES, RUNS = (1, 2, 4, 8, 16, 32), 15


def l1_masks(model: torch.nn.Module, share: float) -> dict[str, dict[str, torch.Tensor]]:
    """Return masks for the channels of least l1 norm of each convolution."""
    masks = {}
    for name, module in model.named_modules():
        if isinstance(module, torch.nn.Conv2d):
            norms = module.weight.detach().abs().sum((1, 2, 3))
            drop = norms.argsort()[: round(share * len(norms))]
            masks[name] = {"weight": torch.ones_like(module.weight)}
            masks[name]["weight"][drop] = 0
    return masks


def timed(models: dict[str, torch.nn.Module], batch: int) -> dict[str, list[float]]:
    """Time models in turn: seconds of each run."""
    data, samples = torch.randn(batch, *SHAPE[1:]), {name: [] for name in models}
    with torch.no_grad():
        for _ in range(RUNS + 2):
            for name, model in models.items():
                started = time.perf_counter()
                model(data)
                samples[name].append(time.perf_counter() - started)
    return {name: times[2:] for name, times in samples.items()}


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
    print(f"{'batch':>5} {'masked ms':>16} {'shrunk ms':>16} {'times as fast':>14}")
    for batch in BATCHES:
        found = timed({"masked": model, "shrunk": small}, batch)
        cells = [f"{median(t) * 1e3:.2f} ± {spread(t) * 1e3:.2f}" for t in found.values()]
        ratio = median(found["masked"]) / median(found["shrunk"])
        print(f"{batch:5} {cells[0]:>16} {cells[1]:>16} {ratio:14.2f}", flush=True)


if __name__ == "__main__":
    main()
