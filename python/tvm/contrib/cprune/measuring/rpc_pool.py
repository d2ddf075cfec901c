# SPDX-License-Identifier: Apache-2.0
"""Measuring on RPC devices: programs are compiled on this machine and timed on all devices of a key."""

import functools
import itertools
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from tvm import auto_scheduler
from tvm.contrib.cprune.config import TuneConfig
from tvm.contrib.cprune.measuring import local_worker, model_timing, throttling
from tvm.contrib.cprune.measuring.measurer import Measurer
from tvm.contrib.cprune.measuring.process import ProcessPool, WorkerProcess
from tvm.contrib.cprune.measuring.result import Costs, Failure
from tvm.contrib.cprune.measuring.rpc_device import RpcDevice, proof_timeout
from tvm.contrib.cprune.measuring.rpc_dispatch import RpcDispatcher
from tvm.contrib.cprune.measuring.rpc_health import DeviceHealth
from tvm.contrib.cprune.measuring.rpc_jobs import Job, JobQueue
from tvm.contrib.cprune.measuring.rpc_worker import ProgramLibrary, RunSettings
from tvm.contrib.cprune.measuring.tracker import Tracker
from tvm.contrib.cprune.targets.presets import Preset
from tvm.contrib.cprune.targets.target import host_threads
from tvm.contrib.cprune.types import InfrastructureError

# TVM's function that flushes all arguments but the first from a CPU's cache.
FLUSH_CACHE = "cache_flush_cpu_non_first_arg"


class RpcMeasurer(Measurer):
    """Compiles programs here and times them on all devices of a tracker's key.

    Parameters
    ----------
    preset
        What to compile for and how to link libraries.
    report
        Receives ``{"event": "device", "message": ...}`` when a device is lost, missing or slower than before.
    prepare
        Name of a function that every device has registered, called before each timed run; "" for none. By
        default it flushes the cache of CPUs if ``config.cold_weights`` is set.

    Raises
    ------
    CPruneError
        If the tracker does not respond.
    InfrastructureError
        If the preset's compiler is missing, or the folder for temporary files is not writable.
    """

    def __init__(
        self,
        config: TuneConfig,
        preset: Preset,
        tracker: Tracker,
        report: Callable[[dict[str, Any]], None] = lambda _: None,
        prepare: str | None = None,
    ) -> None:
        registered, _ = tracker.devices()
        super().__init__(config, config.threads)
        self._preset = preset
        self._pool = ProcessPool(config.threads or host_threads())
        self._folder = _temporary_folder()
        self._numbers = itertools.count()
        reference = Path(self._folder.name) / "reference.so"
        library = ProgramLibrary(str(reference), throttling.build_reference(preset, reference))
        settings = _run_settings(config, preset, tracker, prepare)

        def tell(message: str) -> None:
            report({"event": "device", "message": message})

        health = DeviceHealth(tell)
        self._proof_timeout = proof_timeout(settings)
        self._dispatcher = RpcDispatcher(
            tracker, lambda: RpcDevice(tracker, settings, health, library), tell, self._proof_timeout
        )
        if tracker.warning:
            tell(tracker.warning)
        if not registered:
            tell(f"waiting for a device of key {tracker.key} at {tracker.address}")

    @property
    def devices(self) -> list[RpcDevice]:
        """The devices that were used so far."""
        return self._dispatcher.devices

    def close(self) -> None:
        self._pool.close()
        self._dispatcher.close()
        self._folder.cleanup()

    def measure_serialized(self, serialized: Sequence[Any]) -> list[auto_scheduler.MeasureResult]:
        jobs = JobQueue(len(serialized), self._proof_timeout)

        def build(process: WorkerProcess, index: int, data: Any) -> None:
            if jobs.done:  # aborted
                return
            started = time.time()
            try:
                library = self._build(process, data)
            except BaseException as error:
                jobs.abort(error)
                raise
            if isinstance(library, Failure):
                jobs.fail(index, library)
            else:
                jobs.put(Job(index, library, time.time() - started))

        builds = self._pool.submit(build, serialized)
        try:
            self._dispatcher.run(jobs)
        finally:
            self._pool.join(builds)
        return jobs.results()

    def _build(self, process: WorkerProcess, data: Any) -> ProgramLibrary | Failure:
        path = str(Path(self._folder.name) / f"program-{next(self._numbers)}.so")
        timeout = self.config.build_timeout
        control = functools.partial(throttling.build_reference, self._preset, Path(f"{path}.control.so"))
        arguments = (data, path, self._preset)
        specs = process.compile(local_worker.build_file, *arguments, timeout=timeout, control=control)
        return specs if isinstance(specs, Failure) else ProgramLibrary(path, specs)

    def time_models(self, libraries: Sequence[Path], data: np.ndarray, repeats: int) -> list[Costs]:
        paths = [str(path) for path in libraries]

        def run(count: int, timeout: float) -> list[Costs]:
            return self._dispatcher.time_models(paths, data, count, timeout)

        return model_timing.time_within_budget(run, repeats)

    def run_model(self, library: Path, data: np.ndarray) -> list[np.ndarray]:
        return self._dispatcher.run_model(str(library), data, model_timing.FIRST_RUN_TIMEOUT)


def _temporary_folder() -> tempfile.TemporaryDirectory[str]:
    try:
        return tempfile.TemporaryDirectory(prefix="cprune-")
    except OSError as error:
        raise InfrastructureError(f"cannot create a folder for compiled programs: {error}") from error


def _run_settings(config: TuneConfig, preset: Preset, tracker: Tracker, prepare: str | None) -> RunSettings:
    if prepare is None:
        prepare = FLUSH_CACHE if config.cold_weights and preset.device == "cpu" else ""
    return RunSettings(
        device_type=preset.device,
        threads=config.threads,
        repeats=config.repeats,
        min_seconds=config.min_seconds,
        prepare=prepare,
        timeout=config.run_timeout,
        cooldown=tracker.cooldown,
    )
