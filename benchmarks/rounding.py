# SPDX-License-Identifier: Apache-2.0
"""Models pruned without their compiler, before and after RoundChannels, and searched anew.

    python benchmarks/rounding.py                      # both networks, without a new search
    python benchmarks/rounding.py --fresh-trials 48    # beside one of 48 trials a task in each row: hours,
                                                       # unless its records are in build/benchmarks already

ResNet-18 and MobileNetV2 for 32x32 images are tuned once. Then every layer loses 10, 30 and 50 % of its
channels by plain l1, to whatever widths these are, and the tuned programs are moved there: "before". "After"
has those channels rounded up to widths that fit the programs.
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
    """Return the model without a share of each group's channels, those of the least l1 norm."""
    steps = []
    for group in find_groups(model, SHAPE).groups:
        width = max(group.round_to, round(group.width * (1 - sparsity) / group.round_to) * group.round_to)
        # One less where that happens to be a multiple of eight: nobody who prunes by l1 alone looks at it.
        width -= group.round_to if width % 8 == 0 and width > group.round_to else 0
        steps.append(ChannelStep(group, width, ""))
    return shrink(model, SHAPE, steps, lambda each: score(each, "l1", 0))


def searched(relay_model: RelayModel, trials: int, folder: Path) -> Path:
    """Return the library of a model that was searched for from nothing, or from its own records so far."""
    # Larger batches than usual: rounds of evolution would take longer than the programs.
    tune = TuneConfig(trials=trials, early_stopping=trials, batch=16)
    config = PruneConfig(tune=tune, measure_repeats=60)
    with Compiler(config, SHAPE, folder, report=ConsoleReport()) as compiler:
        table = compiler.tuner.search(relay_model)
        return compiler.compile(relay_model, table, "fresh")[1]


def row(
    compiler: Compiler, base: Candidate, sparsity: float, max_growth: float, fresh_trials: int
) -> tuple[str, dict[str, float]]:
    """Return a line of the table, and how many times faster than unrounded the others are."""
    model = pruned(base.model, sparsity)
    before = compiler.import_model(model)
    rounding = RoundChannels(base.table, max_growth=max_growth)
    after = RelayModel(rounding(before.mod), before.input_shape, before.layers)
    libraries = {
        "before": compiler.compile(before, base.table, "before")[1],
        "after": compiler.compile(after, base.table, "after")[1],
    }
    data = sample_input(SHAPE)
    found = [compiler.measurer.run_model(each, data) for each in libraries.values()]
    error = float(np.abs(found[0] - found[1]).max() / np.abs(found[0]).max())
    if fresh_trials:
        folder = compiler.run_dir / f"fresh-{fresh_trials}-{sparsity}"
        libraries["fresh"] = searched(before, fresh_trials, folder)
    times = compiler.time_libraries(libraries, ROUNDS)
    changed = [each for each in rounding.roundings if each.changed]
    added = sum(each.new_width - each.width for each in changed) / sum(e.width for e in rounding.roundings)
    cells = [
        f"{times[name].median * 1e3:.3f} ± {times[name].spread * 1e3:.3f}" if name in times else "-"
        for name in ("before", "after", "fresh")
    ]
    ratios = {name: times["before"].median / each.median for name, each in times.items() if name != "before"}
    line = (
        f"{sparsity:8.1f} {len(changed):4}/{len(rounding.roundings):<4} {added:8.0%} "
        f"{cells[0]:>15} {cells[1]:>15} {cells[2]:>15} {ratios['after']:12.2f} {error:8.1e}"
    )
    return line, ratios


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--network", choices=("resnet18", "mobilenetv2"), help="one network alone")
    parser.add_argument(
        "--sparsity", type=float, nargs="+", default=SPARSITIES, help="shares to drop (0.1 0.3 0.5)"
    )
    parser.add_argument("--fresh-trials", type=int, default=0, help="of a search for each row; 0: none")
    parser.add_argument("--max-growth", type=float, default=0.5, help="of a layer (%(default)s)")
    options = parser.parse_args()
    print_machine()
    every: dict[str, list[float]] = {}
    for network in [options.network] if options.network else ["resnet18", "mobilenetv2"]:
        torch.manual_seed(0)
        model = make_model(network, 3, 10).eval()
        config = PruneConfig(tune=TuneConfig(trials=TRIALS), measure_repeats=60)
        with Compiler(config, SHAPE, CACHE / network, report=ConsoleReport()) as compiler:
            base = compiler.tune(model)
            unpruned = compiler.time({"model": base})["model"]
            print(f"# {network}, {TRIALS} trials a task: {unpruned.median * 1e3:.3f} ms unpruned")
            head = f"{'sparsity':>8} {'rounded':>9} {'channels':>8} {'before ms':>15} {'after ms':>15} "
            print(head + f"{'fresh ms':>15} {'before/after':>12} {'error':>8}")
            for sparsity in options.sparsity:
                line, ratios = row(compiler, base, sparsity, options.max_growth, options.fresh_trials)
                for name, ratio in ratios.items():
                    every.setdefault(name, []).append(ratio)
                print(line, flush=True)
    for name, all_ratios in every.items():
        mean = math.exp(sum(math.log(ratio) for ratio in all_ratios) / len(all_ratios))
        print(f"before over {name}: geometric mean {mean:.3f}, least {min(all_ratios):.3f}")


if __name__ == "__main__":
    main()
