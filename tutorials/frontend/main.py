# SPDX-License-Identifier: Apache-2.0
"""Train a network, tune it, prune it with CPrune, and compare the original with the pruned model.

    python tutorials/frontend/main.py            # a small ResNet on handwritten digits, about ten minutes
    python tutorials/frontend/main.py --resume   # continue an interrupted run
    python tutorials/frontend/main.py --tuner autotvm --strategy xgb
    python tutorials/frontend/main.py --method knapsack --speed-up 2
    python tutorials/frontend/main.py --model mobilenetv2 --dataset cifar10 --data-dir ~/data
    python tutorials/frontend/main.py --target android-cpu --tracker 127.0.0.1:9190 --device-key phone

All output goes to the folder of the run: result.json, report.html, the pruned model (model.pt, model.onnx and
net.so), the tuning records, and the journal from which --resume continues.
"""

import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch.utils.data import DataLoader

from data import Splits, load_data
from models import full_name, make_model
from options import DataSettings, Settings, TrainSettings, make_settings, parse_arguments
from run_folder import check_options, run_folder, training_file
from train import accuracy, train
from tvm.contrib.cprune.loop.console import ConsoleReport, summary
from tvm.contrib.cprune.loop.lock import locked
from tvm.contrib.cprune.loop.training import Training
from tvm.contrib.cprune.measuring.tracker import Tracker
from tvm.contrib.cprune.messages import first_line
from tvm.contrib.cprune.models.checkpoint import load_checkpoint, load_weights, save_checkpoint
from tvm.contrib.cprune.models.surgery import macs_and_params
from tvm.contrib.cprune.pruner import CPruner
from tvm.contrib.cprune.targets.presets import find_preset
from tvm.contrib.cprune.targets.target import host_threads
from tvm.contrib.cprune.types import CPruneError

START_LEARNING_RATE, FINE_TUNE_LEARNING_RATE = 0.05, 1e-2


def run(settings: Settings) -> None:
    """Train, tune, prune and measure."""
    data, device = settings.data, settings.device
    # These two checks fail early: training and tuning can take hours.
    find_preset(device.target).compiler()
    limits = {"wait": device.wait_timeout, "cooldown": device.cool_down}
    tracker = Tracker.from_options(device.tracker, device.device_key, **limits)
    splits = load_data(
        data.dataset,
        data.data_dir,
        data.batch_size,
        data.test_batch_size,
        settings.prune.seed,
        data.image_size,
    )
    model = initial_model(settings, splits)
    labels = labels_of(data, settings.train, splits)
    has_weights = data.pretrained is not None or data.weights is not None
    folder = run_folder(settings.run, f"{_short_name(data)}-{data.dataset}")
    # CPruner locks the folder for itself; the training precedes it.
    with locked(folder, name="training.lock"), ConsoleReport() as report:
        report.say(description(labels["model"], model, (1, *splits.shape)))
        check_options(folder, options_of(settings, labels), settings.run.resume)
        pruner = CPruner(
            model=model if has_weights else trained_model(model, settings, splits, folder, report.say),
            input_shape=(1, *splits.shape),
            training=training_on(splits, settings, folder, report.say),
            config=settings.prune,
            run_dir=folder,
            target=device.target,
            labels=labels,
            report=report,
            profile=device.profile,
            tracker=tracker,
        )
        result = pruner.run(resume=settings.run.resume)
        for name in ("short-term", "final"):
            training_file(folder, name).unlink(missing_ok=True)
        report.console.print(summary(result))
        report.say(f"{conclusion(result)}. See {folder / 'report.html'}")


def initial_model(settings: Settings, splits: Splits) -> torch.nn.Module:
    """Return the network with random weights, or with those of ``--weights`` or ``--pretrained``.

    Raises
    ------
    CPruneError
        If the weights in the file do not fit the network or the data set.
    """
    data, classes = settings.data, len(splits.classes)
    torch.manual_seed(settings.prune.seed)
    if data.weights is not None and data.pretrained is not None:
        raise CPruneError("--weights and --pretrained exclude each other: choose one source of weights")
    model = make_model(data.model, splits.shape[0], classes, splits.shape[-1], data.weights)
    if data.pretrained is None:
        return model
    model = load_weights(data.pretrained, model).eval()
    try:
        with torch.no_grad():
            outputs = model(torch.zeros(1, *splits.shape)).shape[1]
    except RuntimeError as error:
        what = f"{data.model} on {data.dataset}"
        raise CPruneError(f"{data.pretrained} does not fit {what}: {first_line(error)}") from None
    if outputs != classes:
        raise CPruneError(f"the network in {data.pretrained} has {outputs} outputs, expected {classes}")
    return model


def description(name: str, model: torch.nn.Module, input_shape: tuple[int, ...]) -> str:
    """Return a line with the name and the size of a network."""
    macs, parameters = macs_and_params(model, input_shape)
    return f"{name}: {macs / 1e9:.3f} G multiply-accumulates, {parameters / 1e6:.2f} M parameters"


def _short_name(data: DataSettings) -> str:
    """Return the name of the network without its prefix, for the names of files."""
    return data.model.rpartition("/")[2]


def trained_model(
    model: torch.nn.Module, settings: Settings, splits: Splits, folder: Path, say: Callable[[str], None]
) -> torch.nn.Module:
    """Train the network to prune, or load its checkpoint."""
    data, epochs, seed = settings.data, settings.train.train_epochs, settings.prune.seed
    name = f"{_short_name(data)}-{data.dataset}-{epochs}-epochs-seed-{seed}"
    file = training_file(folder, "first")
    if not (folder / "checkpoints" / f"{name}.pt").exists():
        say(f"training {data.model} on {data.dataset} for {epochs} epochs")
        interval = settings.train.log_interval
        train(model, splits.train, epochs, START_LEARNING_RATE, True, interval, say, file)
        save_checkpoint(folder, name, model)
    file.unlink(missing_ok=True)
    return load_checkpoint(folder, name, model)


def training_on(
    splits: Splits, settings: Settings, folder: Path, say: Callable[[str], None] = print
) -> Training:
    """Return how CPrune trains and evaluates models on a data set.

    Trainings save their state in ``folder`` after each epoch. A finished training stays there until the next
    one, so that it is not repeated if the run is killed during the evaluation that follows.
    """
    options = settings.train

    def short_term(model: torch.nn.Module) -> None:
        file = training_file(folder, "short-term")
        rate, limit = options.short_term_rate, options.short_term_batches
        train(model, splits.train, options.short_term_epochs, rate, say=say, checkpoint=file, batches=limit)

    def long_term(model: torch.nn.Module) -> None:
        file = training_file(folder, "final")
        train(
            model,
            splits.train,
            options.fine_tune_epochs,
            FINE_TUNE_LEARNING_RATE,
            anneal=True,
            say=say,
            checkpoint=file,
        )

    def batches() -> DataLoader:
        # A resumed run must rank the channels on the same images.
        torch.manual_seed(settings.prune.seed)
        return splits.train

    return Training(
        short_term=short_term,
        long_term=long_term if long_term_epochs(options) else None,
        evaluate=lambda model: accuracy(model, splits.validation),
        test=lambda model: accuracy(model, splits.test),
        batches=batches,
        criterion=torch.nn.CrossEntropyLoss(),
    )


def long_term_epochs(settings: TrainSettings) -> int:
    """Return the number of epochs to train the pruned model at the end."""
    return settings.fine_tune_epochs if settings.fine_tune else 0


def labels_of(data: DataSettings, training: TrainSettings, splits: Splits) -> dict[str, Any]:
    """Return what the result records about the run and a resumed run must share."""
    return {
        "model": full_name(data.model, splits.shape[-1]),
        "dataset": data.dataset,
        "classes": splits.classes,
        "batch_size": data.batch_size,
        "short_term_epochs": training.short_term_epochs,
        "short_term_batches": training.short_term_batches,
        "long_term_epochs": long_term_epochs(training),
    }


def options_of(settings: Settings, labels: dict[str, Any]) -> dict[str, Any]:
    """Return the options on which the trained network depends."""
    pretrained = settings.data.pretrained
    return {
        **labels,
        "image_size": settings.data.image_size,
        "train_epochs": settings.train.train_epochs,
        "pretrained": str(pretrained) if pretrained else None,
        "weights": settings.data.weights,
        "seed": settings.prune.seed,
    }


def conclusion(result: dict[str, Any]) -> str:
    """Summarize a result in one line."""
    share = result["trials"]["transplant_share_after_first_tuning"]
    transplants = "-" if share is None else f"{share:.0%}"
    return (
        f"speedup {result['speedup']:.2f}x; {result['accepted']} of {len(result['iterations'])} candidates "
        f"accepted; {transplants} of the trials after the first tuning were transplants; stopped because "
        f"{result['stopped_because']}"
    )


def main(arguments: list[str] | None = None) -> int:
    """Run the tutorial and return its exit status."""
    options = parse_arguments(arguments, __doc__)
    try:
        run(make_settings(options))
    except CPruneError as error:
        print(f"main.py: {error}", file=sys.stderr)
        return 1
    except OSError as error:
        path = error.filename or "a file"
        print(f"main.py: cannot read or write {path}: {error.strerror}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("main.py: interrupted; continue with --resume", file=sys.stderr)
        return 130
    return 0


if __name__ == "__main__":
    # The measuring processes inherit this variable. Without it TVM uses half of the cores.
    os.environ.setdefault("TVM_NUM_THREADS", str(host_threads()))
    sys.exit(main())
