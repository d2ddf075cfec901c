# SPDX-License-Identifier: Apache-2.0
"""Steps that fail softly, against steps that exclude channels at once: latency, iterations and seconds.

    python benchmarks/soft_steps.py
    python benchmarks/soft_steps.py --network mobilenetv2 --dataset digits --accuracy 0.97 --epochs 12

A network is trained once and pruned twice at the same accuracy requirement: with the defaults, and with all
rules for soft steps turned off. The second run starts with the programs that the first one found. Each run is
a run of tutorials/frontend/main.py, in a folder of its own in build/benchmarks/soft_steps; an interrupted
benchmark continues there.
"""

import argparse
from typing import Any

from common import CACHE, print_machine
from tutorial_runs import add_options, run_tutorial, trained_weights

RULES = {
    "soft": [],
    "hard": ["--no-retry-smaller", "--no-partial-fit", "--no-larger-steps"],
}


def print_row(name: str, result: dict[str, Any]) -> None:
    """Print what a run reached, and what it cost."""
    pruned, seconds = result["pruned"], result["seconds"]
    latency = pruned["latency_ms"]
    print(
        f"| {name} | {latency['median']:.3f} ± {latency['spread']:.3f} | {result['speedup']:.2f} "
        f"| {pruned['accuracy_val']:.4f} | {pruned['accuracy_test']:.4f} | {pruned['macs'] / 1e6:.1f} "
        f"| {result['accepted']} of {len(result['iterations'])} | {seconds.get('pruning', 0):.0f} "
        f"| {sum(seconds.values()):.0f} |",
        flush=True,
    )


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--network", default="resnet18", help="default: %(default)s")
    parser.add_argument("--accuracy", type=float, default=0.9, help="requirement (default: %(default)s)")
    add_options(parser)
    args = parser.parse_args()
    print_machine()
    folder = CACHE / "soft_steps" / f"{args.network.replace('/', '-')}-{args.dataset}"
    weights = trained_weights(args.network, args, folder)
    columns = (
        "steps",
        "latency, ms",
        "speedup",
        "validation accuracy",
        "test accuracy",
        "M multiply-accumulates",
        "accepted",
        "seconds pruning",
        "seconds in total",
    )
    limits = ("--accuracy-requirement", str(args.accuracy), "--max-seconds", "0", "--final-trials", "0")
    results = {
        name: run_tutorial(args.network, args, [*limits, *rules], weights, folder / name, folder / "programs")
        for name, rules in RULES.items()
    }
    print(f"| {' | '.join(columns)} |\n|{'---|' * len(columns)}")
    for name, result in results.items():
        print_row(name, result)


if __name__ == "__main__":
    main()
