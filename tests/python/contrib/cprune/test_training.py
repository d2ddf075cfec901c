# SPDX-License-Identifier: Apache-2.0
"""The tutorial's training: it survives kill -9, and a resumed run repeats it bit for bit."""

import os
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from commands import TUTORIAL
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import main as tutorial
from compute import ComputeSettings
from train import Recipe, train
from training import training_on
from tvm.contrib.cprune.loop.journal import record_settings
from tvm.contrib.cprune.loop.lock import locked
from tvm.contrib.cprune.loop.scoring import scorer_of
from tvm.contrib.cprune.models.checkpoint import digest, load_checkpoint, save_checkpoint
from tvm.contrib.cprune.models.prunable import PrunableModel
from tvm.contrib.cprune.stopwatch import Stopwatch
from tvm.contrib.cprune.types import ChannelStep, CPruneError

IMAGES = torch.randn(48, 1, 16, 16, generator=torch.Generator().manual_seed(1))
LABELS = torch.arange(48) % 10
CPU = ComputeSettings("cpu")


class KilledError(Exception):
    """Ends a training in the middle of an epoch."""


class Images(TensorDataset):
    """A few images; reading one more than ``limit`` of them ends the training."""

    def __init__(self, limit: int = 10**9) -> None:
        super().__init__(IMAGES, LABELS)
        self.limit, self.read = limit, 0

    def __getitem__(self, index):
        self.read += 1
        if self.read > self.limit:
            raise KilledError
        return super().__getitem__(index)


def loader(limit: int = 10**9) -> DataLoader:
    return DataLoader(Images(limit), 8, shuffle=True)


def images_read(data: DataLoader) -> int:
    assert isinstance(data.dataset, Images)
    return data.dataset.read


def network(seed: int = 0) -> nn.Module:
    """Return a small network, with torch's random generator seeded as before each training of a run."""
    torch.manual_seed(seed)
    return nn.Sequential(
        nn.Conv2d(1, 8, 3, stride=2),
        nn.BatchNorm2d(8),
        nn.ReLU(),
        nn.Dropout(0.2),
        nn.Conv2d(8, 16, 3, stride=2),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(16, 10),
    )


@pytest.mark.parametrize("anneal", [True, False])
def test_training_killed_after_an_epoch_resumes_with_identical_results(tmp_path, anneal):
    recipe, options = Recipe(3, 0.05, anneal), {"checkpoint": tmp_path / "training.pt", "compute": CPU}
    straight = network()
    train(straight, loader(), recipe, compute=CPU)

    with pytest.raises(KilledError):
        train(network(), loader(limit=48 + 20), recipe, **options)
    resumed, data = network(), loader()
    train(resumed, data, recipe, **options)

    assert images_read(data) == 2 * 48, "the first epoch was trained again"
    assert digest(resumed) == digest(straight)
    assert not list(tmp_path.glob(".cprune-part-*"))


@pytest.mark.parametrize("change", ["weights", "epochs", "rate", "seed"])
def test_training_does_not_resume_from_another_training(tmp_path, change):
    path = tmp_path / "training.pt"
    train(network(), loader(), Recipe(2, 0.05), checkpoint=path, compute=CPU)
    model, data = network(seed=1 if change == "weights" else 0), loader()
    if change == "seed":
        torch.manual_seed(9)
    epochs, rate = (1 if change == "epochs" else 2), (0.1 if change == "rate" else 0.05)
    train(model, data, Recipe(epochs, rate), checkpoint=path, compute=CPU)
    assert images_read(data) == epochs * 48


@pytest.mark.parametrize(("batches", "images"), [(4, 32), (6, 48), (8, 64), (0, 96)])
def test_training_can_be_limited_to_a_number_of_batches(batches, images, tmp_path):
    data, path = loader(), tmp_path / "training.pt"
    model, recipe = network(), Recipe(2, 0.05, anneal=True, batches=batches)
    train(model, data, recipe, checkpoint=path, compute=CPU)
    assert images_read(data) == images
    # A finished training is not repeated.
    again, more = network(), loader()
    train(again, more, recipe, checkpoint=path, compute=CPU)
    assert images_read(more) == 0
    assert digest(again) == digest(model)


@pytest.mark.parametrize("importance", ["l1", "taylor"])
def test_a_resumed_run_makes_and_trains_the_same_candidate(tmp_path, importance):
    """The weights of a candidate identify its short-term training after kill -9."""
    arguments = ["--short-term-epochs", "1", "--accelerator", "cpu"]
    settings = tutorial.make_settings(tutorial.parse_arguments(arguments))
    # The Taylor importance reads 8 of 12 batches.
    splits = replace(
        tutorial.load_data("digits", Path(), 32, 200, 0), train=DataLoader(Images(), 4, shuffle=True)
    )
    prune = replace(settings.prune, importance=importance)

    def candidate(model: nn.Module, folder: Path) -> tuple[str, str]:
        training = training_on(splits, settings, folder, model)
        prunable = PrunableModel.trace(model, (1, 1, 16, 16))
        run: Any = SimpleNamespace(
            config=prune, training=training, journal=SimpleNamespace(stopwatch=Stopwatch())
        )
        group = prunable.groups().groups[0]
        steps = [ChannelStep(group, group.width // 2, "")]
        small = prunable.shrink(steps, scorer_of(run, model, 1)).model
        made = digest(small)
        torch.manual_seed(1)
        assert training.recalibrate is not None
        training.recalibrate(small)
        assert digest(small) != made
        torch.manual_seed(1)
        training.short_term(small)
        return made, digest(small)

    model = network()
    train(model, loader(), Recipe(1), compute=CPU)
    save_checkpoint(tmp_path, "accepted", model)
    before = candidate(model, tmp_path / "before")
    # The resumed run has another history: its model comes from a file, its random generator is elsewhere.
    torch.manual_seed(7)
    after = candidate(load_checkpoint(tmp_path, "accepted", network(5)), tmp_path / "after")
    assert before == after


MAIN = """
import os, sys, pathlib, signal, time
sys.path.insert(0, {tutorial!r})
import main, run_folder
from tvm.contrib.cprune.models.checkpoint import digest

class Pruner:
    def __init__(self, model, run_dir, **_):
        print("PRUNED", digest(model), run_dir, flush=True)
    def run(self, resume):
        raise SystemExit(0)

main.CPruner, run_folder.RUNS = Pruner, pathlib.Path({runs!r})
write, written = pathlib.Path.write_bytes, []
def kill_after_the_second_epoch(path, content):
    write(path, content)
    written.append(path)
    if len(written) == 3:
        os.kill(os.getpid(), signal.SIGKILL)
if {kill}:
    pathlib.Path.write_bytes = kill_after_the_second_epoch
main.main({arguments})
"""


def run_main(runs: Path, *arguments: str, kill: bool = False) -> subprocess.CompletedProcess[str]:
    code = MAIN.format(tutorial=str(TUTORIAL), runs=str(runs), kill=kill, arguments=list(arguments))
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)


def test_a_run_killed_in_its_first_training_resumes_at_its_last_epoch(tmp_path):
    options = ("--model", "lenet", "--train-epochs", "4", "--accelerator", "cpu")
    straight = run_main(tmp_path / "straight", *options)
    (tmp_path / "runs" / "lenet-digits-20000101-000000").mkdir(parents=True)
    killed = run_main(tmp_path / "runs", *options, kill=True)
    assert killed.returncode == -signal.SIGKILL
    resumed = run_main(tmp_path / "runs", *options, "--resume")
    assert "resuming the training after epoch 2 of 4" in resumed.stdout
    weights, folder = resumed.stdout.split("PRUNED ")[1].split()
    assert weights == straight.stdout.split("PRUNED ")[1].split()[0]
    assert Path(folder).name > "lenet-digits-2001"
    assert not list(Path(folder).rglob(".cprune-part-*")) + list(Path(folder).rglob("training-*.pt"))
    other = run_main(tmp_path / "runs", "--model", "lenet", "--train-epochs", "5", "--resume")
    assert "train_epochs: 4 there, 5 now" in other.stderr


def options_of(*arguments: str) -> dict[str, Any]:
    settings = tutorial.make_settings(tutorial.parse_arguments(list(arguments)))
    splits = tutorial.load_data("digits", Path(), 32, 200, 0)
    return tutorial.options_of(settings, tutorial.labels_of(settings, splits))


def test_a_resumed_run_must_read_the_same_folder_of_images(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    images = "--dataset", "imagefolder", "--data-dir"
    record_settings(tmp_path / "options.json", options_of(*images, "images"), resume=False)
    record_settings(tmp_path / "options.json", options_of(*images, str(tmp_path / "images")), resume=True)
    with pytest.raises(CPruneError, match=r"data_dir: '.*/images' there, '.*/others' now"):
        record_settings(tmp_path / "options.json", options_of(*images, "others"), resume=True)
    assert options_of("--data-dir", "images") == options_of(), "digits needs no files"


def test_the_run_folder_is_checked_before_training(tmp_path, capsys):
    (tmp_path / "file").write_text("content")
    arguments = ["--train-epochs", "1", "--experiment-data-dir"]
    assert tutorial.main([*arguments, str(tmp_path / "file" / "run")]) == 1
    captured = capsys.readouterr()
    assert "cannot read or write" in captured.err and "training" not in captured.out
    with locked(tmp_path / "run", name="training.lock"):
        assert tutorial.main([*arguments, str(tmp_path / "run")]) == 1
    captured = capsys.readouterr()
    assert f"is in use by process {os.getpid()}" in captured.err and "training" not in captured.out
