# SPDX-License-Identifier: Apache-2.0
"""Accuracy and latency of all pruning methods, with the same network, tuning and training (paper, Table 1).

    python benchmarks/methods.py
    python benchmarks/methods.py --networks resnet18 --methods cprune uniform -- --short-term-batches 40
    python benchmarks/methods.py --threads 1    # for virtual machines, see docs/results.md
    python benchmarks/methods.py --quick    # LeNet on digits, one strength of each method

Each method prunes the same trained network at three strengths: requirements of accuracy for methods that
train their candidates, speedups for knapsack, and shares of the multiply-accumulates for the others. These
train for 18 epochs at the end, as many as progressive took for ResNet-18 in total. cprune and netadapt, which
train many candidates, have a time limit. They reach it before the accuracy, so they run at the first strength
only. With their candidates, they train for about 18 epochs, too. The runs of knapsack and progressive share
their staircases. Each run ends with a search for the programs of its pruned network. Then all networks take
turns in TVM and in ONNX Runtime; latencies are relative to the unpruned network in ONNX Runtime.

Accuracies on glyphs are measured on newly generated images, ten times as many as in the test split. Their
standard error is 0.002; that of the test split is 0.006, as large as the differences between methods.

A goal can be out of reach, such as one for rounded widths if few of them fit: the run then has no row.

The results are in build/benchmarks/methods: methods.json, and methods.html with a plot for each network. An
interrupted benchmark continues there.
"""

import argparse
import json
import subprocess
from pathlib import Path
from typing import NamedTuple

import torch

from common import CACHE, print_machine
from evaluation import accuracy
from methods_report import Row, equal_accuracy_table, page_section, table
from methods_rows import TRAINS_CANDIDATES, Run, images_to_compare, rows_of
from models import make_model
from tutorial_runs import add_options, load_splits, run_tutorial, trained_weights
from tvm.contrib.cprune.report.page import document

NETWORKS = ("resnet18", "vgg16", "mobilenetv2")
METHODS = ("uniform", "uniform-rounded", "global", "knapsack", "progressive", "cprune", "netadapt")
TIMED = ("cprune", "netadapt")
MEASURES_STAIRCASES = ("knapsack", "progressive")
# Accuracy that a network may lose, speedups, and shares of the multiply-accumulates. The mildest comes last.
LOSSES, SPEEDUPS, SHARES = (0.02, 0.04, 0.01), (14.0, 20.0, 10.0), (0.05, 0.02, 0.15)
# Few small widths fit programs with large tiles.
ROUNDED_SHARES = (0.1, 0.2, 0.4)
# The networks are large for the data: below the default limit of 0.8, pruning costs hardly any accuracy.
SPARSITY = "0.95"
# Epochs at the end. Methods without trained candidates get as many as progressive took for ResNet-18 in
# total: one for each of three candidates, five more for two of them, and five at the end. For ResNet-18,
# cprune trains its candidates for about 7 epochs, and netadapt for about 3.
EPOCHS, ONE_SHOT_EPOCHS = {"cprune": 11, "netadapt": 15, "progressive": 5}, 18
# Time limit of the pruning, for methods with many candidates: about what knapsack takes for ResNet-18 on two
# cores of a Zen 4.
_LIMIT = ("--max-seconds", "720")
# Short trainings lose accuracy that the last training regains. netadapt trains a candidate for every group
# that can be cut enough: only two of twelve in ResNet-18 if the cut is 0.2.
OPTIONS = {
    "cprune": ("--alpha", "0.98", "--short-term-batches", "64", *_LIMIT),
    "netadapt": ("--latency-cut", "0.1", "--short-term-batches", "16", *_LIMIT),
}
# A network with less than this multiple of the accuracy of guessing has not learned.
LEARNED = 4


class Strength(NamedTuple):
    """How far a method prunes: a name, and options of main.py."""

    name: str
    options: tuple[str, ...]


def strengths(method: str, start: float) -> list[Strength]:
    """Return the strengths of a method for a network whose validation accuracy is ``start``."""
    if method in TRAINS_CANDIDATES:
        losses = LOSSES[:1] if method in TIMED else LOSSES
        floors = [f"{start - loss:.4f}" for loss in losses]
        return [Strength(f"accuracy {floor}", ("--accuracy-requirement", floor)) for floor in floors]
    if method == "knapsack":
        return [Strength(f"speedup {goal}", ("--speed-up", str(goal))) for goal in SPEEDUPS]
    rounded = ("--round",) if method == "uniform-rounded" else ()
    shares = ROUNDED_SHARES if rounded else SHARES
    return [Strength(f"MACs {share}", ("--macs", str(share), *rounded)) for share in shares]


def options_of(method: str, strength: Strength, final_trials: int) -> list[str]:
    """Return the options of a run."""
    epochs = EPOCHS.get(method, ONE_SHOT_EPOCHS)
    method = method.partition("-")[0]
    fixed = ("--method", method, "--sparsity", SPARSITY, "--final-trials", str(final_trials))
    return [*fixed, "--fine-tune-epochs", str(epochs), *OPTIONS.get(method, ()), *strength.options]


def compare(network: str, args: argparse.Namespace, folder: Path) -> list[Row]:
    """Prune a network with every method, and print the tables."""
    weights = trained_weights(network, args, folder)
    splits = load_splits(args.dataset)
    model = make_model(network, splits.shape[0], len(splits.classes), splits.shape[-1])
    model.load_state_dict(torch.load(weights, weights_only=True))
    start, images = accuracy(model, splits.validation), images_to_compare(args.dataset, splits)
    if start < LEARNED / len(splits.classes):
        raise SystemExit(
            f"{network} did not learn (validation accuracy {start:.4f}): delete {weights}, and train longer "
            "with --epochs"
        )
    runs, missing, starts = list[Run](), list[str](), dict[str, Path]()
    # The first training does not depend on the trials, but the runs do.
    folder /= f"trials-{args.trials}-{args.final_trials}"
    for method in args.methods:
        kind = "staircases" if method in MEASURES_STAIRCASES else method
        for strength in strengths(method, start)[: args.strengths]:
            run = folder / f"{method} {strength.name}"
            options = options_of(method, strength, args.final_trials)
            try:
                result = run_tutorial(network, args, options, weights, run, starts.get(kind))
            except subprocess.CalledProcessError:  # main.py has printed the reason
                missing.append(f"{method}, {strength.name}")
                continue
            runs.append(Run(method, strength.name, run, result))
            starts[kind] = run
    if not runs:
        raise SystemExit(f"no method has a result for {network}: see the errors above")
    rows = rows_of(runs, images, len(splits.train.dataset), args.threads)
    print(f"\n{network}, accuracy of the unpruned network {accuracy(model, images):.4f}\n\n{table(rows)}")
    if comparison := equal_accuracy_table(rows):
        title = "latency over that of a method in TVM at the same accuracy: in TVM, in ONNX Runtime"
        print(f"\n{title}\n\n{comparison}", flush=True)
    if missing:
        print(f"\nwithout a result, see the errors above: {'; '.join(missing)}")
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--networks", nargs="+", default=list(NETWORKS), metavar="NAME")
    parser.add_argument("--methods", nargs="+", default=list(METHODS), choices=METHODS)
    parser.add_argument(
        "--strengths", type=int, default=3, help="of each method, at most (default: %(default)s)"
    )
    parser.add_argument(
        "--final-trials",
        type=int,
        default=16,
        help="trials per task, on average, of the search for each pruned network (default: %(default)s)",
    )
    parser.add_argument(
        "--quick", action="store_true", help="LeNet on digits, one strength, 4 trials per task"
    )
    add_options(parser)
    args = parser.parse_args()
    if args.quick:
        args.networks, args.dataset, args.epochs = ["lenet"], "digits", 5
        args.trials, args.final_trials, args.strengths = 4, 4, 1
    print_machine()
    folder = CACHE / "methods"
    results = {name: compare(name, args, folder / f"{name}-{args.dataset}") for name in args.networks}
    sections = [page_section(name, args.dataset, rows) for name, rows in results.items()]
    (folder / "methods.html").write_text(document("Pruning methods", *sections))
    rows = {name: [row._asdict() for row in rows] for name, rows in results.items()}
    (folder / "methods.json").write_text(json.dumps(rows, indent=1))
    print(f"\nwrote {folder / 'methods.html'} and methods.json")


if __name__ == "__main__":
    main()
