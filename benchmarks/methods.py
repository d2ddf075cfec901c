# SPDX-License-Identifier: Apache-2.0
"""Accuracy and latency of all pruning methods, with the same network, tuning and training (paper, Table 1).

    python benchmarks/methods.py
    python benchmarks/methods.py --networks resnet18 --methods cprune uniform -- --short-term-batches 40
    python benchmarks/methods.py --threads 1    # for virtual machines, see docs/results.md
    python benchmarks/methods.py --quick    # LeNet on digits, one strength of each method

Each method prunes the same trained network at three strengths: requirements of accuracy for methods that
train their candidates, speedups for knapsack, and shares of the multiply-accumulates for the others. Methods
that do not train candidates get more epochs at the end. Each run ends with a search for the programs of its
pruned network, which takes turns in TVM and in ONNX Runtime with the unpruned one in ONNX Runtime; latencies
are relative to that one. The runs of knapsack and progressive share their staircases.

Accuracies on glyphs, which are generated, are those on ten times the images of the test split: their standard
error is 0.002, where that of the test split is 0.006, as much as the methods differ by.

A goal can be out of reach, such as one for rounded widths if few of them fit: the run then has no row.

The results are in build/benchmarks/methods: methods.json, and methods.html with a plot for each network. An
interrupted benchmark continues there.
"""

import argparse
import json
import shutil
import subprocess
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch.utils.data import DataLoader, TensorDataset

from common import CACHE, latency_at, median, print_machine
from data import Splits
from evaluation import accuracy
from glyphs import CLASSES, glyph_images
from models import make_model
from peers import OURS, Peer, export_onnx, take_turns
from tutorial_runs import add_options, load_splits, run_tutorial, trained_weights
from tvm.contrib.cprune.files import write_text
from tvm.contrib.cprune.measuring.timing import sample_input
from tvm.contrib.cprune.report.charts import Series, accuracy_latency
from tvm.contrib.cprune.report.page import document, section
from tvm.contrib.cprune.report.plot import Mark

NETWORKS = ("resnet18", "vgg16", "mobilenetv2")
METHODS = ("uniform", "uniform-rounded", "global", "knapsack", "progressive", "cprune", "netadapt")
TRAINS_CANDIDATES = ("progressive", "cprune", "netadapt")
MEASURES_STAIRCASES = ("knapsack", "progressive")
# Accuracy that a network may lose, speedups, and shares of the multiply-accumulates. The mildest comes last.
LOSSES, SPEEDUPS, SHARES = (0.02, 0.04, 0.01), (14.0, 20.0, 10.0), (0.05, 0.02, 0.15)
# Few small widths fit programs with large tiles.
ROUNDED_SHARES = (0.1, 0.2, 0.4)
# The networks are large for the data: below the default limit of 0.8, pruning costs hardly any accuracy.
SPARSITY = "0.95"
# Epochs at the end, for methods that train candidates and for those that do not.
EPOCHS, EPOCHS_WITHOUT_CANDIDATES = 2, 5
# Short trainings lose accuracy that the last training regains. The few candidates of progressive are trained
# for whole epochs. Small cuts would take netadapt hours.
OPTIONS = {
    "cprune": ("--alpha", "0.98", "--short-term-batches", "64", "--max-iterations", "30"),
    "netadapt": ("--latency-cut", "0.2", "--short-term-batches", "64", "--max-iterations", "8"),
}
# A network with less than this multiple of the accuracy of guessing has not learned.
LEARNED = 4
# Images that are drawn to compare networks, and the seed, which is not that of the splits.
NEW_GLYPHS, NEW_SEED = 400 * len(CLASSES), 1
OTHER = "ONNX Runtime"
ROUNDS, RUNS = 10, 10


class Strength(NamedTuple):
    """How far a method prunes: a name, and options of main.py."""

    name: str
    options: tuple[str, ...]


class Row(NamedTuple):
    """A pruned network.

    ``accuracy`` is that on ``images_to_compare``. ``tvm`` and ``onnx_runtime`` are latencies over that of the
    unpruned network in ONNX Runtime, which takes ``reference_ms``; ``speedup`` is the latency of the unpruned
    network in TVM over that of the pruned one. Trials and seconds are those after the first tuning.
    """

    method: str
    strength: str
    accuracy: float
    tvm: float
    onnx_runtime: float
    reference_ms: float
    speedup: float
    macs: float
    trials: int
    seconds: float


def strengths(method: str, start: float) -> list[Strength]:
    """Return the strengths of a method for a network whose validation accuracy is ``start``."""
    if method in TRAINS_CANDIDATES:
        floors = [f"{start - loss:.4f}" for loss in LOSSES]
        return [Strength(f"accuracy {floor}", ("--accuracy-requirement", floor)) for floor in floors]
    if method == "knapsack":
        return [Strength(f"speedup {goal}", ("--speed-up", str(goal))) for goal in SPEEDUPS]
    rounded = ("--round",) if method == "uniform-rounded" else ()
    shares = ROUNDED_SHARES if rounded else SHARES
    return [Strength(f"MACs {share}", ("--macs", str(share), *rounded)) for share in shares]


def options_of(method: str, strength: Strength, final_trials: int) -> list[str]:
    """Return the options of a run."""
    trains = method in TRAINS_CANDIDATES
    epochs = EPOCHS if trains else EPOCHS_WITHOUT_CANDIDATES
    limits = ("--max-seconds", "0") if trains else ()
    method = method.partition("-")[0]
    fixed = ("--method", method, "--sparsity", SPARSITY, "--final-trials", str(final_trials))
    return [*fixed, "--fine-tune-epochs", str(epochs), *limits, *OPTIONS.get(method, ()), *strength.options]


def time_runtimes(run: Path, threads: int) -> list[float]:
    """Return three latencies in seconds.

    They are those of a run's pruned network in TVM and in ONNX Runtime, and that of the unpruned network in
    ONNX Runtime.
    """
    shape = tuple(json.loads((run / "config.json").read_text())["input_shape"])
    original = export_onnx(torch.jit.load(run / "unpruned.pt"), shape, run / "unpruned").parent
    pruned = export_onnx(torch.jit.load(run / "model.pt"), shape, run / "pruned").parent
    shutil.copy(run / "net.so", pruned)
    data = sample_input(shape)
    with (
        Peer(OURS, pruned, data, threads) as ours,
        Peer(OTHER, pruned, data, threads) as other,
        Peer(OTHER, original, data, threads) as reference,
    ):
        np.testing.assert_allclose(ours.output, other.output, rtol=1e-3, atol=1e-3)
        return [median(samples) for samples in take_turns((ours, other, reference), ROUNDS, RUNS)]


def images_to_compare(dataset: str, splits: Splits) -> DataLoader:
    """Return images for accuracies: those of the test split, or more of them if they are generated."""
    if dataset != "glyphs":
        return splits.test
    return DataLoader(TensorDataset(*glyph_images(NEW_SEED, range(NEW_GLYPHS))), splits.test.batch_size)


def row_of(
    method: str, strength: Strength, result: dict[str, Any], run: Path, images: DataLoader, threads: int
) -> Row:
    """Measure the pruned network of a run, unless an earlier call did, and return its row."""
    file = run / "row.json"
    if not file.exists():
        ours, other, unpruned = time_runtimes(run, threads)
        with torch.no_grad():  # copies of a scripted model's parameters have gradients otherwise
            fraction = accuracy(torch.jit.load(run / "model.pt"), images)
        row = Row(
            method,
            strength.name,
            fraction,
            ours / unpruned,
            other / unpruned,
            unpruned * 1e3,
            result["speedup"],
            result["pruned"]["macs"] / result["baseline"]["macs"],
            sum(result["trials"]["pruning_and_final_tuning"].values()),
            sum(result["seconds"].values()) - result["seconds"]["first_tuning"],
        )
        write_text(file, json.dumps(row._asdict()))
    return Row(**json.loads(file.read_text()))


def print_table(network: str, start: float, rows: list[Row]) -> None:
    """Print the rows of a network, and the latency of each method at equal accuracy."""
    columns = [name.replace("_", " ") for name in Row._fields]
    print(f"\n{network}, accuracy of the unpruned network {start:.4f}\n")
    print(f"| {' | '.join(columns)} |\n|{'---|' * len(columns)}")
    for row in rows:
        cells = [f"{value:.3f}" if isinstance(value, float) else str(value) for value in row]
        print(f"| {' | '.join(cells)} |")
    levels = [start - loss for loss in sorted(LOSSES)]
    print(f"\n| method | runtime | {' | '.join(f'accuracy {level:.3f}' for level in levels)} |")
    print(f"|{'---|' * (2 + len(levels))}")
    for method in dict.fromkeys(row.method for row in rows):
        for runtime in ("tvm", "onnx_runtime"):
            own = [row for row in rows if row.method == method]
            unpruned = own[0].tvm * own[0].speedup if runtime == "tvm" else 1.0
            points = [(start, unpruned), *((row.accuracy, getattr(row, runtime)) for row in own)]
            found = [latency_at(level, points) for level in levels]
            cells = ["-" if latency is None else f"{latency:.3f}" for latency in found]
            print(f"| {method} | {runtime.replace('_', ' ')} | {' | '.join(cells)} |", flush=True)


def plot(rows: list[Row]) -> list[Series]:
    """Return the series of a plot: one for each method, with its latencies in TVM."""
    reference = median([row.reference_ms for row in rows])
    series = []
    for number, method in enumerate(dict.fromkeys(row.method for row in rows)):
        marks = []
        for row in (row for row in rows if row.method == method):
            latency = row.tvm * reference
            text = f"{method}, {row.strength}\n{latency:.3f} ms, accuracy {row.accuracy:.4f}"
            marks.append(Mark(latency, row.accuracy, "circle", f"run-{number}", text))
        series.append(Series(method, f"run-{number}", tuple(marks)))
    return series


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
    rows, missing, starts = list[Row](), list[str](), dict[str, Path]()
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
            rows.append(row_of(method, strength, result, run, images, args.threads))
            print(rows[-1], flush=True)
            starts[kind] = run
    if not rows:
        raise SystemExit(f"no method has a result for {network}: see the errors above")
    print_table(network, accuracy(model, images), rows)
    if missing:
        print(f"\nwithout a result, see the errors above: {'; '.join(missing)}")
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--networks", nargs="+", default=list(NETWORKS), metavar="NAME")
    parser.add_argument("--methods", nargs="+", default=list(METHODS), choices=METHODS)
    parser.add_argument("--strengths", type=int, default=3, help="of each method (default: %(default)s)")
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
    sections = [
        section(
            name,
            f"Accuracy on {args.dataset} and latency in TVM of {name} pruned by each method.",
            accuracy_latency(f"{name}: accuracy and latency", plot(rows), [], "accuracy"),
        )
        for name, rows in results.items()
    ]
    (folder / "methods.html").write_text(document("Pruning methods", *sections))
    table = {name: [row._asdict() for row in rows] for name, rows in results.items()}
    (folder / "methods.json").write_text(json.dumps(table, indent=1))
    print(f"\nwrote {folder / 'methods.html'} and methods.json")


if __name__ == "__main__":
    main()
