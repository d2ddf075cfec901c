# SPDX-License-Identifier: Apache-2.0
"""An RPC tracker with devices on loopback, for tests."""

import contextlib
import os
import signal
import socket
import time
from collections.abc import Callable, Iterator

from commands import ROOT

from tvm.contrib.cprune.measuring.fork_server import ForkedWorker
from tvm.contrib.cprune.measuring.tracker import Tracker
from tvm.contrib.cprune.types import CPruneError

KEY = "board"
# Seconds for which a device holds each timed run, by default.
HOLD = 0.3
TIMEOUT = 60


def wait_until(ready: Callable[[], bool], condition: str, timeout: float = TIMEOUT) -> None:
    deadline = time.time() + timeout
    while not ready():
        assert time.time() < deadline, f"timed out after {timeout} s waiting for {condition}"
        time.sleep(0.02)


class SiteProcess:
    """A tracker or a device: a fork of a process that has imported TVM, in a process group of its own.

    Parameters
    ----------
    code
        What the process runs. It must not return.
    """

    def __init__(self, code: str) -> None:
        self._worker = ForkedWorker()
        quiet = "null = os.open(os.devnull, os.O_WRONLY); os.dup2(null, 1); os.dup2(null, 2)"
        self._worker.send(exec, (f"import os; os.setsid(); {quiet}\n{code}",))
        self.pid: int = self._worker._proc.pid

    def wait(self) -> None:
        self._worker.join()


def kill(process: SiteProcess, number: int = signal.SIGKILL) -> None:
    """Send a signal to a process and its children."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, number)
    if number == signal.SIGKILL:
        with contextlib.suppress(ProcessLookupError):
            os.kill(process.pid, number)  # which has no group yet if it was started just now
        process.wait()


class Site:
    """A tracker and its devices; each of them is a process."""

    def __init__(self) -> None:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = probe.getsockname()[1]
        self.servers: list[SiteProcess] = []
        self.tracker = self._start_tracker()

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.port}"

    def _start_tracker(self) -> SiteProcess:
        code = "from tvm.rpc.tracker import PopenTrackerServerState\n"
        code += f"PopenTrackerServerState('127.0.0.1', {self.port}, {self.port + 1}).thread.join()"
        return SiteProcess(code)

    def restart_tracker(self, down_seconds: float) -> None:
        kill(self.tracker)
        time.sleep(down_seconds)
        self.tracker = self._start_tracker()

    def add(self, hold: float = HOLD) -> SiteProcess:
        """Start a device that holds each timed run for ``hold`` seconds."""
        script = str(ROOT / "benchmarks" / "holding_server.py")
        arguments = [script, self.address, KEY, str(hold)]
        code = f"import runpy, sys; sys.argv = {arguments!r}; runpy.run_path({script!r}, run_name='__main__')"
        self.servers.append(SiteProcess(code))
        return self.servers[-1]

    def wait(self, count: int, free: int | None = None) -> None:
        """Wait until the tracker lists ``count`` devices or more, ``free`` of which are free."""

        def ready() -> bool:
            with contextlib.suppress(CPruneError):
                registered, unused = Tracker.parse(self.address, KEY).devices()
                return registered >= count and free in (None, unused)
            return False

        wait_until(ready, f"{count} devices at the tracker, {free} of them free")

    def close(self) -> None:
        for process in [*self.servers, self.tracker]:
            kill(process)


@contextlib.contextmanager
def running_site() -> Iterator[Site]:
    site = Site()
    try:
        yield site
    finally:
        site.close()
