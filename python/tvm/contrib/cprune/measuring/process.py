# SPDX-License-Identifier: Apache-2.0
"""Worker processes that stay alive between programs.

auto_scheduler's local builder and runner start Python and import TVM again for each batch and each program.
A worker process here serves many programs. After a crash or a timeout it is restarted, and only the program
that it was working on is lost.
"""

from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, TypeVar

from tvm.auto_scheduler.measure import MeasureErrorNo
from tvm.contrib.popen_pool import PopenWorker

from tvm.contrib.cprune.measuring import local_worker
from tvm.contrib.cprune.measuring.result import Failure
from tvm.contrib.cprune.targets.target import host_threads

# Programs compiled by a worker before it is restarted. TVM never frees what its common subexpression
# elimination caches for each of them (src/tir/transforms/common_subexpr_elim_tools.cc, a static cache).
MAX_PROGRAMS_PER_PROCESS = 100

Item = TypeVar("Item")


class WorkerProcess:
    """A process that runs functions on request.

    Parameters
    ----------
    initializer, initargs
        Called in the process whenever it starts.

    Attributes
    ----------
    programs
        Ids of the compiled programs that the process holds.
    """

    def __init__(
        self, initializer: Callable[..., None] | None = None, initargs: tuple[Any, ...] = ()
    ) -> None:
        self.popen = PopenWorker(initializer, initargs)
        self.programs: set[int] = set()
        self._compiled = 0

    def call(self, function: Callable[..., Any], *args: Any, timeout: float | None = None) -> Any:
        """Run ``function`` in the process and return its result.

        Raises
        ------
        TimeoutError
            If the call takes more than ``timeout`` seconds. The process is restarted.
        ChildProcessError
            If the process dies. It is restarted.
        """
        try:
            self.popen.send(function, args, timeout=timeout)
            return self.popen.recv()
        except (TimeoutError, ChildProcessError):
            self.restart()
            raise

    def compile(self, function: Callable[..., Any], *args: Any, timeout: float) -> Any | Failure:
        """Run a ``function`` that compiles a program; a timeout or a crash is returned as a failure."""
        if self._compiled >= MAX_PROGRAMS_PER_PROCESS and not self.programs:
            self.restart()
        self._compiled += 1
        try:
            return self.call(function, *args, timeout=timeout)
        except TimeoutError:
            return Failure(MeasureErrorNo.BUILD_TIMEOUT, f"compiling took longer than {timeout:.0f} s")
        except ChildProcessError:
            return Failure(MeasureErrorNo.COMPILE_HOST, "the compiling process died")

    def restart(self) -> None:
        """Kill the process; the next call starts a new one."""
        self.popen.kill()
        self.programs.clear()
        self._compiled = 0

    def close(self) -> None:
        """Kill the process."""
        self.popen.kill()


class ProcessPool:
    """One local worker process per core, which compile in parallel.

    Parameters
    ----------
    threads
        Size of TVM's thread pool in each process.
    """

    def __init__(self, threads: int) -> None:
        count = host_threads()
        self.processes = [WorkerProcess(local_worker.start, (threads,)) for _ in range(count)]
        self._executor = ThreadPoolExecutor(count)

    def submit(
        self, handle: Callable[[WorkerProcess, int, Item], None], items: Sequence[Item]
    ) -> list[Future[None]]:
        """Call ``handle(process, index, item)`` for every item; an idle process takes the next one.

        Returns
        -------
        One future per process, done when no item is left for it.
        """
        queue = deque(enumerate(items))

        def drain(process: WorkerProcess) -> None:
            while True:
                try:
                    index, item = queue.popleft()
                except IndexError:
                    return
                handle(process, index, item)

        return [self._executor.submit(drain, process) for process in self.processes]

    def close(self) -> None:
        """Kill the processes."""
        self._executor.shutdown(wait=True, cancel_futures=True)
        for process in self.processes:
            process.close()
