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
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import torch

from common import CACHE, ROOT, print_machine
from compute import ComputeSettings
from data import load_data
from models import make_model
from train import Recipe, train
from training import START_LEARNING_RATE

RULES = {
    "soft": [],
    "hard": ["--no-retry-smaller", "--no-partial-fit", "--no-larger-steps"],
}


def trained_weights(args: argparse.Namespace, folder: Path) -> Path:
    """Train the network, unless an earlier run did, and return the file of its weights."""
    file = folder / "weights.pt"
    if not file.exists():
        folder.mkdir(parents=True, exist_ok=True)
        torch.manual_seed(0)
        splits = load_data(args.dataset, Path("data"), 64, 256, 0)
        model = make_model(args.network, splits.shape[0], len(splits.classes), splits.shape[-1])
        compute = ComputeSettings(precision=args.precision)
        train(model, splits.train, Recipe(args.epochs, START_LEARNING_RATE, anneal=True), compute=compute)
        torch.save(model.state_dict(), file)
    return file


def prune(name: str, args: argparse.Namespace, weights: Path, folder: Path) -> dict[str, Any]:
    """Run the tutorial with one set of rules, and return its result."""
    run = folder / name
    command = [
        sys.executable,
        str(ROOT / "tutorials" / "frontend" / "main.py"),
        *("--model", args.network, "--dataset", args.dataset, "--pretrained", str(weights)),
        *("--accuracy-requirement", str(args.accuracy), "--trials", str(args.trials)),
        *("--max-seconds", "0", "--tune-seconds", "0", "--final-trials", "0"),
        *("--experiment-data-dir", str(run), "--library", str(folder / "programs"), "--resume"),
        *("--precision", args.precision),
        *RULES[name],
        *args.options,
    ]
    subprocess.run(command, check=True, env={**os.environ, "CPRUNE_LIBRARY": "none"})
    result: dict[str, Any] = json.loads((run / "result.json").read_text())
    return result


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
    parser.add_argument("--dataset", default="glyphs", help="default: %(default)s")
    parser.add_argument("--epochs", type=int, default=10, help="of the first training (default: %(default)s)")
    parser.add_argument("--accuracy", type=float, default=0.9, help="requirement (default: %(default)s)")
    parser.add_argument("--trials", type=int, default=16, help="trials per task (default: %(default)s)")
    parser.add_argument("--precision", default="32-true", help="of all trainings (default: %(default)s)")
    parser.add_argument("options", nargs="*", help="further options of main.py, after --")
    args = parser.parse_args()
    print_machine()
    folder = CACHE / "soft_steps" / f"{args.network.replace('/', '-')}-{args.dataset}"
    weights = trained_weights(args, folder)
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
    results = {name: prune(name, args, weights, folder) for name in RULES}
    print(f"| {' | '.join(columns)} |\n|{'---|' * len(columns)}")
    for name, result in results.items():
        print_row(name, result)


if __name__ == "__main__":
    main()
