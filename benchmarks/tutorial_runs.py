# SPDX-License-Identifier: Apache-2.0
"""Runs of tutorials/frontend/main.py that start from the same trained network, for benchmarks of pruning."""

import argparse
import json
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from common import ROOT
from compute import ComputeSettings
from data import Splits, load_data
from models import make_model, train_rate
from settings import DataSettings
from train import Recipe, train
from tvm.contrib.cprune.files import replaced, write_text
from tvm.contrib.cprune.loop.console import ConsoleReport
from tvm.contrib.cprune.targets.target import host_threads

# A run that tunes the network and then makes one candidate.
_TUNE = (
    *("--accuracy-requirement", "0", "--max-iterations", "1", "--short-term-batches", "1"),
    *("--final-trials", "0", "--no-fine-tune"),
)


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the options of the first training and of all runs."""
    parser.add_argument("--dataset", default="glyphs", help="default: %(default)s")
    parser.add_argument("--epochs", type=int, default=10, help="of the first training (default: %(default)s)")
    parser.add_argument("--precision", default="32-true", help="of all trainings (default: %(default)s)")
    parser.add_argument("--trials", type=int, default=16, help="trials per task (default: %(default)s)")
    parser.add_argument(
        "--threads", type=int, default=host_threads(), help="of all measurements (default: all cores)"
    )
    parser.add_argument("options", nargs="*", help="further options of main.py, after --")


def load_splits(dataset: str) -> Splits:
    """Load a data set as the tutorial does by default."""
    defaults = DataSettings()
    return load_data(dataset, defaults.data_dir, defaults.batch_size, defaults.test_batch_size, seed=0)


def trained_weights(network: str, args: argparse.Namespace, folder: Path) -> Path:
    """Train a network, unless an earlier call did, and return the file of its weights."""
    file = folder / f"weights-{args.epochs}-epochs-{args.precision}.pt"
    if not file.exists():
        folder.mkdir(parents=True, exist_ok=True)
        torch.manual_seed(0)
        splits = load_splits(args.dataset)
        model = make_model(network, splits.shape[0], len(splits.classes), splits.shape[-1])
        recipe = Recipe(args.epochs, train_rate(network), anneal=True)
        with ConsoleReport() as report:
            compute, checkpoint = ComputeSettings(precision=args.precision), folder / "training.pt"
            train(model, splits.train, recipe, checkpoint=checkpoint, compute=compute, report=report)
        with replaced(file) as temporary:
            torch.save(model.state_dict(), temporary)
        checkpoint.unlink()
    return file


def run_tutorial(
    network: str,
    args: argparse.Namespace,
    options: Sequence[str],
    weights: Path,
    run: Path,
    similar: Path | None = None,
) -> dict[str, Any]:
    """Run the tutorial, or continue an interrupted run, and return its result.

    All runs in the folder that contains ``run`` share the first tuning. A first run, which stops after one
    candidate, makes it.

    Parameters
    ----------
    options
        Options of this run; those of ``args`` come last.
    run
        Folder of the run.
    similar
        Folder of a run with another goal, whose method makes the same measurements. Its staircases, if it has
        any, are reused, and count as seconds and trials of this run, too.
    """
    tuned = run.parent / "tuned"
    _run(network, args, [*args.options, *_TUNE], weights, tuned)
    if not (run / "journal.jsonl").exists():
        copy_start(similar or tuned, run)
    _run(network, args, [*options, *args.options], weights, run)
    result: dict[str, Any] = json.loads((run / "result.json").read_text())
    return result


def copy_start(source: Path, run: Path) -> None:
    """Start a run with the journal of another one up to its last staircase, and the records until then.

    Without staircases, the last event is the baseline.
    """
    shutil.copytree(source / "records", run / "records", dirs_exist_ok=True)
    shutil.copy(source / "table_unpruned.json", run)
    lines = (source / "journal.jsonl").read_text().splitlines(keepends=True)
    events = [json.loads(line) for line in lines]
    last = max(n for n, event in enumerate(events) if event["event"] in ("baseline", "staircase"))
    for origin, trials in events[last]["trials"].items():
        for log in (run / "records").glob(f"*/{origin}.json"):
            write_text(log, "".join(log.read_text().splitlines(keepends=True)[:trials]))
    write_text(run / "journal.jsonl", "".join(lines[: last + 1]))


def _run(network: str, args: argparse.Namespace, options: Sequence[str], weights: Path, run: Path) -> None:
    """Call the tutorial with the options that all runs share."""
    command = [
        sys.executable,
        str(ROOT / "tutorials" / "frontend" / "main.py"),
        *("--model", network, "--dataset", args.dataset, "--pretrained", str(weights)),
        *("--precision", args.precision, "--trials", str(args.trials), "--tune-seconds", "0"),
        *("--threads", str(args.threads)),
        *("--experiment-data-dir", str(run), "--library", str(run.parent / "programs"), "--resume"),
        *options,
    ]
    subprocess.run(command, check=True)
