# SPDX-License-Identifier: Apache-2.0
"""The trainings of a run: of the original network, of every candidate, and of the pruned network."""

from pathlib import Path

import torch

from compute import Report, ignore
from data import Splits
from evaluation import accuracy
from judging import evaluation_of_part, recalibrate
from run_folder import training_file
from settings import DataSettings, Settings, TrainSettings
from train import Recipe, train
from tvm.contrib.cprune.loop.training import Training
from tvm.contrib.cprune.models.checkpoint import load_checkpoint, save_checkpoint

FINE_TUNE_LEARNING_RATE = 1e-2


def short_name(data: DataSettings) -> str:
    """Return the name of the network without its prefix, for the names of files."""
    return data.model.rpartition("/")[2]


def trained_model(
    model: torch.nn.Module, settings: Settings, splits: Splits, folder: Path, report: Report
) -> torch.nn.Module:
    """Train the network to prune, or load its checkpoint."""
    data, epochs, seed = settings.data, settings.train.train_epochs, settings.prune.seed
    name = f"{short_name(data)}-{data.dataset}-{epochs}-epochs-seed-{seed}"
    file = training_file(folder, "first")
    if not (folder / "checkpoints" / f"{name}.pt").exists():
        message = f"training {data.model} on {data.dataset} for {epochs} epochs"
        report({"event": "training", "message": message})
        train(
            model,
            splits.train,
            Recipe(epochs, settings.train.train_rate, anneal=True),
            checkpoint=file,
            compute=settings.compute,
            log_interval=settings.train.log_interval,
            report=report,
        )
        save_checkpoint(folder, name, model)
    file.unlink(missing_ok=True)
    return load_checkpoint(folder, name, model)


def training_on(
    splits: Splits, settings: Settings, folder: Path, unpruned: torch.nn.Module, report: Report = ignore
) -> Training:
    """Return how CPrune trains and evaluates models on a data set.

    Trainings save their state in ``folder`` after each epoch. A finished training stays there until the next
    one, so that it is not repeated if the run is killed during the evaluation that follows.

    Parameters
    ----------
    unpruned
        The teacher of a distillation.
    """
    options, compute = settings.train, settings.compute

    def short_term(model: torch.nn.Module) -> None:
        rate, batches = options.short_term_rate, options.short_term_batches
        train(
            model,
            splits.train,
            Recipe(options.short_term_epochs, rate, batches=batches),
            checkpoint=training_file(folder, "short-term"),
            compute=compute,
            name="short-term training",
            report=report,
        )

    def long_term(model: torch.nn.Module) -> None:
        train(
            model,
            splits.train,
            Recipe(options.fine_tune_epochs, FINE_TUNE_LEARNING_RATE, anneal=True, distill=options.distill),
            teacher=unpruned,
            checkpoint=training_file(folder, "long-term"),
            compute=compute,
            name="long-term training",
            report=report,
        )

    def recalibrated(model: torch.nn.Module) -> None:
        recalibrate(model, splits.train, compute)

    return Training(
        short_term=short_term,
        long_term=long_term if long_term_epochs(options) else None,
        evaluate=lambda model: accuracy(model, splits.validation, compute),
        test=lambda model: accuracy(model, splits.test, compute),
        batches=lambda: splits.train,
        criterion=torch.nn.CrossEntropyLoss(),
        recalibrate=recalibrated if settings.prune.step_rule != "paper" else None,
        evaluate_part=evaluation_of_part(splits.validation, settings.prune.seed, compute),
        validation_size=len(splits.validation.dataset),  # type: ignore[arg-type]
    )


def long_term_epochs(settings: TrainSettings) -> int:
    """Return the number of epochs to train the pruned model at the end."""
    return settings.fine_tune_epochs if settings.fine_tune else 0
