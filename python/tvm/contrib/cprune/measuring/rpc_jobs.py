# SPDX-License-Identifier: Apache-2.0
"""Compiled programs that wait for an RPC device, and their results."""

import itertools
import queue
import time
from dataclasses import dataclass
from pathlib import Path

from tvm.auto_scheduler.measure import MeasureErrorNo

from tvm import auto_scheduler
from tvm.contrib.cprune.measuring.result import Costs, DeviceLost, Failure, to_measure_result
from tvm.contrib.cprune.measuring.rpc_worker import ProgramLibrary
from tvm.contrib.cprune.types import InfrastructureError

# Lost devices after which the program itself is suspected as the cause.
MAX_ATTEMPTS = 3


@dataclass
class Job:
    """A program to time; ``index`` is its position in the batch, ``losses`` are the devices lost with it."""

    index: int
    program: ProgramLibrary
    build_seconds: float
    losses: int = 0
    reason: str = ""

    @property
    def suspected(self) -> bool:
        """Whether to run the reference program instead, which shows whether the job's program is to blame."""
        return self.losses >= MAX_ATTEMPTS


class JobQueue:
    """Programs of one batch, in the order in which they finish compiling. It is safe to share by threads.

    Suspected jobs come first: another hanging program would occupy the device that can judge them.

    Parameters
    ----------
    size
        Programs in the batch.
    proof_timeout
        Seconds after a job becomes suspected within which a device must run the reference program, which
        proves that devices work.
    """

    def __init__(self, size: int, proof_timeout: float) -> None:
        self._size, self._proof_timeout = size, proof_timeout
        # Each job with what it is ordered by: suspected jobs first, and then the order in which they came.
        self._jobs: queue.PriorityQueue[tuple[bool, int, Job]] = queue.PriorityQueue()
        self._numbers = itertools.count()
        self._results: dict[int, auto_scheduler.MeasureResult] = {}
        self._error: BaseException | None = None
        # When each suspected job, by index, lost its last device.
        self._suspected_at: dict[int, float] = {}

    @property
    def done(self) -> bool:
        """Whether every program has a result, or the batch was aborted."""
        return self._error is not None or len(self._results) == self._size

    def abort(self, error: BaseException) -> None:
        """End the batch without results; only the first error counts."""
        self._error = self._error or error

    def results(self) -> list[auto_scheduler.MeasureResult]:
        """Return the results in the order of the batch.

        Raises
        ------
        BaseException
            The error with which the batch was aborted.
        """
        if self._error is not None:
            raise self._error
        return [self._results[index] for index in range(self._size)]

    def put(self, job: Job) -> None:
        """Add a compiled program."""
        self._jobs.put((not job.suspected, next(self._numbers), job))

    def take(self, timeout: float) -> Job | None:
        """Return the next job, or None if there is none within ``timeout`` seconds."""
        try:
            return self._jobs.get(timeout=timeout)[-1]
        except queue.Empty:
            return None

    def fail(self, index: int, failure: Failure) -> None:
        """Record that a program did not compile."""
        self._results[index] = to_measure_result(failure, 0.0)

    def finish(self, job: Job, outcome: Costs | Failure | DeviceLost) -> None:
        """Record a job's outcome; put the job back if its device was lost."""
        if isinstance(outcome, DeviceLost):
            job.losses, job.reason = job.losses + 1, outcome.reason
            if job.suspected:
                self._suspected_at[job.index] = time.time()
            self.put(job)
            return
        Path(job.program.path).unlink(missing_ok=True)
        self._results[job.index] = to_measure_result(outcome, job.build_seconds)

    def judge(self, job: Job, proof: Costs | Failure | DeviceLost) -> None:
        """Decide about a suspected job by the outcome of the reference program.

        If the reference program runs, the job's program fails. If not, the devices do, which ends the batch.
        """
        if isinstance(proof, DeviceLost):
            job.losses += 1
            if job.losses < 2 * MAX_ATTEMPTS:
                self.put(job)
                return
            self._abort_suspected(f"they were also lost with the reference program: {proof.reason}")
        elif isinstance(proof, Failure):
            self._abort_suspected(f"the reference program failed: {proof.message}")
        else:
            del self._suspected_at[job.index]
            message = f"{MAX_ATTEMPTS} devices were lost while running the program: {job.reason}"
            self.finish(job, Failure(MeasureErrorNo.RUN_TIMEOUT, message))

    def check_suspects(self) -> None:
        """End the batch if no device has proved in time that a suspected job is to blame."""
        suspected_at = list(self._suspected_at.values())  # other threads change the dictionary
        if suspected_at and time.time() - min(suspected_at) > self._proof_timeout:
            timeout = f"{self._proof_timeout:.0f} s"
            self._abort_suspected(f"none ran the reference program within {timeout} afterwards")

    def _abort_suspected(self, reason: str) -> None:
        self.abort(InfrastructureError(f"{MAX_ATTEMPTS} devices were lost while running a program; {reason}"))
