# SPDX-License-Identifier: Apache-2.0
"""Devices behind an RPC tracker: programs are compiled here, and timed on every free device of a key.

One queue feeds all devices. A thread and a process stand for each of them; a device that dies or hangs costs
the time-out of the program in flight, which another device then takes. With no device left the queue waits.
"""

import itertools
import queue
import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from tvm.auto_scheduler.measure import MeasureErrorNo
from tvm.contrib.popen_pool import PopenWorker

from tvm import auto_scheduler
from tvm.contrib.cprune.config import TuneConfig
from tvm.contrib.cprune.measuring import local_worker, rpc_worker, throttling
from tvm.contrib.cprune.measuring.local_pool import LocalMeasurer, measure_result
from tvm.contrib.cprune.measuring.local_worker import Failure
from tvm.contrib.cprune.measuring.rpc_worker import FLUSH, Lost
from tvm.contrib.cprune.measuring.tracker import Tracker
from tvm.contrib.cprune.targets.presets import Preset
from tvm.contrib.cprune.types import INPUT, CPruneError

# How often a program is given to another device before it counts as the cause.
ATTEMPTS = 3
# A device that failed this often in a row is left alone for so many seconds.
FAILURES, PAUSE = 2, 30.0
# Seconds between two looks at the tracker's list of devices.
LOOK = 2.0


@dataclass
class _Job:
    index: int
    path: str
    specs: rpc_worker.Specs
    seconds: float
    attempts: int = 0


@dataclass
class _Device:
    """One process that talks to one device at a time."""

    popen: PopenWorker = field(default_factory=PopenWorker)
    address: str | None = None
    since: float = 0.0

    def call(self, function: Callable[..., Any], *args: Any, timeout: float) -> Any:
        try:
            self.popen.send(function, args, timeout=timeout)
            return self.popen.recv()
        except TimeoutError:
            return Lost(f"no answer in {timeout:.0f} s")
        except (ChildProcessError, OSError, RuntimeError) as error:
            return Lost(local_worker.last_line(error))


class RpcMeasurer(LocalMeasurer):
    """Compiles programs here and times them on all devices of a tracker's key.

    Parameters
    ----------
    preset
        What the devices are, and how their libraries are linked.
    report
        Is told ``{"event": "device", "message": ...}``.
    prepare
        A function that every device has and that is called before each timed run; "" for none.
    """

    def __init__(
        self,
        config: TuneConfig,
        preset: Preset,
        tracker: Tracker,
        report: Callable[[dict[str, Any]], None] = lambda _: None,
        prepare: str | None = None,
    ) -> None:
        known, _ = tracker.devices()
        super().__init__(config)
        self.threads = config.threads
        self.preset, self.tracker, self.report = preset, tracker, report
        flush = FLUSH if config.cold_weights and preset.device == "cpu" else ""
        self.prepare = flush if prepare is None else prepare
        self._folder = tempfile.TemporaryDirectory(prefix="cprune-")
        self._names = itertools.count()
        self._devices: list[_Device] = []
        self._failures: dict[str, tuple[int, float]] = {}
        self._refusals: set[str] = set()  # said since a device was found
        self._watch = throttling.SpeedWatch()
        self._reference = Path(self._folder.name) / "reference.so"
        self._reference_specs = throttling.build_reference(preset, self._reference)
        self._lock = threading.Lock()
        if tracker.warning:
            self._say(tracker.warning)
        if not known:
            self._say(f"waiting for a device of key {tracker.key} at {tracker.host}:{tracker.port}")

    def close(self) -> None:
        """End the processes, and give the devices back."""
        super().close()
        for device in self._devices:
            device.popen.kill()
        self._folder.cleanup()

    def _say(self, message: str) -> None:
        self.report({"event": "device", "message": message})

    # -- programs ---------------------------------------------------------------------------------------

    def measure_serialized(self, serialized: Sequence[Any]) -> list[auto_scheduler.MeasureResult]:
        """Build programs, and time them on whatever devices are there; one result for each, in order."""
        results: list[Any] = [None] * len(serialized)
        jobs: queue.Queue[_Job] = queue.Queue()
        pending = list(enumerate(serialized))

        def build(process: Any) -> None:
            while pending:
                try:
                    index, data = pending.pop(0)
                except IndexError:
                    return
                built = self._build_file(process, data)
                if isinstance(built, Failure):
                    results[index] = measure_result(built, 0.0)
                else:
                    jobs.put(_Job(index, *built))

        def done() -> bool:
            return all(each is not None for each in results)

        builders = [self._builders.submit(build, process) for process in self._processes]
        try:
            self._serve(jobs, results, done)
        finally:
            for each in builders:
                each.result()
        return results

    def _build_file(self, process: Any, data: Any) -> tuple[str, rpc_worker.Specs, float] | Failure:
        started, limit = time.time(), self.config.build_timeout
        path = str(Path(self._folder.name) / f"program-{next(self._names)}.so")
        try:
            built = process.compile(local_worker.build_file, data, path, self.preset, timeout=limit)
        except TimeoutError:
            return Failure(MeasureErrorNo.BUILD_TIMEOUT, f"compiling took longer than {limit:.0f} s")
        except ChildProcessError:
            return Failure(MeasureErrorNo.COMPILE_HOST, "the compiling process died")
        return built if isinstance(built, Failure) else (path, built, time.time() - started)

    def _serve(self, jobs: queue.Queue[_Job], results: list[Any], done: Callable[[], bool]) -> None:
        """Keep a thread for each device that the tracker knows until all jobs are done."""
        threads: list[threading.Thread] = []
        stop = threading.Event()
        looked = said = 0.0
        try:
            while not done():
                if time.time() - looked > LOOK:
                    looked = time.time()
                    threads = [each for each in threads if each.is_alive()]
                    for number in range(len(threads), self._known()):
                        if number >= len(self._devices):
                            self._devices.append(_Device())
                        busy = {each.name for each in threads}
                        free = next(i for i in range(len(self._devices)) if str(i) not in busy)
                        arguments = (self._devices[free], jobs, results, done, stop)
                        threads.append(threading.Thread(target=self._work, args=arguments, name=str(free)))
                        threads[-1].start()
                    if not threads and time.time() - said > self.tracker.wait:
                        said = time.time()
                        self._say(f"no device of key {self.tracker.key} is left; waiting for one")
                time.sleep(0.02)
        finally:
            stop.set()
            for each in threads:
                each.join()
            for device in self._devices:
                if device.address is not None:
                    device.call(rpc_worker.release, timeout=10)
                    device.address = None

    def _known(self) -> int:
        try:
            return self.tracker.devices()[0]
        except CPruneError:
            return 0

    def _work(
        self,
        device: _Device,
        jobs: queue.Queue[_Job],
        results: list[Any],
        done: Callable[[], bool],
        stop: threading.Event,
    ) -> None:
        how = (self.config.repeats, self.config.min_seconds, self.prepare)
        while not done() and not stop.is_set():
            if device.address is None and not self._acquire(device):
                if self._known() == 0:
                    return
                continue
            if self._watch.due(str(device.address)):
                self._look(device)
            if device.address is None:
                continue
            try:
                job = jobs.get(timeout=0.1)
            except queue.Empty:
                continue
            address = str(device.address)
            outcome = self._run(device, job.path, job.specs, how)
            self._account(device, outcome)
            if not isinstance(outcome, Lost):
                if not isinstance(outcome, Failure):
                    outcome = self._watch.corrected(address, outcome)
                results[job.index] = measure_result(outcome, job.seconds)
                Path(job.path).unlink(missing_ok=True)
                continue
            job.attempts += 1
            if job.attempts < ATTEMPTS:
                jobs.put(job)
            else:
                message = f"{job.attempts} devices were lost with it: {outcome.reason}"
                failure = Failure(MeasureErrorNo.RUN_TIMEOUT, message)
                results[job.index] = measure_result(failure, job.seconds)

    def _run(self, device: _Device, path: str, specs: rpc_worker.Specs, how: tuple[int, float, str]) -> Any:
        """Time a compiled program on a device: how often, for how many seconds, and after what each time."""
        rest = self.tracker.cooldown
        what = (path, specs, self.preset.device, self.threads, *how, rest)
        return device.call(rpc_worker.run, *what, timeout=self.config.run_timeout + rest)

    def _look(self, device: _Device) -> None:
        """Time the reference program on a device, once more if its time is doubted."""
        address, how = str(device.address), (throttling.RUNS, throttling.SECONDS, "")
        while True:
            outcome = self._run(device, str(self._reference), self._reference_specs, how)
            if isinstance(outcome, Lost):
                self._account(device, outcome)
                return
            # That it runs says nothing about the programs that it failed with: those stay counted.
            if isinstance(outcome, Failure):
                self._watch.skip(address)
                self._say(f"device {address} cannot run the reference program: {outcome.message}")
                return
            if message := self._watch.note(address, outcome):
                self._say(message)
            if not self._watch.doubts(address):
                return

    def _account(self, device: _Device, outcome: Any) -> None:
        """Remember which devices fail, and leave a session that is lost or about to be ended."""
        address = str(device.address)
        with self._lock:
            if isinstance(outcome, Lost):
                count = self._failures.get(address, (0, 0.0))[0] + 1
                self._failures[address] = (count, time.time())
                self._say(f"device {address} was lost: {outcome.reason}")
                device.address = None
            else:
                self._failures.pop(address, None)
        if time.time() - device.since > self._session_timeout / 2:
            device.address = None

    @property
    def _session_timeout(self) -> int:
        """Seconds after which a server ends a session, so that a program that hangs frees its device."""
        return int(4 * (self.config.run_timeout + self.tracker.cooldown)) + 20

    def _acquire(self, device: _Device) -> bool:
        """Ask the tracker for a device; return whether there was a good one."""
        tracker = self.tracker
        arguments = (tracker.host, tracker.port, tracker.key, tracker.wait, self._session_timeout)
        found = device.call(rpc_worker.request, *arguments, timeout=tracker.wait + 10)
        if not isinstance(found, str):
            if found is not None and found.reason not in self._refusals:
                self._refusals.add(found.reason)
                self._say(f"{found.reason}; asking {tracker.host}:{tracker.port} again")
            time.sleep(0.5)
            return False
        self._refusals.clear()
        count, when = self._failures.get(found, (0, 0.0))
        if count >= FAILURES and time.time() - when < PAUSE:
            device.call(rpc_worker.release, timeout=10)
            time.sleep(1)
            return False
        if count >= FAILURES:
            self._say(f"device {found} is back")
        device.address, device.since = found, time.time()
        return True

    # -- models -----------------------------------------------------------------------------------------

    def time_models(
        self, libraries: Sequence[Path], data: np.ndarray, repeats: int
    ) -> list[tuple[float, ...]]:
        """Time compiled models in turn on one device: seconds of each run."""
        paths = [str(path) for path in libraries]
        kind = self.preset.device
        return self._on_one(rpc_worker.time_models, paths, kind, self.threads, INPUT, data, repeats)

    def run_model(self, library: Path, data: np.ndarray) -> np.ndarray:
        """Return a compiled model's first output on a device."""
        return self._on_one(rpc_worker.run_model, str(library), self.preset.device, INPUT, data)

    def _on_one(self, function: Callable[..., Any], *args: Any) -> Any:
        if not self._devices:
            self._devices.append(_Device())
        device, reason = self._devices[0], ""
        for _ in range(ATTEMPTS):
            said = 0.0
            while device.address is None and not self._acquire(device):
                if time.time() - said > self.tracker.wait:
                    said = time.time()
                    self._say(f"waiting for a device of key {self.tracker.key}")
            outcome = device.call(function, *args, timeout=120)
            self._account(device, outcome)
            if not isinstance(outcome, Lost):
                device.call(rpc_worker.release, timeout=10)
                device.address = None
                return outcome
            reason = outcome.reason
        raise CPruneError(f"{ATTEMPTS} devices were lost with the model: {reason}")
