# SPDX-License-Identifier: Apache-2.0
"""The tutorial's settings. Its command-line options are derived from these classes and CPrune's own."""

import argparse
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple

from compute import ComputeSettings
from train import LEARNING_RATE
from tvm.contrib.cprune.checks import check_fields
from tvm.contrib.cprune.config import PruneConfig, TuneConfig
from tvm.contrib.cprune.method_settings import unused_settings
from tvm.contrib.cprune.options import ArgumentParser, Options


@dataclass(frozen=True)
class DataSettings:
    """The network and the data set.

    Attributes
    ----------
    model
        resnet8, resnet18, vgg16, mobilenetv1, mobilenetv2, lenet, or the name of a torchvision model. A name
        that both have means torchvision's network for images of 64x64 and larger; a prefix selects one, as in
        small/resnet18 and torchvision/resnet18.
    dataset
        Data set to train on. Only digits and glyphs need no files. imagefolder is for your own images.
    data_dir
        Folder that contains cifar10, the folders train and val of imagenet, or the class folders of
        imagefolder.
    image_size
        Rows and columns of the images of imagenet and imagefolder; the default is 224.
    weights
        Weights of torchvision to load instead of training the network, such as DEFAULT.
    pretrained
        File of weights (a state dict of PyTorch or a TorchScript file) to load instead of training the
        network.
    batch_size
        Number of images per training step.
    test_batch_size
        Number of images per step of an accuracy evaluation.
    """

    model: str = "resnet8"
    dataset: Literal["digits", "glyphs", "cifar10", "imagenet", "imagefolder"] = "digits"
    data_dir: Path = Path("data")
    image_size: int | None = None
    weights: str | None = None
    pretrained: Path | None = None
    batch_size: int = 32
    test_batch_size: int = 200

    def __post_init__(self) -> None:
        check_fields(self, ("batch_size", "test_batch_size"), lambda value: value >= 1, "at least 1")
        check_fields(self, ["image_size"], lambda value: value is None or value >= 8, "at least 8")


@dataclass(frozen=True)
class TrainSettings:
    """How long to train, and how fast.

    Attributes
    ----------
    train_epochs
        Number of epochs to train the original network.
    short_term_epochs
        Number of epochs to train a candidate after each pruning step.
    short_term_batches
        Train each candidate for this many batches instead of whole epochs; 0 trains whole epochs.
    short_term_rate
        Learning rate of this short-term training.
    fine_tune
        Train the pruned model at the end.
    fine_tune_epochs
        Number of epochs to train the pruned model at the end.
    distill
        Weight, from 0 to 1, of the unpruned model's outputs in the loss of this final training (knowledge
        distillation at a temperature of 4). The rest is the weight of the labels.
    log_interval
        Number of batches between two reports of the loss while the original network is trained; 0 means
        none.
    """

    train_epochs: int
    short_term_epochs: int
    short_term_rate: float
    fine_tune_epochs: int
    short_term_batches: int = 0
    fine_tune: bool = True
    distill: float = 0.0
    log_interval: int = 0

    def __post_init__(self) -> None:
        epochs = ("train_epochs", "short_term_epochs", "fine_tune_epochs")
        counts = (*epochs, "short_term_batches", "log_interval")
        check_fields(self, counts, lambda value: value >= 0, "0 or more")
        check_fields(self, ["distill"], lambda value: 0 <= value <= 1, "0 to 1")


@dataclass(frozen=True)
class DeviceSettings:
    """The device that runs the programs.

    Attributes
    ----------
    target
        A preset (cpu, arm64-linux, android-cpu, android-opencl-mali, android-opencl-adreno) or a TVM target
        such as "llvm -mcpu=core-avx2". The default is this machine.
    tracker
        Address (host:port) of the TVM RPC tracker whose devices run the programs. With --device-key alone,
        the environment variables TVM_TRACKER_HOST and TVM_TRACKER_PORT give the address.
    device_key
        Key of the devices to request from the tracker.
    cool_down
        Seconds that a remote device rests after each program.
    wait_timeout
        Seconds to wait before reporting that no device is available.
    profile
        File profile.json of the command "profile". The widths in it are not measured again.
    """

    target: str | None = None
    tracker: str | None = None
    device_key: str | None = None
    cool_down: float = 0.1
    wait_timeout: float = 10
    profile: Path | None = None

    def __post_init__(self) -> None:
        check_fields(self, ("cool_down", "wait_timeout"), lambda value: value >= 0, "0 or more")


@dataclass(frozen=True)
class RunSettings:
    """The run and its folder.

    Attributes
    ----------
    experiment_data_dir
        Folder of the run. The default is a new folder in runs/ or, with --resume, the newest one there.
    resume
        Continue the run in that folder.
    """

    experiment_data_dir: Path | None = None
    resume: bool = False


class Settings(NamedTuple):
    """All settings of a run."""

    data: DataSettings
    train: TrainSettings
    compute: ComputeSettings
    prune: PruneConfig
    device: DeviceSettings
    run: RunSettings


class Defaults(NamedTuple):
    """Default values that depend on the data set."""

    accuracy_requirement: float
    train_epochs: int
    short_term_epochs: int
    fine_tune_epochs: int
    short_term_rate: float = LEARNING_RATE
    tune_seconds: float = TuneConfig.max_seconds
    max_seconds: float = PruneConfig.max_seconds
    num_workers: int = 0


DEFAULTS = {
    # A demonstration: trains in seconds, and is limited to about ten minutes.
    "digits": Defaults(0.97, 12, 2, 12, short_term_rate=1e-2, tune_seconds=270, max_seconds=180),
    # Characters on which pruning costs accuracy. MobileNetV2 reaches 0.90, and takes up to an hour.
    "glyphs": Defaults(0.88, 10, 1, 5, short_term_rate=1e-3, tune_seconds=720, max_seconds=900),
    # The epochs of the paper (section 4.1).
    "cifar10": Defaults(0.92, 100, 5, 100, num_workers=2),
    "imagenet": Defaults(0.69, 90, 1, 20, num_workers=4),
    # The user knows what accuracy to require.
    "imagefolder": Defaults(0.0, 90, 1, 20, num_workers=4),
}


def _by_dataset(option: str) -> str:
    return ", ".join(f"{getattr(values, option)} for {name}" for name, values in DEFAULTS.items())


# Seconds that a program runs in total on a remote device, where single runs vary more.
REMOTE_MIN_TIME = 0.02

DATA = Options(DataSettings)
TRAIN = Options(
    TrainSettings,
    (
        "train_epochs",
        "short_term_epochs",
        "short_term_batches",
        "fine_tune",
        "fine_tune_epochs",
        "distill",
        "log_interval",
    ),
    computed={name: _by_dataset(name) for name in ("train_epochs", "short_term_epochs", "fine_tune_epochs")},
)
COMPUTE = Options(ComputeSettings, computed={"num_workers": _by_dataset("num_workers")})
PRUNE = Options(
    PruneConfig,
    (
        "method",
        "accuracy_requirement",
        "importance",
        "max_sparsity",
        "speedup_goal",
        "latency_goal",
        "macs_goal",
        "round_widths",
        "latency_cut",
        "alpha",
        "beta",
        "step_rule",
        "retry_smaller",
        "partial_fit",
        "larger_steps",
        "hopeless",
        "max_iterations",
        "max_seconds",
        "final_trials",
        "seed",
    ),
    flags={
        "importance": "--base-algo",
        "max_sparsity": "--sparsity",
        "speedup_goal": "--speed-up",
        "latency_goal": "--latency",
        "macs_goal": "--macs",
        "round_widths": "--round",
    },
    defaults={"final_trials": 8},
    computed={name: _by_dataset(name) for name in ("accuracy_requirement", "max_seconds")},
)
TUNE = Options(
    TuneConfig,
    (
        "tuner",
        "strategy",
        "trials",
        "max_seconds",
        "threads",
        "repeats",
        "min_seconds",
        "build_timeout",
        "run_timeout",
        "library",
    ),
    flags={"max_seconds": "--tune-seconds", "min_seconds": "--min-time"},
    computed={
        "max_seconds": _by_dataset("tune_seconds"),
        "min_seconds": f"{TuneConfig.min_seconds}, or {REMOTE_MIN_TIME} with --device-key",
    },
)
DEVICE = Options(DeviceSettings)
RUN = Options(RunSettings)
GROUPS: dict[str, Options[Any]] = {
    "model and data": DATA,
    "training": TRAIN,
    "processors for training": COMPUTE,
    "pruning": PRUNE,
    "tuning and measuring": TUNE,
    "device": DEVICE,
    "run": RUN,
}


def parse_arguments(arguments: list[str] | None = None, description: str | None = None) -> argparse.Namespace:
    """Parse a command line and replace the defaults that depend on other options."""
    parser = ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    for title, options in GROUPS.items():
        options.add_to(parser.add_argument_group(title))
    parsed = parser.parse_args(arguments)
    computed = DEFAULTS[parsed.dataset]._asdict()
    # A method refuses a setting that it does not use.
    unused = unused_settings(PruneConfig, parsed.method)
    computed.update({name: unused[name] for name in computed.keys() & unused.keys()})
    computed["min_time"] = REMOTE_MIN_TIME if parsed.device_key else TuneConfig.min_seconds
    for name, value in computed.items():
        if getattr(parsed, name, None) is None:
            setattr(parsed, name, value)
    return parsed


def make_settings(parsed: argparse.Namespace) -> Settings:
    """Return the settings of a command line.

    Raises
    ------
    CPruneError
        If a value is invalid; the message names the option.
    """
    return Settings(
        DATA.build(parsed),
        TRAIN.build(parsed, short_term_rate=parsed.short_term_rate),
        COMPUTE.build(parsed),
        PRUNE.build(parsed, tune=TUNE.build(parsed)),
        DEVICE.build(parsed),
        RUN.build(parsed),
    )
