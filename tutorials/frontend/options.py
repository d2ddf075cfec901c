# SPDX-License-Identifier: Apache-2.0
"""The tutorial's command line, which is derived from its settings and CPrune's own."""

import argparse
from typing import Any, NamedTuple

from compute import ComputeSettings
from models import PLAIN, PLAIN_TRAIN_RATE, TRAIN_RATE, train_rate
from settings import DataSettings, DeviceSettings, RunSettings, Settings, TrainSettings
from train import LEARNING_RATE
from tvm.contrib.cprune.config import PruneConfig, TuneConfig
from tvm.contrib.cprune.method_settings import unused_settings
from tvm.contrib.cprune.options import ArgumentParser, Options


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
        "train_rate",
        "short_term_epochs",
        "short_term_batches",
        "fine_tune",
        "fine_tune_epochs",
        "distill",
        "log_interval",
    ),
    computed={
        **{name: _by_dataset(name) for name in ("train_epochs", "short_term_epochs", "fine_tune_epochs")},
        "train_rate": f"{TRAIN_RATE}, or {PLAIN_TRAIN_RATE} for {' and '.join(PLAIN)} networks",
    },
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
    computed={
        "accuracy_requirement": f"{_by_dataset('accuracy_requirement')}; 0 for methods that do not use it",
        "max_seconds": f"{_by_dataset('max_seconds')}; 0 for all methods but cprune and netadapt",
    },
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
    if parsed.method == "progressive":  # needs few candidates; the limits are for the many steps of cprune
        computed["max_seconds"] = PruneConfig.max_seconds
    computed["train_rate"] = train_rate(parsed.model)
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
