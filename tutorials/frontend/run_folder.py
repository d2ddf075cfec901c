# SPDX-License-Identifier: Apache-2.0
"""The folder of a run: its name, the options that it was started with, and unfinished trainings."""

import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from settings import RunSettings
from tvm.contrib.cprune.loop.journal import record_settings
from tvm.contrib.cprune.types import CPruneError

RUNS = Path("runs")


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


def check_options(folder: Path, options: Mapping[str, Any], resume: bool) -> None:
    """Record the options of a new run in ``options.json``, or compare them with those of the run to resume.

    Raises
    ------
    CPruneError
        If the folder holds a run and ``resume`` is false, or a run with other options.
    """
    record_settings(folder / "options.json", options, resume)


def training_file(folder: Path, name: str) -> Path:
    """Return the file that holds the state of a training between two epochs."""
    return folder / "checkpoints" / f"training-{name}.pt"
