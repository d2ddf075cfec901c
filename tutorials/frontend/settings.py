# SPDX-License-Identifier: Apache-2.0
"""The tutorial's settings, besides those of CPrune itself."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal, NamedTuple

from compute import ComputeSettings
from tvm.contrib.cprune.checks import check_fields
from tvm.contrib.cprune.config import PruneConfig


@dataclass(frozen=True)
class DataSettings:
    """The network and the data set.

    Attributes
    ----------
    model
        resnet8, resnet18, vgg16, mobilenetv1, mobilenetv2, lenet (for small images), or a torchvision model.
        If both have a network of this name, images of 64x64 or more select torchvision's; the prefix small/
        or torchvision/ selects one of them.
    dataset
        Data set to train on. digits and glyphs need no files; the others are read from --data-dir and are not
        downloaded. imagefolder is for your own images.
    data_dir
        Folder with cifar-10-batches-py (cifar10), with train/ and val/ (imagenet), or with one folder of
        images per class (imagefolder).
    image_size
        Rows and columns of the images of imagenet and imagefolder; the default is 224.
    weights
        Weights of torchvision to prune the network with, instead of training it first, such as DEFAULT. They
        are downloaded once. The data set must have their classes.
    pretrained
        File of weights (a state dict of PyTorch or a TorchScript file) to prune the network with, instead of
        training it first.
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
    test_batch_size: int = 32

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
    train_rate
        Learning rate of this training, the maximum of a one-cycle schedule.
    short_term_epochs
        Number of epochs to train a candidate after each pruning step.
    short_term_batches
        Train each candidate for this many batches instead of whole epochs; 0 trains whole epochs.
    short_term_rate
        Learning rate of this short-term training.
    fine_tune
        Train the pruned model at the end.
    fine_tune_epochs
        Number of epochs of this long-term training. With the method progressive, candidates that lack
        accuracy get it, too.
    distill
        Weight, from 0 to 1, of the unpruned model's outputs in the loss of this training (knowledge
        distillation at a temperature of 4). The rest is the weight of the labels.
    log_interval
        Number of batches between two reports of the loss while the original network is trained; 0 means
        none.
    """

    train_epochs: int
    train_rate: float
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
        check_fields(self, ["train_rate"], lambda value: value > 0, "greater than 0")
        check_fields(self, ["distill"], lambda value: 0 <= value <= 1, "0 to 1")


@dataclass(frozen=True)
class DeviceSettings:
    """The device that runs the programs.

    Attributes
    ----------
    target
        A preset (cpu, arm64-linux, android-cpu, android-opencl-mali, android-opencl-adreno, opencl, vulkan,
        cuda) or a TVM target such as "llvm -mcpu=core-avx2". The default is this machine.
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
        Folder of the run. The default is a new folder in runs/ or, with --resume, the newest one there for
        this model and data set.
    resume
        Continue an interrupted run. Repeat the other options of that run.
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
