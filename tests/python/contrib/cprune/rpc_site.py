# SPDX-License-Identifier: Apache-2.0
"""An RPC tracker with devices on loopback, for tests."""

import contextlib
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator

from commands import ROOT

from tvm.contrib.cprune.measuring.tracker import Tracker
from tvm.contrib.cprune.types import CPruneError

KEY = "board"
# Seconds for which a device holds each timed run, by default.
HOLD = 0.3
TIMEOUT = 60


def wait_until(ready: Callable[[], bool], condition: str) -> None:
    deadline = time.time() + TIMEOUT
    while not ready():
        assert time.time() < deadline, f"timed out after {TIMEOUT} s waiting for {condition}"
        time.sleep(0.02)


def kill(process: "subprocess.Popen[bytes]", number: int = signal.SIGKILL) -> None:
    """Send a signal to a process and its children."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, number)
    if number == signal.SIGKILL:
        process.wait()


class Site:
    """A tracker and its devices; each of them is a process."""

    def __init__(self) -> None:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = probe.getsockname()[1]
        self.servers: list[subprocess.Popen[bytes]] = []
        self.tracker = self._start_tracker()

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.port}"

    def _start_tracker(self) -> "subprocess.Popen[bytes]":
        ports = ["--port", str(self.port), "--port-end", str(self.port + 1)]
        return self._start("-m", "tvm.exec.rpc_tracker", "--host", "127.0.0.1", *ports)

    def restart_tracker(self, down_seconds: float) -> None:
        kill(self.tracker)
        time.sleep(down_seconds)
        self.tracker = self._start_tracker()

    def add(self, hold: float = HOLD) -> "subprocess.Popen[bytes]":
        """Start a device that holds each timed run for ``hold`` seconds."""
        script = str(ROOT / "benchmarks" / "holding_server.py")
        self.servers.append(self._start(script, self.address, KEY, str(hold)))
        return self.servers[-1]

    def _start(self, *command: str) -> "subprocess.Popen[bytes]":
        quiet = subprocess.DEVNULL
        return subprocess.Popen(
            [sys.executable, *command], stdout=quiet, stderr=quiet, start_new_session=True
        )

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
