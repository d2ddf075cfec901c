# SPDX-License-Identifier: Apache-2.0
"""Train a network, tune it, prune it with CPrune, and measure both side by side.

    python tutorials/frontend/main.py            # a small ResNet on digits, ten minutes
    python tutorials/frontend/main.py --resume   # go on where a killed run was
    python tutorials/frontend/main.py --model mobilenetv2 --dataset cifar10 --data-dir ~/data

Everything is written into one folder (--experiment-data-dir): result.json, report.html, the pruned model as
model.pt, model.onnx and net.so, the tuning records, and a journal from which a killed run goes on.
"""

import argparse
import os
import sys
import time
from pathlib import Path
from typing import NamedTuple, NoReturn

import torch

from data import DATASETS, load_data
from models import MODELS, make_model
from train import LEARNING_RATE, accuracy, train
from tvm.contrib.cprune.config import IMPORTANCES, STEP_RULES, STRATEGIES, TUNERS, PruneConfig, TuneConfig
from tvm.contrib.cprune.loop.console import ConsoleReport, summary
from tvm.contrib.cprune.loop.training import Training
from tvm.contrib.cprune.measuring.tracker import Tracker
from tvm.contrib.cprune.models.checkpoint import load_checkpoint, load_weights, save_checkpoint
from tvm.contrib.cprune.pruner import CPruner
from tvm.contrib.cprune.targets.presets import NAMES, find_preset
from tvm.contrib.cprune.targets.target import host_threads
from tvm.contrib.cprune.types import CPruneError

PRUNE, TUNE = PruneConfig(), TuneConfig()


class Defaults(NamedTuple):
    """What depends on the data set unless it is given; for cifar10 and imagenet the epochs are the paper's
    (section 4.1)."""

    accuracy_requirement: float
    train_epochs: int
    short_term_epochs: int
    fine_tune_epochs: int
    short_term_rate: float = LEARNING_RATE
    tune_seconds: float = TUNE.max_seconds
    max_seconds: float = PRUNE.max_seconds


DEFAULTS = {
    # A demonstration: trained in seconds, and bounded to ten minutes or so.
    "digits": Defaults(0.97, 12, 2, 12, short_term_rate=1e-2, tune_seconds=270, max_seconds=180),
    "cifar10": Defaults(0.92, 100, 5, 100),
    "imagenet": Defaults(0.69, 90, 1, 20),
}
START_LEARNING_RATE = 0.05
RUNS = Path("runs")


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        self.exit(2, f"{self.prog}: {message} (see --help)\n")


def parse_arguments(arguments: list[str] | None = None) -> argparse.Namespace:
    parser = _Parser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    what = parser.add_argument_group("model and data")
    what.add_argument(
        "--model", default="resnet8", help=f"{', '.join(MODELS)}, or one of torchvision's (%(default)s)"
    )
    what.add_argument("--dataset", default="digits", choices=DATASETS, help="data set (%(default)s)")
    what.add_argument(
        "--data-dir", type=Path, default=Path("data"), help="where cifar10 or imagenet lie (%(default)s)"
    )
    what.add_argument(
        "--pretrained", type=Path, help="weights (a state dict) to start from, instead of training"
    )
    what.add_argument("--batch-size", type=int, default=32, help="images a training step (%(default)s)")
    what.add_argument(
        "--test-batch-size", type=int, default=200, help="images a step when judging (%(default)s)"
    )
    what.add_argument("--train-epochs", type=int, help="epochs of training from the start (by data set)")

    prune = parser.add_argument_group("pruning")
    prune.add_argument(
        "--accuracy-requirement", type=float, help="least validation accuracy, 0 to 1 (by data set)"
    )
    prune.add_argument(
        "--base-algo", default=PRUNE.importance, choices=IMPORTANCES, help="channel importance (%(default)s)"
    )
    prune.add_argument(
        "--sparsity", type=float, default=PRUNE.max_sparsity, help="most of a layer to prune (%(default)s)"
    )
    prune.add_argument(
        "--speed-up",
        type=float,
        default=PRUNE.speedup_goal,
        help="stop when this many times as fast (0: go on)",
    )
    prune.add_argument(
        "--alpha", type=float, default=PRUNE.alpha, help="accuracy to keep in each step (%(default)s)"
    )
    prune.add_argument(
        "--beta", type=float, default=PRUNE.beta, help="latency to reach in each step (%(default)s)"
    )
    prune.add_argument(
        "--step-rule", default=PRUNE.step_rule, choices=STEP_RULES, help="width of a step (%(default)s)"
    )
    prune.add_argument(
        "--max-iterations", type=int, default=PRUNE.max_iterations, help="candidates (%(default)s)"
    )
    prune.add_argument("--max-seconds", type=float, help="time for pruning; 0: no limit (by data set)")
    prune.add_argument("--short-term-epochs", type=int, help="training after each step (by data set)")
    prune.add_argument(
        "--fine-tune",
        action=argparse.BooleanOptionalAction,
        default=True,
        help="train the pruned model at the end",
    )
    prune.add_argument("--fine-tune-epochs", type=int, help="training at the end (by data set)")

    tune = parser.add_argument_group("tuning and measuring")
    tune.add_argument(
        "--target",
        help=f'{", ".join(NAMES)}, or a target of TVM such as "llvm -mcpu=core-avx2" (default: this machine)',
    )
    tune.add_argument(
        "--tracker",
        help="host:port of an RPC tracker: measure on its devices (or TVM_TRACKER_HOST and _PORT)",
    )
    tune.add_argument("--device-key", help="which of the tracker's devices")
    tune.add_argument(
        "--cool-down", type=float, default=0.1, help="seconds a device rests after a program (%(default)s)"
    )
    tune.add_argument(
        "--min-time",
        type=float,
        help="seconds that the runs of a program last at least, within 10 times --repeats (0; devices: 0.02)",
    )
    tune.add_argument(
        "--run-timeout", type=float, default=TUNE.run_timeout, help="seconds for a program (%(default)s)"
    )
    tune.add_argument(
        "--build-timeout", type=float, default=TUNE.build_timeout, help="seconds to compile one (%(default)s)"
    )
    tune.add_argument(
        "--wait-timeout", type=float, default=10, help="seconds until a missing device is said (%(default)s)"
    )
    tune.add_argument(
        "--repeats", type=int, default=TUNE.repeats, help="timed runs of a program (%(default)s)"
    )
    tune.add_argument(
        "--trials", type=int, default=TUNE.trials, help="programs to measure a task (%(default)s)"
    )
    tune.add_argument(
        "--final-trials", type=int, default=8, help="further ones at the end, in all (%(default)s)"
    )
    tune.add_argument(
        "--tune-seconds",
        type=float,
        help="time for a search; 0: no limit (by data set)",
    )
    tune.add_argument(
        "--tuner", default=TUNE.tuner, choices=TUNERS, help="who searches for programs (%(default)s)"
    )
    tune.add_argument(
        "--strategy", default=TUNE.strategy, choices=STRATEGIES, help="for autotvm (%(default)s)"
    )
    tune.add_argument(
        "--profile", type=Path, help="profile.json of the command `profile`: no need to measure these widths"
    )
    tune.add_argument(
        "--threads", type=int, default=0, help=f"threads of the model (default: {host_threads()})"
    )

    run = parser.add_argument_group("run")
    run.add_argument("--experiment-data-dir", type=Path, help=f"run folder (default: a new one in {RUNS}/)")
    run.add_argument(
        "--resume", action="store_true", help="go on with the run in that folder (default: the newest one)"
    )
    run.add_argument(
        "--log-interval", type=int, default=0, help="batches between two lines about the loss; 0: none"
    )
    run.add_argument("--seed", type=int, default=PRUNE.seed, help="seed of every random choice (%(default)s)")
    options = parser.parse_args(arguments)
    for name, value in DEFAULTS[options.dataset]._asdict().items():
        if getattr(options, name, None) is None:
            setattr(options, name, value)
    if options.min_time is None:
        options.min_time = 0.02 if options.device_key else 0.0
    return options


def run_folder(options: argparse.Namespace) -> Path:
    """Return the folder of the run: the one that was named, the newest one to resume, or a new one."""
    if options.experiment_data_dir is not None:
        return options.experiment_data_dir
    name = f"{options.model}-{options.dataset}"
    if not options.resume:
        return RUNS / f"{name}-{time.strftime('%Y%m%d-%H%M%S')}"
    found = sorted(RUNS.glob(f"{name}-*"))
    if not found:
        raise CPruneError(f"there is no run of {name} in {RUNS.resolve()} to resume")
    return found[-1]


def make_config(options: argparse.Namespace) -> PruneConfig:
    return PruneConfig(
        accuracy_requirement=options.accuracy_requirement,
        alpha=options.alpha,
        beta=options.beta,
        importance=options.base_algo,
        step_rule=options.step_rule,
        max_iterations=options.max_iterations,
        max_sparsity=options.sparsity,
        speedup_goal=options.speed_up,
        max_seconds=options.max_seconds,
        seed=options.seed,
        tune=TuneConfig(
            tuner=options.tuner,
            strategy=options.strategy,
            trials=options.trials,
            max_seconds=options.tune_seconds,
            threads=options.threads,
            repeats=options.repeats,
            min_seconds=options.min_time,
            run_timeout=options.run_timeout,
            build_timeout=options.build_timeout,
        ),
        final_trials=options.final_trials,
    )


def trained_model(options: argparse.Namespace, splits, folder: Path, say) -> torch.nn.Module:  # type: ignore[no-untyped-def]
    """Return the network to prune: loaded where it was trained before, else trained now."""
    torch.manual_seed(options.seed)
    model = make_model(options.model, splits.shape[0], len(splits.classes))
    if options.pretrained:
        return load_weights(options.pretrained, model)
    epochs = options.train_epochs
    name = f"{options.model}-{options.dataset}-{epochs}-epochs-seed-{options.seed}"
    if (folder / "checkpoints" / f"{name}.pt").exists():
        return load_checkpoint(folder, name, model)
    say(f"training {options.model} on {options.dataset} for {epochs} epochs")
    train(
        model,
        splits.train,
        epochs,
        START_LEARNING_RATE,
        anneal=True,
        log_interval=options.log_interval,
        say=say,
    )
    save_checkpoint(folder, name, model)
    return model


def run(options: argparse.Namespace) -> None:
    config = make_config(options)
    find_preset(options.target).compiler()
    limits = {"wait": options.wait_timeout, "cooldown": options.cool_down}
    tracker = Tracker.from_options(options.tracker, options.device_key, **limits)
    splits = load_data(
        options.dataset, options.data_dir, options.batch_size, options.test_batch_size, options.seed
    )
    with ConsoleReport() as report:
        folder = run_folder(options)
        model = trained_model(options, splits, folder, report.say)
        long = options.fine_tune_epochs if options.fine_tune else 0
        training = Training(
            short_term=lambda m: train(m, splits.train, options.short_term_epochs, options.short_term_rate),
            long_term=(lambda m: train(m, splits.train, long, 1e-2, anneal=True)) if long else None,
            evaluate=lambda m: accuracy(m, splits.validation),
            test=lambda m: accuracy(m, splits.test),
            batches=lambda: splits.train,
            criterion=torch.nn.CrossEntropyLoss(),
        )
        labels = {
            "model": options.model,
            "dataset": options.dataset,
            "classes": splits.classes,
            "batch_size": options.batch_size,
            "short_term_epochs": options.short_term_epochs,
            "long_term_epochs": long,
        }
        shape = (1, *splits.shape)
        pruner = CPruner(
            model, shape, training, config, folder, options.target, labels, report, options.profile, tracker
        )
        result = pruner.run(resume=options.resume)
        report.console.print(summary(result))
        share = result["trials"]["transplant_share_after_first_tuning"]
        transplants = "-" if share is None else f"{share:.0%}"
        report.say(
            f"{result['speedup']:.2f} times as fast, {result['accepted']} of {len(result['iterations'])} "
            f"candidates accepted, {transplants} of the trials after the first tuning were transplants; "
            f"ended because {result['stopped_because']}. See {folder / 'report.html'}"
        )


def main(arguments: list[str] | None = None) -> int:
    options = parse_arguments(arguments)
    try:
        run(options)
    except CPruneError as error:
        print(f"main.py: {error}", file=sys.stderr)
        return 1
    except OSError as error:
        print(
            f"main.py: cannot write or read {error.filename or 'a file'}: {error.strerror}", file=sys.stderr
        )
        return 1
    except KeyboardInterrupt:
        print("main.py: stopped; --resume goes on from here", file=sys.stderr)
        return 130
    return 0


if __name__ == "__main__":
    # The measuring processes inherit this; TVM would take half of the cores.
    os.environ.setdefault("TVM_NUM_THREADS", str(host_threads()))
    sys.exit(main())
