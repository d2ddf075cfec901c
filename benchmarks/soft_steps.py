# SPDX-License-Identifier: Apache-2.0
"""Steps that fail softly, against steps that exclude channels at once: latency, iterations and seconds.

    python benchmarks/soft_steps.py
    python benchmarks/soft_steps.py --network mobilenetv2 --dataset digits --accuracy 0.97 --epochs 12

A network is trained and tuned once, and pruned twice at the same accuracy requirement: with the defaults, and
with all rules for soft steps turned off. Both start with the same programs, so their first step is the same.
The latencies of the two pruned networks are measured in turn. Each run is a run of
tutorials/frontend/main.py, in a folder of its own in build/benchmarks/soft_steps; an interrupted benchmark
continues there.
"""

import argparse
import json
from pathlib import Path
from typing import Any

from common import CACHE, median, print_machine, spread
from peers import OURS, Peer, take_turns
from tutorial_runs import add_options, run_tutorial, trained_weights
from tvm.contrib.cprune.measuring.timing import sample_input

RULES = {
    "soft": [],
    "hard": ["--no-retry-smaller", "--no-partial-fit", "--no-larger-steps"],
}
COLUMNS = (
    "steps",
    "latency, ms",
    "speedup",
    "validation accuracy",
    "test accuracy",
    "M multiply-accumulates",
    "accepted",
    "seconds pruning",
    "trials",
)
ROUNDS, RUNS = 20, 20


def time_in_turn(folder: Path, runs: list[str], threads: int) -> dict[str, list[float]]:
    """Return the seconds of runs of the pruned networks, which take turns."""
    shape = tuple(json.loads((folder / runs[0] / "config.json").read_text())["input_shape"])
    peers = [Peer(OURS, folder / run, sample_input(shape), threads) for run in runs]
    try:
        return dict(zip(runs, take_turns(peers, ROUNDS, RUNS), strict=True))
    finally:
        for peer in peers:
            peer.close()


def print_row(name: str, result: dict[str, Any], samples: list[float]) -> None:
    """Print what a run reached, and what it cost."""
    pruned = result["pruned"]
    print(
        f"| {name} | {median(samples) * 1e3:.3f} ± {spread(samples) * 1e3:.3f} | {result['speedup']:.2f} "
        f"| {pruned['accuracy_val']:.4f} | {pruned['accuracy_test']:.4f} | {pruned['macs'] / 1e6:.1f} "
        f"| {result['accepted']} of {len(result['iterations'])} | {result['seconds']['pruning']:.0f} "
        f"| {sum(result['trials']['pruning_and_final_tuning'].values())} |",
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
    limits = ("--accuracy-requirement", str(args.accuracy), "--max-seconds", "0", "--final-trials", "0")

    results = {
        name: run_tutorial(args.network, args, [*limits, *rules], weights, folder / name)
        for name, rules in RULES.items()
    }
    samples = time_in_turn(folder, list(RULES), args.threads)
    print(f"| {' | '.join(COLUMNS)} |\n|{'---|' * len(COLUMNS)}")
    for name, result in results.items():
        print_row(name, result, samples[name])
    soft, hard = (median(samples[name]) for name in RULES)
    print(f"\nsoft steps: {soft / hard:.3f} of the latency with hard steps")


if __name__ == "__main__":
    main()
