# SPDX-License-Identifier: Apache-2.0
"""Compiled programs that wait for an RPC device, and their results."""

import queue
from dataclasses import dataclass
from pathlib import Path

from tvm.auto_scheduler.measure import MeasureErrorNo

from tvm import auto_scheduler
from tvm.contrib.cprune.measuring.result import Costs, DeviceLost, Failure, to_measure_result
from tvm.contrib.cprune.measuring.rpc_worker import ProgramLibrary

# Lost devices after which the program itself counts as the cause.
MAX_ATTEMPTS = 3


@dataclass
class Job:
    """A program to time; ``index`` is its position in the batch."""

    index: int
    program: ProgramLibrary
    build_seconds: float
    attempts: int = 0


class JobQueue:
    """Programs of one batch, in the order in which they finish compiling. It is safe to share by threads.

    Parameters
    ----------
    size
        Programs in the batch.
    """

    def __init__(self, size: int) -> None:
        self._size = size
        self._jobs: queue.Queue[Job] = queue.Queue()
        self._results: dict[int, auto_scheduler.MeasureResult] = {}

    @property
    def done(self) -> bool:
        """Whether every program has a result."""
        return len(self._results) == self._size

    def results(self) -> list[auto_scheduler.MeasureResult]:
        """Return the results in the order of the batch."""
        return [self._results[index] for index in range(self._size)]

    def put(self, job: Job) -> None:
        """Add a compiled program."""
        self._jobs.put(job)

    def take(self, timeout: float) -> Job | None:
        """Return the next job, or None if there is none within ``timeout`` seconds."""
        try:
            return self._jobs.get(timeout=timeout)
        except queue.Empty:
            return None

    def fail(self, index: int, failure: Failure) -> None:
        """Record that a program did not compile."""
        self._results[index] = to_measure_result(failure, 0.0)

    def finish(self, job: Job, outcome: Costs | Failure | DeviceLost) -> None:
        """Record a job's outcome; put the job back if its device was lost."""
        if isinstance(outcome, DeviceLost):
            job.attempts += 1
            if job.attempts < MAX_ATTEMPTS:
                self.put(job)
                return
            message = f"{job.attempts} devices were lost while running the program: {outcome.reason}"
            outcome = Failure(MeasureErrorNo.RUN_TIMEOUT, message)
        Path(job.program.path).unlink(missing_ok=True)
        self._results[job.index] = to_measure_result(outcome, job.build_seconds)
