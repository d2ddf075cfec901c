# SPDX-License-Identifier: Apache-2.0
"""Worker processes that stay alive between programs.

auto_scheduler's local builder and runner start Python and import TVM again for each batch and each program.
A worker process here serves many programs. After a crash or a timeout it is restarted, and only the program
that it was working on is lost.
"""

from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from typing import Any, TypeVar

from tvm.auto_scheduler.measure import MeasureErrorNo

from tvm.contrib.cprune.measuring import local_worker
from tvm.contrib.cprune.measuring.fork_server import FORK_SERVER, ForkedWorker
from tvm.contrib.cprune.measuring.result import Failure
from tvm.contrib.cprune.messages import last_line
from tvm.contrib.cprune.targets.target import host_threads
from tvm.contrib.cprune.types import InfrastructureError

# Programs compiled by a worker before it is restarted. For GPUs, TVM eliminates common subexpressions, and
# never frees what that caches (src/tir/transforms/common_subexpr_elim_tools.cc, a static cache).
MAX_PROGRAMS_PER_PROCESS = 100

# Processes that die, or hang while they run it, before a program or model counts as the cause.
MAX_ATTEMPTS = 2

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
        self.popen = ForkedWorker(initializer, initargs)
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
        InfrastructureError
            If the process cannot be started, or ``function`` raises it.
        """
        try:
            self._send(function, args, timeout)
            return self.popen.recv()
        except (TimeoutError, ChildProcessError):
            self.restart()
            raise
        except InfrastructureError as error:
            # TVM's worker replaces the message by the traceback, whose last line has it.
            *_, message = last_line(error).partition(f"{InfrastructureError.__name__}: ")
            raise InfrastructureError(message or last_line(error)) from None

    def _send(self, function: Callable[..., Any], args: tuple[Any, ...], timeout: float | None) -> None:
        try:
            self.popen.send(function, args, timeout=timeout)
        except (TimeoutError, ChildProcessError):
            raise
        except OSError as error:
            raise InfrastructureError(f"cannot start a worker process: {error}") from error

    def compile(
        self, function: Callable[..., Any], *args: Any, timeout: float, control: Callable[[], Any]
    ) -> Any | Failure:
        """Run a ``function`` that compiles a program; a timeout or a crash is returned as a failure.

        A process that dies, such as for lack of memory, is replaced once before the program counts as the
        cause.

        Parameters
        ----------
        control
            Compiles a program that is known to work, in the way ``function`` does.

        Raises
        ------
        InfrastructureError
            If ``function`` raises it, or the process also dies in ``control``.
        """
        for _ in range(MAX_ATTEMPTS):
            if self._compiled >= MAX_PROGRAMS_PER_PROCESS and not self.programs:
                self.restart()
            self._compiled += 1
            try:
                return self.call(function, *args, timeout=timeout)
            except TimeoutError:
                return Failure(MeasureErrorNo.BUILD_TIMEOUT, f"compiling took longer than {timeout:.0f} s")
            except ChildProcessError:
                continue
        self.check(control, timeout)
        return Failure(MeasureErrorNo.COMPILE_HOST, f"the compiling process died {MAX_ATTEMPTS} times")

    def check(self, control: Callable[[], Any], timeout: float) -> None:
        """Run a ``control`` that works unless the machine fails.

        Raises
        ------
        InfrastructureError
            If it does not finish within ``timeout`` seconds, or the process dies.
        """
        try:
            self.call(control, timeout=timeout)
        except TimeoutError:
            message = f"took longer than {timeout:.0f} s"
            raise InfrastructureError(f"compiling a program that is known to work {message}") from None
        except ChildProcessError:
            raise InfrastructureError(
                "worker processes die even with a program that is known to work: "
                "check this machine's memory and the free space of its temporary folder"
            ) from None

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
        FORK_SERVER.start()
        self.processes = [WorkerProcess(local_worker.start, (threads,)) for _ in range(count)]
        self._executor = ThreadPoolExecutor(count)

    def submit(
        self, handle: Callable[[WorkerProcess, int, Item], None], items: Sequence[Item]
    ) -> list[Future[None]]:
        """Call ``handle(process, index, item)`` for every item; an idle process takes the next one.

        Returns
        -------
        One future per process, done when no item is left for it. An exception of ``handle`` is stored in the
        future, and drops the items that no process has taken.
        """
        queue = deque(enumerate(items))

        def drain(process: WorkerProcess) -> None:
            while True:
                try:
                    index, item = queue.popleft()
                except IndexError:
                    return
                try:
                    handle(process, index, item)
                except BaseException:
                    queue.clear()
                    raise

        return [self._executor.submit(drain, process) for process in self.processes]

    @staticmethod
    def join(futures: Sequence[Future[None]]) -> None:
        """Wait until every process is idle, then raise the first exception of ``futures``, if any."""
        wait(futures)
        for future in futures:
            future.result()

    def close(self) -> None:
        """Kill the processes."""
        self._executor.shutdown(wait=True, cancel_futures=True)
        for process in self.processes:
            process.close()
