# SPDX-License-Identifier: Apache-2.0
"""Latency of transplanted programs, relative to a latency proportional to the width, for each kind of anchor.

    python benchmarks/transplant.py

Widths are listed in three rows: those that fit the fastest program; those that fit another program of the
search ("another fits"); and those that fit none, so that tile factors must change ("off the grid"). As in the
pruning loop, the fastest transplant counts at each width. The medians are taken over the first row, or over
the second if the first is empty.
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
from tvm.contrib.cprune.program_store import MAX_ALTERNATIVES
from tvm.contrib.cprune.targets.target import host_target, pinned_target
from tvm.contrib.cprune.tasks import extract_from_program
from tvm.contrib.cprune.tuning.ansor.search import search
from tvm.contrib.cprune.tuning.ansor.steps import channel_splits
from tvm.contrib.cprune.tuning.ansor.transplant import keeps_inner_loops, transplant
from tvm.contrib.cprune.types import Task

TRIALS, ROUNDS, WIDTH = 32, 3, 256
# Multiples of common tile factors, and widths that are not.
WIDTHS, ODD_WIDTHS = (64, 96, 128, 160, 192, 224), (228, 252)


class Net(nn.Module):
    """A convolution or a linear layer, followed by a ReLU."""

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.layer = layer

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.relu(self.layer(x))


def conv(inputs: int, outputs: int, kernel: int, stride: int = 1, groups: int = 1) -> nn.Module:
    return Net(nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, groups=groups))


# Anchor kind -> (network at a width, input shape at a width, algorithm, whether the input width varies).
KINDS: dict[str, tuple[Callable[[int], nn.Module], Callable[[int], tuple[int, ...]], str, bool]] = {
    "direct 3x3": (lambda w: conv(128, w, 3), lambda w: (1, 128, 14, 14), "direct", False),
    "direct 3x3, reduction": (lambda w: conv(w, 128, 3), lambda w: (1, w, 14, 14), "direct", True),
    "winograd 3x3": (lambda w: conv(256, w, 3), lambda w: (1, 256, 8, 8), "winograd-4", False),
    "winograd 3x3, reduction": (lambda w: conv(w, 256, 3), lambda w: (1, w, 8, 8), "winograd-4", True),
    "1x1": (lambda w: conv(256, w, 1), lambda w: (1, 256, 28, 28), "direct", False),
    "strided 3x3": (lambda w: conv(128, w, 3, stride=2), lambda w: (1, 128, 28, 28), "direct", False),
    "grouped 3x3": (lambda w: conv(128, w, 3, groups=4), lambda w: (1, 128, 28, 28), "direct", False),
    "depthwise 3x3": (lambda w: conv(w, w, 3, groups=w), lambda w: (1, w, 56, 56), "direct", False),
    "dense": (lambda w: Net(nn.Linear(2048, 4 * w)), lambda w: (1, 2048), "direct", False),
}


def task_of(kind: str, width: int, target: object) -> Task:
    """Return the task of a kind's layer at a width."""
    make, shape, algorithm, _ = KINDS[kind]
    relay_model = from_torch(make(width), shape(width))
    tasks = extract_from_program(relay_model.mod, None, target, {"layer": algorithm})
    return next(task for task in tasks if task.layers)


def measure(kind: str, config: TuneConfig, measurer: LocalMeasurer) -> list[float]:
    """Print the latencies of one kind.

    Returns
    -------
    Latency over proportional latency at each fitting width.
    """
    target = pinned_target(host_target())
    base = task_of(kind, WIDTH, target)
    log = RecordLog(CACHE / "transplant" / f"{kind.replace(' ', '-').replace(',', '')}.json")
    search([base], config, measurer, log)
    side = 1 if KINDS[kind][3] else 0

    best = log.best(base.workload_key)
    assert best is not None
    ranked = sorted(
        (record for record in log.of(base.workload_key) if record.latency), key=lambda r: r.latency.median
    )
    inputs = {WIDTH: [to_input(best.line, base.tvm_task)]}
    rows: dict[str, list[int]] = {"fits": [], "another fits": [], "off the grid": []}
    for width in (*WIDTHS, *ODD_WIDTHS):
        task = task_of(kind, width, target)
        others = [r.line for r in ranked[1:] if keeps_inner_loops(r.line, base, task)][:MAX_ALTERNATIVES]
        inputs[width] = transplant(best.line, base, task, 3)
        if keeps_inner_loops(best.line, base, task):
            rows["fits"].append(width)
            continue
        inputs[width] += [variant for line in others for variant in transplant(line, base, task, 1)]
        rows["another fits" if others else "off the grid"].append(width)
    tiles = ", ".join(f"{s.stage} {list(s.lengths)}" for s in channel_splits(base, best.line)[side])
    samples: dict[int, list[list[float]]] = {w: [[] for _ in variants] for w, variants in inputs.items()}
    for _ in range(ROUNDS):
        for width, variants in inputs.items():
            for index, result in enumerate(measurer.measure(variants)):
                if not result.error_no:
                    samples[width][index] += [float(cost) for cost in result.costs]
    latency = {w: min(median(costs) for costs in variants if costs) for w, variants in samples.items()}
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
    parser.add_argument("--kind", choices=KINDS, help="measure only this kind of anchor")
    options = parser.parse_args()
    print_machine()
    print("# latency at each width (and its ratio to the base latency times width / base width)")
    config = TuneConfig(trials=TRIALS)
    medians = {}
    with LocalMeasurer(config) as measurer:
        for kind in [options.kind] if options.kind else KINDS:
            ratios = measure(kind, config, measurer)
            if ratios:
                medians[kind] = median(ratios)
            else:
                print(f"{kind}: none of these widths fits a program")
    for kind, value in medians.items():
        print(f"{kind:22} median at fitting widths {value:.3f}")
    if medians:
        overall = median(list(medians.values()))
        print(f"{'all kinds':22} median of the medians {overall:.3f} (goal: at most 1.10)")


if __name__ == "__main__":
    main()
