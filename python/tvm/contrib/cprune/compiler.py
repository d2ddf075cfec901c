# SPDX-License-Identifier: Apache-2.0
"""From a model to a compiled candidate with its task table."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from tvm.contrib.cprune.building.build import ModelBuilder
from tvm.contrib.cprune.config import PruneConfig
from tvm.contrib.cprune.importers.from_torch import from_torch
from tvm.contrib.cprune.measuring.context import RecordContext
from tvm.contrib.cprune.measuring.create import create_measurer
from tvm.contrib.cprune.measuring.timing import time_side_by_side
from tvm.contrib.cprune.measuring.tracker import Tracker
from tvm.contrib.cprune.program_library import ProgramLibrary, library_folder
from tvm.contrib.cprune.program_store import ProgramStore
from tvm.contrib.cprune.stopwatch import Stopwatch
from tvm.contrib.cprune.table import TaskTable
from tvm.contrib.cprune.targets.presets import find_preset
from tvm.contrib.cprune.targets.target import pinned_target, with_cores
from tvm.contrib.cprune.task_tuner import TaskTuner
from tvm.contrib.cprune.tuning.backends import BACKENDS
from tvm.contrib.cprune.types import Algorithm, CPruneError, Latency, RelayModel


@dataclass(frozen=True)
class Unbuilt:
    """A model, its Relay form, and the programs of its tasks."""

    model: torch.nn.Module
    relay: RelayModel
    table: TaskTable


@dataclass(frozen=True)
class Candidate:
    """A model, its Relay form, the programs of its tasks, and the library compiled from them."""

    model: torch.nn.Module
    relay: RelayModel
    table: TaskTable
    library: Path


class Compiler:
    """Tunes, transplants, builds and times models for one target. Use it as a context manager.

    Parameters
    ----------
    input_shape
        Shape of one inference, ``(N, C, H, W)``.
    run_dir
        Takes tuning records in ``records/`` and libraries in ``build/``.
    target
        Name of a preset (``targets/presets.py``) or a TVM target; None means this machine.
    report
        Receives progress of searches and messages about devices as events.
    strict
        Whether a task without a valid program is an error.
    profile
        Records of layers at many widths (see ``profile_widths``), which are not measured again.
    tracker
        RPC tracker whose devices time programs and models; None means this machine.
    stopwatch
        Receives the time of each kind of work; None means a new one.

    Raises
    ------
    CPruneError
        If the target is unknown or needs a tracker, or tuning records are damaged.
    """

    def __init__(
        self,
        config: PruneConfig,
        input_shape: tuple[int, ...],
        run_dir: Path,
        target: str | None = None,
        report: Callable[[dict[str, Any]], None] = lambda _: None,
        strict: bool = True,
        profile: Path | None = None,
        tracker: Tracker | None = None,
        stopwatch: Stopwatch | None = None,
    ) -> None:
        self.config, self.input_shape, self.run_dir, self.tracker = config, input_shape, run_dir, tracker
        self.preset = find_preset(target)
        self.measurer = create_measurer(config.tune, self.preset, tracker, report)
        self._stopwatch = stopwatch or Stopwatch()
        try:
            plain = self.preset.make_target()
            if self.preset.device == "cpu" and self.measurer.threads:  # 0 means the device's default
                plain = with_cores(plain, self.measurer.threads)
            self.target = pinned_target(plain) if config.tune.tuner == "ansor" else plain
            backend = BACKENDS[config.tune.tuner]
            context = RecordContext.of(str(self.target), config.tune, tracker)
            self.programs = ProgramStore(backend, self.measurer, run_dir / "records", context, profile)
            folder, threads, cold = library_folder(config.tune.library), context.threads, context.cold_weights
            library = ProgramLibrary(folder, context.target, threads, cold)
        except CPruneError:
            self.measurer.close()
            raise
        self.tuner = TaskTuner(
            config, self.target, self.measurer, self.programs, library, self._stopwatch, report, strict
        )
        self._builder = ModelBuilder(run_dir / "build", self.preset)
        self._layout = backend.layout

    def __enter__(self) -> "Compiler":
        return self

    def __exit__(self, *_: object) -> None:
        self.measurer.close()

    def seconds(self) -> dict[str, float]:
        """Return the seconds spent on each kind of work in this process; see ``Stopwatch``."""
        return self._stopwatch.seconds()

    def import_model(self, model: torch.nn.Module) -> RelayModel:
        """Return a model in Relay, in the layout of the tuning backend."""
        with self._stopwatch("import"):
            return from_torch(model, self.input_shape, self._layout)

    def tune(self, model: torch.nn.Module, algorithms: Mapping[str, Algorithm] | None = None) -> Candidate:
        """Compile a model with programs from a search; see ``TaskTuner.search``."""
        relay_model = self.import_model(model)
        table = self.tuner.search(relay_model, algorithms)
        return Candidate(model, relay_model, table, self._build(relay_model, table, "unpruned"))

    def transplant(self, current: Candidate, model: torch.nn.Module) -> Unbuilt:
        """Return a pruned ``model`` with transplants of the programs of ``current``.

        Raises
        ------
        CPruneError
            If a task has no valid program at its new width.
        """
        relay_model = self.import_model(model)
        return Unbuilt(model, relay_model, self.tuner.transplant(relay_model, current.table))

    def build(self, unbuilt: Unbuilt, weights: bool = True) -> Candidate:
        """Compile a model with the programs of its tasks.

        Parameters
        ----------
        weights
            Whether the library must contain the weights. Without them it can only be timed. Libraries for RPC
            devices always contain them.
        """
        model, relay_model, table = unbuilt.model, unbuilt.relay, unbuilt.table
        return Candidate(model, relay_model, table, self._build(relay_model, table, "candidate", weights))

    def move(self, current: Candidate, model: torch.nn.Module, weights: bool = True) -> Candidate:
        """Compile a pruned ``model`` with transplants of the programs of ``current``.

        See ``transplant`` and ``build``.
        """
        return self.build(self.transplant(current, model), weights)

    def predict(self, current: Candidate, model: torch.nn.Module) -> TaskTable:
        """Return the table of a pruned ``model`` with transplants of the programs of ``current``.

        Unlike ``transplant``, this does not improve transplants that are slow.
        """
        return self.tuner.transplant(self.import_model(model), current.table, improve=False)

    def compile(self, model: RelayModel, donor: TaskTable, name: str) -> tuple[TaskTable, Path]:
        """Compile a Relay model with transplants of the programs of ``donor``.

        Returns
        -------
        table
            Task table of the model.
        library
            Path of the library, whose name begins with ``name``.

        Raises
        ------
        CPruneError
            If a task has no valid program at its width.
        """
        table = self.tuner.transplant(model, donor)
        return table, self._build(model, table, name)

    def search_again(self, current: Unbuilt | Candidate, trials: int, name: str) -> Candidate:
        """Compile a model, with its present weights, after a search for faster programs.

        See ``TaskTuner.search_again``.
        """
        relay_model = self.import_model(current.model)
        table = self.tuner.search_again(relay_model, current.table, trials)
        return Candidate(current.model, relay_model, table, self._build(relay_model, table, name))

    def rebuild(self, candidate: Candidate, name: str) -> Candidate:
        """Compile a candidate again, with its model's present weights and the fastest measured programs."""
        relay_model = self.import_model(candidate.model)
        table = self.tuner.fastest(relay_model, candidate.table)
        return Candidate(candidate.model, relay_model, table, self._build(relay_model, table, name))

    def discard(self, candidate: Candidate) -> None:
        """Delete the library of a candidate that is no longer needed."""
        candidate.library.unlink(missing_ok=True)

    def discard_all(self) -> None:
        """Delete the libraries of all candidates, also those of earlier processes.

        Only the process that locks the run folder may do so.
        """
        self._builder.remove_libraries()

    def time(self, candidates: Mapping[str, Candidate], rounds: int = 1) -> dict[str, Latency]:
        """Time candidates side by side; see ``time_side_by_side``."""
        return self.time_libraries({name: c.library for name, c in candidates.items()}, rounds)

    def time_libraries(self, libraries: Mapping[str, Path], rounds: int = 1) -> dict[str, Latency]:
        """Time compiled models side by side; see ``time_side_by_side``."""
        with self._stopwatch("measure"):
            repeats = self.config.measure_repeats
            return time_side_by_side(self.measurer, libraries, self.input_shape, repeats, rounds)

    def _build(self, model: RelayModel, table: TaskTable, name: str, weights: bool = True) -> Path:
        with self._stopwatch("build"):
            return self._builder.build(model, table, name, weights or self.tracker is not None)
