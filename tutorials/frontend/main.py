# SPDX-License-Identifier: Apache-2.0
"""Train a network, tune it, prune it with CPrune, and compare the original with the pruned model.

    python tutorials/frontend/main.py            # a small ResNet on handwritten digits, about ten minutes
    python tutorials/frontend/main.py --resume   # continue an interrupted run
    python tutorials/frontend/main.py --tuner autotvm --strategy xgb
    python tutorials/frontend/main.py --model mobilenetv2 --dataset cifar10 --data-dir ~/data
    python tutorials/frontend/main.py --target android-cpu --tracker 127.0.0.1:9190 --device-key phone

All output goes to the folder of the run: result.json, report.html, the pruned model (model.pt, model.onnx and
net.so), the tuning records, and the journal from which --resume continues.
"""

import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from data import Splits, load_data
from models import make_model
from options import DataSettings, RunSettings, Settings, TrainSettings, make_settings, parse_arguments
from train import accuracy, train
from tvm.contrib.cprune.loop.console import ConsoleReport, summary
from tvm.contrib.cprune.loop.training import Training
from tvm.contrib.cprune.measuring.tracker import Tracker
from tvm.contrib.cprune.models.checkpoint import load_checkpoint, load_weights, save_checkpoint
from tvm.contrib.cprune.pruner import CPruner
from tvm.contrib.cprune.targets.presets import find_preset
from tvm.contrib.cprune.targets.target import host_threads
from tvm.contrib.cprune.types import CPruneError

START_LEARNING_RATE, FINE_TUNE_LEARNING_RATE = 0.05, 1e-2
RUNS = Path("runs")


def run(settings: Settings) -> None:
    """Train, tune, prune and measure."""
    data, device = settings.data, settings.device
    # These two checks fail early: training and tuning can take hours.
    find_preset(device.target).compiler()
    limits = {"wait": device.wait_timeout, "cooldown": device.cool_down}
    tracker = Tracker.from_options(device.tracker, device.device_key, **limits)
    splits = load_data(
        data.dataset, data.data_dir, data.batch_size, data.test_batch_size, settings.prune.seed
    )
    folder = run_folder(settings.run, f"{data.model}-{data.dataset}")
    with ConsoleReport() as report:
        pruner = CPruner(
            model=trained_model(settings, splits, folder, report.say),
            input_shape=(1, *splits.shape),
            training=training_on(splits, settings.train),
            config=settings.prune,
            run_dir=folder,
            target=device.target,
            labels=labels_of(data, settings.train, splits),
            report=report,
            profile=device.profile,
            tracker=tracker,
        )
        result = pruner.run(resume=settings.run.resume)
        report.console.print(summary(result))
        report.say(f"{conclusion(result)}. See {folder / 'report.html'}")


def run_folder(settings: RunSettings, name: str) -> Path:
    """Return the folder of the run: the one given, the newest one to resume, or a new one.

    Raises
    ------
    CPruneError
        If there is no run to resume.
    """
    if settings.experiment_data_dir is not None:
        return settings.experiment_data_dir
    if not settings.resume:
        return RUNS / f"{name}-{time.strftime('%Y%m%d-%H%M%S')}"
    folders = sorted(RUNS.glob(f"{name}-*"))
    if not folders:
        raise CPruneError(f"{RUNS.resolve()} contains no run of {name} to resume")
    return folders[-1]


def trained_model(
    settings: Settings, splits: Splits, folder: Path, say: Callable[[str], None]
) -> torch.nn.Module:
    """Return the network to prune: load its weights or its checkpoint, or train it."""
    data, epochs, seed = settings.data, settings.train.train_epochs, settings.prune.seed
    torch.manual_seed(seed)
    model = make_model(data.model, splits.shape[0], len(splits.classes))
    if data.pretrained:
        return load_weights(data.pretrained, model)
    name = f"{data.model}-{data.dataset}-{epochs}-epochs-seed-{seed}"
    if (folder / "checkpoints" / f"{name}.pt").exists():
        return load_checkpoint(folder, name, model)
    say(f"training {data.model} on {data.dataset} for {epochs} epochs")
    interval = settings.train.log_interval
    train(model, splits.train, epochs, START_LEARNING_RATE, anneal=True, log_interval=interval, say=say)
    save_checkpoint(folder, name, model)
    return model


def training_on(splits: Splits, settings: TrainSettings) -> Training:
    """Return how CPrune trains and evaluates models on a data set."""

    def short_term(model: torch.nn.Module) -> None:
        train(model, splits.train, settings.short_term_epochs, settings.short_term_rate)

    def long_term(model: torch.nn.Module) -> None:
        train(model, splits.train, settings.fine_tune_epochs, FINE_TUNE_LEARNING_RATE, anneal=True)

    return Training(
        short_term=short_term,
        long_term=long_term if long_term_epochs(settings) else None,
        evaluate=lambda model: accuracy(model, splits.validation),
        test=lambda model: accuracy(model, splits.test),
        batches=lambda: splits.train,
        criterion=torch.nn.CrossEntropyLoss(),
    )


def long_term_epochs(settings: TrainSettings) -> int:
    """Return the number of epochs to train the pruned model at the end."""
    return settings.fine_tune_epochs if settings.fine_tune else 0


def labels_of(data: DataSettings, training: TrainSettings, splits: Splits) -> dict[str, Any]:
    """Return what the result records about the run and a resumed run must share."""
    return {
        "model": data.model,
        "dataset": data.dataset,
        "classes": splits.classes,
        "batch_size": data.batch_size,
        "short_term_epochs": training.short_term_epochs,
        "long_term_epochs": long_term_epochs(training),
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
