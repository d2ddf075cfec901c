# SPDX-License-Identifier: Apache-2.0
"""Train a network, tune it, prune it with CPrune, and compare the original with the pruned model.

    python tutorials/frontend/main.py    # a small ResNet on handwritten digits, about 6 minutes on 2 cores
    python tutorials/frontend/main.py --tuner autotvm --strategy xgb
    python tutorials/frontend/main.py --model mobilenetv2 --dataset glyphs
    python tutorials/frontend/main.py --method progressive
    python tutorials/frontend/main.py --method knapsack --speed-up 2
    python tutorials/frontend/main.py --model mobilenetv2 --dataset cifar10 --data-dir ~/data
    python tutorials/frontend/main.py --target android-cpu --tracker 127.0.0.1:9190 --device-key phone

Here, "python" is .venv/bin/python. To continue an interrupted run, repeat its command with --resume.

All output goes to the folder of the run: result.json, report.html, the pruned model (model.pt, model.onnx and
net.so), the tuning records, and the journal from which --resume continues.
"""

import os
import sys
from typing import Any

import torch

from compute import make_fabric
from data import WITHOUT_FILES, Splits, load_data
from models import full_name, make_model
from options import make_settings, parse_arguments
from run_folder import check_options, run_folder, training_file
from settings import Settings
from training import long_term_epochs, short_name, trained_model, training_on
from tvm.contrib.cprune.loop.console import ConsoleReport, summary
from tvm.contrib.cprune.loop.lock import locked
from tvm.contrib.cprune.measuring.tracker import Tracker
from tvm.contrib.cprune.messages import first_line
from tvm.contrib.cprune.models.checkpoint import load_weights
from tvm.contrib.cprune.models.surgery import macs_and_params
from tvm.contrib.cprune.pruner import CPruner
from tvm.contrib.cprune.targets.presets import find_preset
from tvm.contrib.cprune.targets.target import host_threads
from tvm.contrib.cprune.types import CPruneError


def run(settings: Settings) -> None:
    """Train, tune, prune and measure."""
    data, device = settings.data, settings.device
    # These checks fail early: training and tuning can take hours.
    find_preset(device.target).compiler()
    make_fabric(settings.compute)
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
    labels = labels_of(settings, splits)
    has_weights = data.pretrained is not None or data.weights is not None
    folder = run_folder(settings.run, f"{short_name(data)}-{data.dataset}")
    # CPruner locks the folder for itself; the training precedes it.
    with locked(folder, name="training.lock"), ConsoleReport() as report:
        report.say(description(labels["model"], model, (1, *splits.shape)))
        check_options(folder, options_of(settings, labels), settings.run.resume)
        if not has_weights:
            model = trained_model(model, settings, splits, folder, report)
        pruner = CPruner(
            model=model,
            input_shape=(1, *splits.shape),
            # Trainings start when there is a pruner, which writes down the time that they take.
            training=training_on(splits, settings, folder, model, lambda event: pruner.receive(event)),
            config=settings.prune,
            run_dir=folder,
            target=device.target,
            labels=labels,
            report=report,
            profile=device.profile,
            tracker=tracker,
        )
        result = pruner.run(resume=settings.run.resume)
        for name in ("short-term", "long-term"):
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


def labels_of(settings: Settings, splits: Splits) -> dict[str, Any]:
    """Return what the result records about the run and a resumed run must share."""
    data, training = settings.data, settings.train
    return {
        "model": full_name(data.model, splits.shape[-1]),
        "dataset": data.dataset,
        "classes": splits.classes,
        "batch_size": data.batch_size,
        "short_term_epochs": training.short_term_epochs,
        "short_term_batches": training.short_term_batches,
        "short_term_rate": training.short_term_rate,
        "long_term_epochs": long_term_epochs(training),
        "distill": training.distill,
        "precision": settings.compute.precision,
    }


def options_of(settings: Settings, labels: dict[str, Any]) -> dict[str, Any]:
    """Return the options on which the trained network and the splits depend."""
    data, pretrained = settings.data, settings.data.pretrained
    return {
        **labels,
        "data_dir": None if data.dataset in WITHOUT_FILES else str(data.data_dir.resolve()),
        "image_size": data.image_size,
        "train_epochs": settings.train.train_epochs,
        "train_rate": settings.train.train_rate,
        "pretrained": str(pretrained) if pretrained else None,
        "weights": data.weights,
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
        print("main.py: interrupted; to continue, repeat the command with --resume", file=sys.stderr)
        return 130
    return 0


if __name__ == "__main__":
    # The measuring processes inherit this variable. Without it TVM uses half of the cores.
    os.environ.setdefault("TVM_NUM_THREADS", str(host_threads()))
    sys.exit(main())
