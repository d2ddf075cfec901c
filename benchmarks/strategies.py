# SPDX-License-Identifier: Apache-2.0
"""Latency of two-layer networks tuned by each of AutoTVM's tuners, compared with TVM's untuned schedules.

    python benchmarks/strategies.py --trials 48

An untuned schedule splits the rows of an image by a divisor of their length. 28 has suitable divisors; 73 and
71, as in two layers of Inception v3's stem, have none.
"""

import argparse
from pathlib import Path

import torch
from torch import nn

from common import CACHE, print_machine
from tvm.contrib.cprune.compiler import Compiler
from tvm.contrib.cprune.config import STRATEGIES, PruneConfig, Strategy, TuneConfig
from tvm.contrib.cprune.loop.console import ConsoleReport
from tvm.contrib.cprune.types import Latency
from untrained import build_untuned

ROUNDS = 5
# Input shape and the convolutions' (inputs, outputs, kernel, padding).
NETWORKS = {
    "28x28": ((1, 32, 28, 28), ((32, 64, 3, 1), (64, 128, 3, 1))),
    "inception": ((1, 64, 73, 73), ((64, 80, 1, 0), (80, 192, 3, 0))),
}


def two_layers(convolutions: tuple[tuple[int, int, int, int], ...]) -> nn.Module:
    torch.manual_seed(0)
    layers = [(nn.Conv2d(i, o, kernel, padding=padding), nn.ReLU()) for i, o, kernel, padding in convolutions]
    return nn.Sequential(*(module for pair in layers for module in pair)).eval()


def compare(network: str, trials: int) -> dict[str, Latency]:
    """Return the latency of a network tuned with each strategy, and untuned."""
    (shape, convolutions), folder = NETWORKS[network], CACHE / "strategies" / network
    model = two_layers(convolutions)
    libraries: dict[str, Path] = {}

    def compiler_of(strategy: Strategy) -> Compiler:
        tune = TuneConfig(tuner="autotvm", strategy=strategy, trials=trials, early_stopping=trials)
        config = PruneConfig(tune=tune, measure_repeats=60)
        return Compiler(config, shape, folder / f"{strategy}-{trials}", report=ConsoleReport())

    for strategy in STRATEGIES:
        with compiler_of(strategy) as compiler:
            libraries[strategy] = compiler.tune(model).library
    with compiler_of(STRATEGIES[0]) as compiler:
        libraries["untuned"] = build_untuned(model, shape, folder / "untuned.so")
        return compiler.time_libraries(libraries, ROUNDS)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--trials", type=int, default=48, help="trials per task (%(default)s)")
    trials = parser.parse_args().trials
    print_machine()
    for network in NETWORKS:
        times = compare(network, trials)
        print(f"# {network}: two convolutions, {trials} trials per task")
        for name, latency in sorted(times.items(), key=lambda item: item[1].median):
            ratio = times["untuned"].median / latency.median
            cells = f"{latency.median * 1e3:.3f} ± {latency.spread * 1e3:.3f} ms, {ratio:.2f} times as fast"
            print(f"{name:10} {cells}")


if __name__ == "__main__":
    main()
