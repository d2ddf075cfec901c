# SPDX-License-Identifier: Apache-2.0
"""The interface through which programs and models are measured."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from tvm.auto_scheduler.measure import BuildResult

import tvm
from tvm import auto_scheduler, autotvm
from tvm.contrib.cprune.config import TuneConfig
from tvm.contrib.cprune.measuring.records import Measured, RecordLog, dump, identity
from tvm.contrib.cprune.measuring.result import Costs

_Self = TypeVar("_Self", bound="Measurer")


class Measurer(ABC):
    """Builds and times programs, and times and runs compiled models. Use it as a context manager.

    Attributes
    ----------
    config
        Timeouts, repeats and cache state of the measurements.
    threads
        Threads that programs run on; 0 is the device's default.
    """

    def __init__(self, config: TuneConfig, threads: int) -> None:
        self.config, self.threads = config, threads

    def __enter__(self: _Self) -> _Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @abstractmethod
    def close(self) -> None:
        """Stop all processes and release all devices."""

    @abstractmethod
    def measure_serialized(self, serialized: Sequence[Any]) -> list[auto_scheduler.MeasureResult]:
        """Build and time programs that ``serialize`` returned; the results are in the same order.

        Raises
        ------
        InfrastructureError
            If this machine, its compiler or the devices fail, rather than a program.
        """

    @abstractmethod
    def time_models(self, libraries: Sequence[Path], data: np.ndarray, repeats: int) -> list[Costs]:
        """Time compiled models in turn on one device while no program is measured there.

        Returns
        -------
        For each library the seconds of its runs: ``repeats`` of them, fewer if they exceed the time budget
        (see ``model_timing``).

        Raises
        ------
        CandidateError
            If a model fails, hangs or crashes.
        InfrastructureError
            If this machine or the devices fail.
        """

    @abstractmethod
    def run_model(self, library: Path, data: np.ndarray) -> list[np.ndarray]:
        """Return a compiled model's outputs; errors are those of ``time_models``."""

    def measure(self, inputs: Sequence[Any]) -> list[auto_scheduler.MeasureResult]:
        """Build and time programs.

        Parameters
        ----------
        inputs
            ``MeasureInput`` objects of auto_scheduler or AutoTVM.

        Returns
        -------
        One result per input, in order. A program that fails yields a result with an error number.
        """
        return self.measure_serialized(serialize(inputs))

    def measure_new(self, inputs: Sequence[Any], log: RecordLog) -> list[Measured]:
        """Measure the inputs that ``log`` lacks, without duplicates, and append their records to it."""
        distinct = {identity(measure_input): measure_input for measure_input in inputs}
        new = [measure_input for measure_input in distinct.values() if not log.holds(measure_input)]
        records = [dump(i, r) for i, r in zip(new, self.measure(new), strict=True)]
        log.append(records)
        return records

    @contextmanager
    def serve_auto_scheduler(self, rewrite: Callable[[Any], Any]) -> Iterator[None]:
        """Replace auto_scheduler's local builder and runner by this measurer.

        The builder only passes its inputs on: the runner builds and times them.

        Parameters
        ----------
        rewrite
            Maps a program to the one to measure in its place, both as ``MeasureInput``.
        """
        names = ("auto_scheduler.local_builder.build", "auto_scheduler.local_runner.run")
        originals = [tvm.get_global_func(name) for name in names]
        pending: list[Any] = []

        def build(inputs: Any, *_: Any) -> list[BuildResult]:
            pending[:] = serialize([rewrite(measure_input) for measure_input in inputs])
            return [BuildResult("", [], 0, None, 0.0) for _ in pending]

        def run(*_: Any) -> list[auto_scheduler.MeasureResult]:
            return self.measure_serialized(pending)

        for name, function in zip(names, (build, run), strict=True):
            tvm.register_func(name, function, override=True)
        try:
            yield
        finally:
            for name, function in zip(names, originals, strict=True):
                tvm.register_func(name, function, override=True)


def serialize(inputs: Sequence[Any]) -> list[Any]:
    """Return measure inputs in a form that can be sent to a worker process."""
    return [i if isinstance(i, autotvm.MeasureInput) else i.serialize() for i in inputs]
