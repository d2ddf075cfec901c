# SPDX-License-Identifier: Apache-2.0
"""Measuring processes that stay alive between programs.

auto_scheduler's own builder and runner start Python and import TVM again for each batch and each program.
Here as many processes as there are cores compile in parallel, each keeps what it compiled, and then one after
the other times its programs while the others rest. A process that crashes or hangs is replaced, and loses
only the program that it ran.
"""

import itertools
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from tvm.auto_scheduler.measure import MeasureErrorNo
from tvm.contrib.popen_pool import PopenWorker

import tvm
from tvm import auto_scheduler, autotvm
from tvm.contrib.cprune.config import TuneConfig
from tvm.contrib.cprune.measuring import local_worker
from tvm.contrib.cprune.measuring.local_worker import Failure
from tvm.contrib.cprune.measuring.records import Measured, RecordLog, dump, identity
from tvm.contrib.cprune.targets.target import host_threads
from tvm.contrib.cprune.types import INPUT

MAX_COST = 1e10
# Programs that a process compiles before it is replaced. TVM keeps for good what it found in each of them
# while it looked for common subexpressions (src/tir/transforms/common_subexpr_elim_tools.cc, a static cache).
MOST_PROGRAMS = 100


@dataclass
class _Process:
    """One measuring process, the numbers of the programs that it holds, and how many it compiled."""

    popen: PopenWorker
    held: set[int] = field(default_factory=set)
    compiled: int = 0

    def call(self, function: Callable[..., Any], *args: Any, timeout: float | None = None) -> Any:
        """Run ``function`` there.

        Raises
        ------
        TimeoutError
            If it took too long; the process is replaced.
        ChildProcessError
            If the process died; it is replaced.
        """
        try:
            self.popen.send(function, args, timeout=timeout)
            return self.popen.recv()
        except (TimeoutError, ChildProcessError):
            self.restart()
            raise

    def compile(self, function: Callable[..., Any], *args: Any, timeout: float) -> Any:
        """Run a ``function`` there that compiles a program; see ``call``."""
        if self.compiled >= MOST_PROGRAMS and not self.held:
            self.restart()
        self.compiled += 1
        return self.call(function, *args, timeout=timeout)

    def restart(self) -> None:
        """Let another process take its place, with the next call."""
        self.popen.kill()
        self.held.clear()
        self.compiled = 0


class LocalMeasurer:
    """Processes that compile and time programs on this machine. Use it as a context manager."""

    def __init__(self, config: TuneConfig) -> None:
        self.config = config
        self.threads = config.threads or host_threads()
        count = host_threads()
        self._processes = [_Process(PopenWorker(local_worker.start, (self.threads,))) for _ in range(count)]
        self._numbers = itertools.count()
        self._builders = ThreadPoolExecutor(count)

    def __enter__(self) -> "LocalMeasurer":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """End the processes."""
        self._builders.shutdown(wait=True, cancel_futures=True)
        for process in self._processes:
            process.popen.kill()

    def build(self, serialized: Sequence[Any]) -> list[tuple[int, Failure | None, float]]:
        """Compile serialized ``MeasureInput`` in parallel; return number, failure and seconds of each."""
        queue = list(enumerate(serialized))
        results: list[Any] = [None] * len(queue)

        def drain(process: _Process) -> None:
            while queue:
                try:
                    index, data = queue.pop(0)
                except IndexError:
                    return
                started, number = time.time(), next(self._numbers)
                failure = self._build(process, number, data)
                results[index] = (number, failure, time.time() - started)

        list(self._builders.map(drain, self._processes))
        return results

    def _build(self, process: _Process, number: int, data: Any) -> Failure | None:
        try:
            failure = process.compile(local_worker.build, number, data, timeout=self.config.build_timeout)
        except TimeoutError:
            seconds = self.config.build_timeout
            return Failure(MeasureErrorNo.BUILD_TIMEOUT, f"compiling took longer than {seconds:.0f} s")
        except ChildProcessError:
            return Failure(MeasureErrorNo.COMPILE_HOST, "the compiling process died")
        if failure is None:
            process.held.add(number)
        return failure

    def run(self, number: int, data: Any) -> tuple[float, ...] | Failure:
        """Time program ``number``; ``data`` builds it again where its process died since."""
        process = next((each for each in self._processes if number in each.held), None)
        if process is not None and not process.popen.is_alive():  # killed from outside since it compiled
            process.restart()
            process = None
        if process is None:
            process = self._processes[0]
            failure = self._build(process, number, data)
            if failure is not None:
                return failure
        process.held.discard(number)
        try:
            config = self.config
            how = (config.repeats, config.min_seconds, config.cold_weights)
            return process.call(local_worker.run, number, *how, timeout=config.run_timeout)
        except TimeoutError:
            return Failure(
                MeasureErrorNo.RUN_TIMEOUT, f"running took longer than {self.config.run_timeout:.0f} s"
            )
        except ChildProcessError:
            return Failure(MeasureErrorNo.RUNTIME_DEVICE, "the program crashed its process")

    def measure(self, inputs: Sequence[Any]) -> list[auto_scheduler.MeasureResult]:
        """Build and time programs, ``MeasureInput`` of either tuner; a failure is a result, too."""
        return self.measure_serialized(serialize(inputs))

    def measure_serialized(self, serialized: Sequence[Any]) -> list[auto_scheduler.MeasureResult]:
        """Build and time programs that ``serialize`` returned."""
        results = []
        for data, (number, failure, seconds) in zip(serialized, self.build(serialized), strict=True):
            outcome = failure if failure is not None else self.run(number, data)
            results.append(measure_result(outcome, seconds))
        return results

    def measure_new(self, inputs: Sequence[Any], log: RecordLog) -> list[Measured]:
        """Measure what ``log`` does not hold yet, each program once, and add it there."""
        new = [each for each in {identity(i): i for i in inputs}.values() if not log.holds(each)]
        measured = [dump(i, r) for i, r in zip(new, self.measure(new), strict=True)]
        log.append(measured)
        return measured

    def time_models(
        self, libraries: Sequence[Path], data: np.ndarray, repeats: int
    ) -> list[tuple[float, ...]]:
        """Time compiled models in turn in one process while the others rest: seconds of each run."""
        return self.call(local_worker.time_models, [str(path) for path in libraries], INPUT, data, repeats)

    def run_model(self, library: Path, data: np.ndarray) -> np.ndarray:
        """Return a compiled model's first output."""
        return self.call(local_worker.run_model, str(library), INPUT, data)

    def call(self, function: Callable[..., Any], *args: Any, timeout: float = 120) -> Any:
        """Run a function of ``worker`` in one process while the others rest."""
        return self._processes[0].call(function, *args, timeout=timeout)

    @contextmanager
    def serve_auto_scheduler(self) -> Iterator[None]:
        """Let auto_scheduler's local builder and runner measure in this pool."""
        names = ("auto_scheduler.local_builder.build", "auto_scheduler.local_runner.run")
        stock = [tvm.get_global_func(name) for name in names]
        waiting: list[Any] = []

        def build(inputs: Any, *_: Any) -> list[auto_scheduler.measure.BuildResult]:
            waiting[:] = serialize(inputs)
            return [auto_scheduler.measure.BuildResult("", [], 0, None, 0.0) for _ in waiting]

        def run(*_: Any) -> list[auto_scheduler.MeasureResult]:
            return self.measure_serialized(waiting)

        for name, function in zip(names, (build, run), strict=True):
            tvm.register_func(name, function, override=True)
        try:
            yield
        finally:
            for name, function in zip(names, stock, strict=True):
                tvm.register_func(name, function, override=True)


def serialize(inputs: Sequence[Any]) -> list[Any]:
    """Return what a measuring process can be sent."""
    return [each if isinstance(each, autotvm.MeasureInput) else each.serialize() for each in inputs]


def measure_result(outcome: tuple[float, ...] | Failure, seconds: float) -> auto_scheduler.MeasureResult:
    """Return what was measured as auto_scheduler has it."""
    if isinstance(outcome, Failure):
        return auto_scheduler.MeasureResult([MAX_COST], outcome.number, outcome.message, seconds, time.time())
    return auto_scheduler.MeasureResult(list(outcome), 0, None, seconds + sum(outcome), time.time())
