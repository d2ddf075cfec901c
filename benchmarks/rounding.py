# SPDX-License-Identifier: Apache-2.0
"""Latency of models that were pruned without their compiler, before and after RoundChannels.

    python benchmarks/rounding.py                      # both networks, without a new search
    python benchmarks/rounding.py --fresh-trials 48    # with a search of 48 trials per task for each row,
                                                       # hours unless build/benchmarks has its records

ResNet-18 and MobileNetV2 for 32x32 images are tuned once. Then 10, 30 and 50 % of the channels of every layer
are pruned by l1 norm. The widths stay as the pruner makes them, multiples of eight included. "Before" runs
the tuned programs transplanted to these widths, "after" runs them at widths that are rounded up to fit.
"""

import argparse
import math
from pathlib import Path

import numpy as np
import torch

from common import CACHE, SHAPE, TRIALS, print_machine
from models import make_model
from tvm.contrib.cprune.compiler import Candidate, Compiler
from tvm.contrib.cprune.config import PruneConfig, TuneConfig
from tvm.contrib.cprune.loop.console import ConsoleReport
from tvm.contrib.cprune.measuring.timing import sample_input
from tvm.contrib.cprune.models.groups import find_groups
from tvm.contrib.cprune.models.importance import score
from tvm.contrib.cprune.models.surgery import shrink
from tvm.contrib.cprune.transform import RoundChannels
from tvm.contrib.cprune.types import ChannelStep, RelayModel

SPARSITIES, ROUNDS = (0.1, 0.3, 0.5), 3


def pruned(model: torch.nn.Module, sparsity: float) -> torch.nn.Module:
    """Return the model without the given fraction of each group's channels, those of the smallest l1 norm."""
    steps = []
    for group in find_groups(model, SHAPE).groups:
        width = max(group.round_to, round(group.width * (1 - sparsity) / group.round_to) * group.round_to)
        steps.append(ChannelStep(group, width, ""))
    return shrink(model, SHAPE, steps, lambda layer: score(layer, "l1", 0))


def searched(relay_model: RelayModel, trials: int, folder: Path) -> Path:
    """Return the library of a model tuned without donors, resuming from the records in ``folder``."""
    # Larger batches than the default: otherwise the evolutionary search takes longer than the measurements.
    tune = TuneConfig(trials=trials, early_stopping=trials, batch=16)
    config = PruneConfig(tune=tune, measure_repeats=60)
    with Compiler(config, SHAPE, folder, report=ConsoleReport()) as compiler:
        table = compiler.tuner.search(relay_model)
        return compiler.compile(relay_model, table, "fresh")[1]


def row(
    compiler: Compiler, base: Candidate, sparsity: float, max_growth: float, fresh_trials: int
) -> tuple[str, dict[str, float]]:
    """Return a line of the table, and the speedups over the unrounded model by name."""
    model = pruned(base.model, sparsity)
    before = compiler.import_model(model)
    rounding = RoundChannels(base.table, max_growth=max_growth)
    after = RelayModel(rounding(before.mod), before.input_shape, before.layers)
    libraries = {
        "before": compiler.compile(before, base.table, "before")[1],
        "after": compiler.compile(after, base.table, "after")[1],
    }
    data = sample_input(SHAPE)
    outputs = [compiler.measurer.run_model(library, data)[0] for library in libraries.values()]
    error = float(np.abs(outputs[0] - outputs[1]).max() / np.abs(outputs[0]).max())
    if fresh_trials:
        folder = compiler.run_dir / f"fresh-{fresh_trials}-{sparsity}"
        libraries["fresh"] = searched(before, fresh_trials, folder)
    times = compiler.time_libraries(libraries, ROUNDS)
    roundings = rounding.roundings
    changed = [change for change in roundings if change.changed]
    added = sum(change.new_width - change.width for change in changed) / sum(r.width for r in roundings)
    cells = [
        f"{times[name].median * 1e3:.3f} ± {times[name].spread * 1e3:.3f}" if name in times else "-"
        for name in ("before", "after", "fresh")
    ]
    ratios = {name: times["before"].median / time.median for name, time in times.items() if name != "before"}
    line = (
        f"{sparsity:8.1f} {len(changed):4}/{len(roundings):<4} {added:8.0%} "
        f"{cells[0]:>15} {cells[1]:>15} {cells[2]:>15} {ratios['after']:12.2f} {error:8.1e}"
    )
    return line, ratios


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--network", choices=("resnet18", "mobilenetv2"), help="run only this network")
    parser.add_argument(
        "--sparsity",
        type=float,
        nargs="+",
        default=SPARSITIES,
        help="fractions to prune (default: 0.1 0.3 0.5)",
    )
    parser.add_argument(
        "--fresh-trials",
        type=int,
        default=0,
        help="trials per task of a new search for each row, 0 for none (default: 0)",
    )
    parser.add_argument(
        "--max-growth",
        type=float,
        default=0.5,
        help="maximum fraction of a layer's channels to add (default: %(default)s)",
    )
    options = parser.parse_args()
    print_machine()
    speedups: dict[str, list[float]] = {}
    for network in [options.network] if options.network else ["resnet18", "mobilenetv2"]:
        torch.manual_seed(0)
        model = make_model(network, 3, 10).eval()
        config = PruneConfig(tune=TuneConfig(trials=TRIALS), measure_repeats=60)
        with Compiler(config, SHAPE, CACHE / network, report=ConsoleReport()) as compiler:
            base = compiler.tune(model)
            unpruned = compiler.time({"model": base})["model"]
            print(f"# {network}, {TRIALS} trials per task: {unpruned.median * 1e3:.3f} ms unpruned")
            head = f"{'sparsity':>8} {'rounded':>9} {'channels':>8} {'before ms':>15} {'after ms':>15} "
            print(head + f"{'fresh ms':>15} {'before/after':>12} {'error':>8}")
            for sparsity in options.sparsity:
                line, ratios = row(compiler, base, sparsity, options.max_growth, options.fresh_trials)
                for name, ratio in ratios.items():
                    speedups.setdefault(name, []).append(ratio)
                print(line, flush=True)
    for name, values in speedups.items():
        mean = math.exp(sum(math.log(value) for value in values) / len(values))
        print(f"before over {name}: geometric mean {mean:.3f}, minimum {min(values):.3f}")


if __name__ == "__main__":
    main()
