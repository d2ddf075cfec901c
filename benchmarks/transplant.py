# SPDX-License-Identifier: Apache-2.0
"""What a transplanted program costs: latency at other widths over the share of the work, by kind of anchor.

    python benchmarks/transplant.py

A width fits where the fastest program keeps all its inner loops. Beside these stand widths that another one
of the programs that the search measured fits ("another fits"), and widths off every program's grid, where
tile factors had to change. What counts at a width is the best of its transplants, as in CPrune's loop. The
medians are those of the first row, or of the second where the fastest program fits none of the widths.
"""

import argparse
from collections.abc import Callable

import torch
from torch import nn

from common import CACHE, median, print_machine
from tvm.contrib.cprune.config import TuneConfig
from tvm.contrib.cprune.importers.from_torch import from_torch
from tvm.contrib.cprune.measuring.local_pool import LocalMeasurer
from tvm.contrib.cprune.measuring.records import RecordLog, to_input
from tvm.contrib.cprune.program_store import ALTERNATIVES
from tvm.contrib.cprune.targets.target import host_target, pinned_target
from tvm.contrib.cprune.tasks import extract_from_program
from tvm.contrib.cprune.tuning.ansor.search import search
from tvm.contrib.cprune.tuning.ansor.steps import channel_splits
from tvm.contrib.cprune.tuning.ansor.transplant import fits, transplant
from tvm.contrib.cprune.types import Task

TRIALS, ROUNDS, WIDTH = 32, 3, 256
# Widths that usual tile factors divide, and some that they do not.
WIDTHS, ODD_WIDTHS = (64, 96, 128, 160, 192, 224), (228, 252)


class Net(nn.Module):
    """One convolution and a rectifier, or one linear layer."""

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.layer = layer

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.relu(self.layer(x))


def conv(inputs: int, outputs: int, kernel: int, stride: int = 1, groups: int = 1) -> nn.Module:
    return Net(nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, groups=groups))


# Kind -> (network at a width, input shape at a width, algorithm, whether the width is the reduction's).
KINDS: dict[str, tuple[Callable[[int], nn.Module], Callable[[int], tuple[int, ...]], str, bool]] = {
    "direct 3x3": (lambda w: conv(128, w, 3), lambda w: (1, 128, 14, 14), "direct", False),
    "direct 3x3, reduction": (lambda w: conv(w, 128, 3), lambda w: (1, w, 14, 14), "direct", True),
    "winograd 3x3": (lambda w: conv(256, w, 3), lambda w: (1, 256, 8, 8), "winograd", False),
    "winograd 3x3, reduction": (lambda w: conv(w, 256, 3), lambda w: (1, w, 8, 8), "winograd", True),
    "1x1": (lambda w: conv(256, w, 1), lambda w: (1, 256, 28, 28), "direct", False),
    "strided 3x3": (lambda w: conv(128, w, 3, stride=2), lambda w: (1, 128, 28, 28), "direct", False),
    "grouped 3x3": (lambda w: conv(128, w, 3, groups=4), lambda w: (1, 128, 28, 28), "direct", False),
    "depthwise 3x3": (lambda w: conv(w, w, 3, groups=w), lambda w: (1, w, 56, 56), "direct", False),
    "dense": (lambda w: Net(nn.Linear(2048, 4 * w)), lambda w: (1, 2048), "direct", False),
}


def task_of(kind: str, width: int, target: object) -> Task:
    make, shape, algorithm, _ = KINDS[kind]
    relay_model = from_torch(make(width), shape(width))
    tasks = extract_from_program(relay_model.mod, None, target, {"layer": algorithm})
    return next(task for task in tasks if task.layers)


def measure(kind: str, config: TuneConfig, pool: LocalMeasurer) -> list[float]:
    """Print one kind's table, and return latency over proportional latency at every fitting width."""
    target = pinned_target(host_target())
    base = task_of(kind, WIDTH, target)
    log = RecordLog(CACHE / "transplant" / f"{kind.replace(' ', '-').replace(',', '')}.json")
    search([base], config, pool, log)
    side = 1 if KINDS[kind][3] else 0

    best = log.best(base.workload_key)
    assert best is not None
    ranked = sorted(
        (each for each in log.of(base.workload_key) if each.latency), key=lambda m: m.latency.median
    )
    inputs = {WIDTH: [to_input(best.line, base.tvm_task)]}
    rows: dict[str, list[int]] = {"fits": [], "another fits": [], "off the grid": []}
    for width in (*WIDTHS, *ODD_WIDTHS):
        task = task_of(kind, width, target)
        others = [each.line for each in ranked[1:] if fits(each.line, base, task)][:ALTERNATIVES]
        inputs[width] = transplant(best.line, base, task, 3)
        if fits(best.line, base, task):
            rows["fits"].append(width)
            continue
        inputs[width] += [each for line in others for each in transplant(line, base, task, 1)]
        rows["another fits" if others else "off the grid"].append(width)
    tiles = ", ".join(f"{s.stage} {list(s.lengths)}" for s in channel_splits(base, best.line)[side])
    samples: dict[int, list[list[float]]] = {width: [[] for _ in each] for width, each in inputs.items()}
    for _ in range(ROUNDS):
        for width, each in inputs.items():
            for index, result in enumerate(pool.measure(each)):
                if not result.error_no:
                    samples[width][index] += [float(cost) for cost in result.costs]
    latency = {width: min(median(each) for each in found if each) for width, found in samples.items()}
    base_latency = latency[WIDTH]
    print(f"{kind}: {base_latency * 1e6:.1f} us at {WIDTH}; {tiles or 'no split'}")
    ratios = {width: latency[width] / (base_latency * width / WIDTH) for width in latency}
    for name, widths in rows.items():
        cells = ", ".join(f"{w}: {latency[w] * 1e6:.1f} us ({ratios[w]:.2f})" for w in widths)
        print(f"  {name:12} {cells or '-'}", flush=True)
    return [ratios[width] for width in rows["fits"] or rows["another fits"]]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--kind", choices=KINDS, help="one kind alone")
    options = parser.parse_args()
    print_machine()
    print("# latency at a width (and over the base latency times width / base width)")
    config = TuneConfig(trials=TRIALS)
    medians = {}
    with LocalMeasurer(config) as pool:
        for kind in [options.kind] if options.kind else KINDS:
            found = measure(kind, config, pool)
            if found:
                medians[kind] = median(found)
            else:
                print(f"{kind}: its program fits none of these widths")
    for kind, value in medians.items():
        print(f"{kind:22} median at fitting widths {value:.3f}")
    if medians:
        print(f"{'all kinds':22} median of those {median(list(medians.values())):.3f} (asked: at most 1.10)")


if __name__ == "__main__":
    main()
