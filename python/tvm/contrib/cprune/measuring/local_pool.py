# SPDX-License-Identifier: Apache-2.0
"""Measuring on this machine.

One worker process per core compiles programs in parallel. Then one process after the other times the programs
that it compiled, while the others are idle.
"""

import functools
import itertools
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from tvm.auto_scheduler.measure import MeasureErrorNo

import tvm
from tvm import auto_scheduler
from tvm.contrib.cprune.config import TuneConfig
from tvm.contrib.cprune.measuring import cpu_state, local_worker, model_timing
from tvm.contrib.cprune.measuring.measurer import Measurer
from tvm.contrib.cprune.measuring.process import MAX_ATTEMPTS, ProcessPool, WorkerProcess
from tvm.contrib.cprune.measuring.result import Costs, Failure, to_measure_result
from tvm.contrib.cprune.messages import last_line
from tvm.contrib.cprune.targets.target import host_threads
from tvm.contrib.cprune.types import INPUT, CandidateError


class LocalMeasurer(Measurer):
    """Compiles and times programs and models on this machine's CPU."""

    def __init__(self, config: TuneConfig) -> None:
        super().__init__(config, config.threads or host_threads())
        self._pool = ProcessPool(self.threads)
        self._program_ids = itertools.count()

    def close(self) -> None:
        self._pool.close()

    def measure_serialized(self, serialized: Sequence[Any]) -> list[auto_scheduler.MeasureResult]:
        results = []
        for data, (program_id, failure, seconds) in zip(serialized, self.build(serialized), strict=True):
            outcome = self.run(program_id, data) if failure is None else failure
            results.append(to_measure_result(outcome, seconds))
        return results

    def build(self, serialized: Sequence[Any]) -> list[tuple[int, Failure | None, float]]:
        """Compile serialized measure inputs in parallel.

        Returns
        -------
        For each input its program id, the failure if it did not compile, and the seconds it took.
        """
        results: dict[int, tuple[int, Failure | None, float]] = {}

        def build(process: WorkerProcess, index: int, data: Any) -> None:
            started, program_id = time.time(), next(self._program_ids)
            failure = self._build(process, program_id, data)
            results[index] = (program_id, failure, time.time() - started)

        self._pool.join(self._pool.submit(build, serialized))
        return [results[index] for index in range(len(serialized))]

    def _build(self, process: WorkerProcess, program_id: int, data: Any) -> Failure | None:
        timeout, control = self.config.build_timeout, cpu_state.run_parallel_kernel
        failure = process.compile(local_worker.build, program_id, data, timeout=timeout, control=control)
        if failure is None:
            process.programs.add(program_id)
        return failure

    def run(self, program_id: int, data: Any) -> Costs | Failure:
        """Time a compiled program; compile ``data`` again if the process that held the program has died.

        A process that dies or hangs with the program is replaced once before the program counts as the cause.

        Raises
        ------
        InfrastructureError
            If the process then also dies or hangs with a program that is known to work.
        """
        processes = self._pool.processes
        process = next((p for p in processes if program_id in p.programs), processes[0])
        if not process.popen.is_alive():
            process.restart()
        late = f"running took longer than {self.config.run_timeout:.0f} s"
        for _ in range(MAX_ATTEMPTS):
            if program_id not in process.programs:
                failure = self._build(process, program_id, data)
                if failure is not None:
                    return failure
            process.programs.discard(program_id)
            try:
                return self._time(process, program_id)
            except TimeoutError:
                cause = Failure(MeasureErrorNo.RUN_TIMEOUT, late)
            except ChildProcessError:
                cause = Failure(MeasureErrorNo.RUNTIME_DEVICE, "the program crashed its process")
        self._check(process)
        return cause

    def _time(self, process: WorkerProcess, program_id: int) -> Costs | Failure:
        config = self.config
        settings = (config.repeats, config.min_seconds, config.cold_weights)
        return process.call(local_worker.run, program_id, *settings, timeout=config.run_timeout)

    def _check(self, process: WorkerProcess) -> None:
        """Run a program that is known to work; see ``WorkerProcess.check``."""
        process.check(cpu_state.run_parallel_kernel, self.config.build_timeout)

    def time_models(self, libraries: Sequence[Path], data: np.ndarray, repeats: int) -> list[Costs]:
        paths = [str(path) for path in libraries]
        run = functools.partial(self._run_models, local_worker.time_models, paths, INPUT, data)
        return model_timing.time_within_budget(run, repeats)

    def run_model(self, library: Path, data: np.ndarray) -> list[np.ndarray]:
        timeout = model_timing.FIRST_RUN_TIMEOUT
        return self._run_models(local_worker.run_model, str(library), INPUT, data, timeout)

    def _run_models(self, function: Callable[..., Any], *args: Any) -> Any:
        """Call a function that runs models; its arguments are followed by the timeout in seconds.

        A process that dies or hangs is replaced once, as in ``run``.
        """
        *arguments, timeout = args
        for _ in range(MAX_ATTEMPTS):
            try:
                return self.call(function, *arguments, timeout=timeout)
            except TimeoutError:
                cause = f"running the model took longer than {timeout:.0f} s"
            except ChildProcessError:
                cause = f"the model crashed its process {MAX_ATTEMPTS} times"
            except tvm.error.TVMError as error:
                raise CandidateError(f"the model failed: {last_line(error)}") from error
        self._check(self._pool.processes[0])
        raise CandidateError(cause)

    def call(self, function: Callable[..., Any], *args: Any, timeout: float | None = None) -> Any:
        """Call a function of ``local_worker`` in one process while the others are idle."""
        return self._pool.processes[0].call(function, *args, timeout=timeout)
