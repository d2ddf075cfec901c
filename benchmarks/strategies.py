# SPDX-License-Identifier: Apache-2.0
"""What each of AutoTVM's tuners finds for a network of two layers, beside the schedules without any tuning.

python benchmarks/strategies.py --trials 48
"""

import argparse
from pathlib import Path

import torch
from torch import nn

from common import CACHE, print_machine
from tvm import relay
from tvm.contrib.cprune.candidate import Compiler
from tvm.contrib.cprune.config import STRATEGIES, PruneConfig, TuneConfig
from tvm.contrib.cprune.extract import pass_context
from tvm.contrib.cprune.report import ConsoleReport

SHAPE, ROUNDS = (1, 32, 28, 28), 5


def two_layers() -> nn.Module:
    torch.manual_seed(0)
    layers = [nn.Conv2d(32, 64, 3, padding=1), nn.ReLU(), nn.Conv2d(64, 128, 3, padding=1), nn.ReLU()]
    return nn.Sequential(*layers).eval()


def untuned(compiler: Compiler, model: nn.Module, path: Path) -> Path:
    """Return the model's library with the schedules that TVM falls back on."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with pass_context("autotvm", alter_layouts=True):
        library = relay.build(compiler.import_model(model).mod, compiler.target)
    compiler.preset.link(library, path)
    return path


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--trials", type=int, default=48, help="programs a task (%(default)s)")
    trials = parser.parse_args().trials
    print_machine()
    model, libraries = two_layers(), {}
    for strategy in STRATEGIES:
        tune = TuneConfig(tuner="autotvm", strategy=strategy, trials=trials, early_stopping=trials)  # type: ignore[arg-type]
        folder = CACHE / "strategies" / f"{strategy}-{trials}"
        config = PruneConfig(tune=tune, measure_repeats=60)
        with Compiler(config, SHAPE, folder, report=ConsoleReport()) as compiler:
            libraries[strategy] = compiler.tune(model).library
            libraries["fallback"] = untuned(compiler, model, CACHE / "strategies" / "fallback.so")
            if strategy == STRATEGIES[-1]:
                times = compiler.time_libraries(libraries, ROUNDS)
    print(f"# two convolutions, {trials} trials a task")
    for name, latency in sorted(times.items(), key=lambda each: each[1].median):
        ratio = times["fallback"].median / latency.median
        print(
            f"{name:10} {latency.median * 1e3:.3f} ± {latency.spread * 1e3:.3f} ms, {ratio:.2f} times as fast"
        )


if __name__ == "__main__":
    main()
