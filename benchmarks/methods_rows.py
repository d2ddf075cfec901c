# SPDX-License-Identifier: Apache-2.0
"""Rows of ``methods.py``: accuracies, latencies in turn, and the costs of runs."""

import json
import shutil
from collections.abc import Iterable, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch.utils.data import DataLoader, TensorDataset

from common import median, spread
from data import Splits
from evaluation import accuracy
from glyphs import CLASSES, glyph_images
from methods_report import Row
from peers import OURS, Peer, export_onnx, take_turns
from tvm.contrib.cprune.files import write_text
from tvm.contrib.cprune.measuring.timing import sample_input

TRAINS_CANDIDATES = ("progressive", "cprune", "netadapt")
# Images that are drawn to compare networks, and the seed, which is not that of the splits.
NEW_GLYPHS, NEW_SEED = 400 * len(CLASSES), 1
OTHER = "ONNX Runtime"
ROUNDS, RUNS = 10, 10


class Run(NamedTuple):
    """A finished run of main.py: its folder and its result."""

    method: str
    strength: str
    folder: Path
    result: dict[str, Any]


def time_in_turn(runs: Sequence[Run], threads: int) -> list[list[float]]:
    """Return the seconds of the unpruned network in ONNX Runtime, and of each pruned one in TVM and there."""
    first = runs[0].folder
    shape = tuple(json.loads((first / "config.json").read_text())["input_shape"])
    data = sample_input(shape)
    with ExitStack() as stack:
        original = export_onnx(torch.jit.load(first / "unpruned.pt"), shape, first / "unpruned").parent
        peers = [stack.enter_context(Peer(OTHER, original, data, threads))]
        for run in runs:
            folder = export_onnx(torch.jit.load(run.folder / "model.pt"), shape, run.folder / "pruned").parent
            shutil.copy(run.folder / "net.so", folder)
            peers += [stack.enter_context(Peer(name, folder, data, threads)) for name in (OURS, OTHER)]
            np.testing.assert_allclose(peers[-2].output, peers[-1].output, rtol=1e-3, atol=1e-3)
        return take_turns(peers, ROUNDS, RUNS)


def images_to_compare(dataset: str, splits: Splits) -> DataLoader:
    """Return images for accuracies: those of the test split, or more of them if they are generated."""
    if dataset != "glyphs":
        return splits.test
    return DataLoader(TensorDataset(*glyph_images(NEW_SEED, range(NEW_GLYPHS))), splits.test.batch_size)


def accuracy_of(run: Path, images: DataLoader) -> float:
    """Return the accuracy of a run's pruned network, which is measured once."""
    file = run / "accuracy.json"
    if not file.exists():
        with torch.no_grad():  # copies of a scripted model's parameters have gradients otherwise
            write_text(file, json.dumps(accuracy(torch.jit.load(run / "model.pt"), images)))
    return float(json.loads(file.read_text()))


def epochs_of(
    method: str, result: Mapping[str, Any], events: Iterable[Mapping[str, Any]], images: int
) -> float:
    """Return the epochs of all trainings of a run.

    Parameters
    ----------
    events
        The run's journal.
    images
        Number of images in an epoch.
    """
    candidates = [event for event in events if event["event"] == "candidate"]
    # Other methods evaluate their candidates without training.
    trained = [event for event in candidates if {"accuracy_part", "accuracy_val"} & event.keys()]
    short = len(trained) if method in TRAINS_CANDIDATES else 0
    long = 1 + sum("accuracy_short_term" in event for event in candidates)
    batches = result["short_term_batches"]
    each = batches * result["batch_size"] / images if batches else result["short_term_epochs"]
    return float(short * each + long * result["long_term_epochs"])


def rows_of(runs: Sequence[Run], images: DataLoader, epoch: int, threads: int) -> list[Row]:
    """Measure the pruned networks of all runs. An epoch of training has ``epoch`` images."""
    accuracies = [accuracy_of(run.folder, images) for run in runs]
    reference, *samples = time_in_turn(runs, threads)
    unit, rows = median(reference), []
    for run, fraction, ours, other in zip(runs, accuracies, samples[::2], samples[1::2], strict=True):
        result, journal = run.result, (run.folder / "journal.jsonl").read_text()
        row = Row(
            run.method,
            run.strength,
            result["pruned"]["macs"] / result["baseline"]["macs"],
            fraction,
            median(ours) / unit,
            spread(ours) / unit,
            median(other) / unit,
            spread(other) / unit,
            unit * 1e3,
            result["speedup"],
            sum(result["trials"]["pruning_and_final_tuning"].values()),
            sum(result["seconds"].values()) - result["seconds"]["first_tuning"],
            epochs_of(run.method, result, map(json.loads, journal.splitlines()), epoch),
        )
        rows.append(row)
    return rows
