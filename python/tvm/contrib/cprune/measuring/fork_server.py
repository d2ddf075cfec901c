# SPDX-License-Identifier: Apache-2.0
"""Worker processes that start in milliseconds, because they are forks of a process that has imported TVM.

Starting Python and importing TVM takes seconds, which TVM's ``PopenWorker`` spends for each process. A
``ForkedWorker`` is a fork of one server process. The server starts with the first worker, and ends with the
process that uses it; its workers end with it, whatever they run. It never starts TVM's thread pool, and runs
nothing while it forks.
"""

import contextlib
import json
import os
import select
import signal
import socket
import struct
import subprocess
import sys
import threading
import traceback
from collections.abc import Callable
from typing import Any, NoReturn

from tvm.contrib.popen_pool import PopenWorker
from tvm.exec import popen_worker

from tvm.contrib.cprune.measuring import local_worker, rpc_worker
from tvm.contrib.cprune.measuring.parent_death import end_with_parent
from tvm.contrib.cprune.types import InfrastructureError

# Imported for the workers: the functions that run there are found by name.
PRELOADED = (local_worker, rpc_worker)
_INT = struct.Struct("<i")


class ForkedProcess:
    """A running worker, with the methods of ``subprocess.Popen`` that ``PopenWorker`` uses.

    Parameters
    ----------
    pid
        Id of the process, which is a child of the fork server.
    output
        Read end of the pipe that the worker alone writes to. It hangs up when the worker ends.
    """

    def __init__(self, pid: int, output: int) -> None:
        self.pid = pid
        self._output = os.fdopen(os.dup(output), "rb", buffering=0)

    def poll(self) -> int | None:
        """Return None while the process runs."""
        return self._ended(0)

    def wait(self, timeout: float | None = None) -> int:
        """Wait for the process to end.

        Raises
        ------
        subprocess.TimeoutExpired
            If it runs for more than ``timeout`` seconds.
        """
        status = self._ended(timeout)
        if status is None:
            raise subprocess.TimeoutExpired("worker process", timeout or 0.0)
        return status

    def kill(self) -> None:
        """Kill the process."""
        if self.poll() is None:
            os.kill(self.pid, signal.SIGKILL)

    def _ended(self, timeout: float | None) -> int | None:
        poll = select.poll()
        poll.register(self._output, 0)  # reports nothing but the end
        return 0 if poll.poll(None if timeout is None else timeout * 1000) else None


class ForkServer:
    """Starts workers as forks of one process; see the module's documentation."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._process: subprocess.Popen[bytes] | None = None
        self._socket: socket.socket | None = None

    def fork(self, commands: int, output: int) -> int:
        """Start a worker with this process's environment, working directory and CPU affinity.

        Parameters
        ----------
        commands, output
            Ends of pipes: the worker reads calls from the first and writes results to the second.

        Returns
        -------
        The worker's process id.

        Raises
        ------
        InfrastructureError
            If the server cannot be started, or ends.
        """
        folder = os.open(".", getattr(os, "O_PATH", os.O_RDONLY))
        try:
            with self._lock:
                self._start()
                return self._request([commands, output, folder])
        finally:
            os.close(folder)

    def start(self) -> None:
        """Start the server, if it does not run, without waiting until it is ready."""
        with self._lock:
            self._start()

    def _start(self) -> None:
        if self._process is not None and self._process.poll() is None:
            return
        self._socket, theirs = socket.socketpair()
        with theirs:
            # Ctrl-C reaches all processes of a terminal: the server ignores it while it imports TVM, too.
            command = ["sh", "-c", "trap '' INT; exec \"$@\"", "sh"]
            command += [sys.executable, "-m", __name__, str(theirs.fileno())]
            try:
                self._process = subprocess.Popen(command, pass_fds=[theirs.fileno()])
            except OSError as error:
                raise InfrastructureError(f"cannot start a worker process: {error}") from error

    def _request(self, descriptors: list[int]) -> int:
        assert self._socket is not None
        affinity = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else []
        request = json.dumps({"environment": dict(os.environ), "affinity": affinity}).encode()
        try:
            socket.send_fds(self._socket, [_INT.pack(len(request))], descriptors)
            self._socket.sendall(request)
            return int(_INT.unpack(_receive(self._socket, _INT.size))[0])
        except (OSError, EOFError) as error:
            self._abandon()
            raise InfrastructureError(f"the process that starts workers has ended: {error}") from error
        except BaseException:
            self._abandon()  # an answer may still come, which the next request must not read
            raise

    def _abandon(self) -> None:
        """Let the server and its workers end; the next worker starts another server."""
        if self._socket is not None:
            self._socket.close()
        self._process = self._socket = None


FORK_SERVER = ForkServer()


class ForkedWorker(PopenWorker):
    """TVM's ``PopenWorker``, whose processes come from the fork server."""

    _proc: ForkedProcess | None

    def __init__(
        self, initializer: Callable[..., None] | None = None, initargs: tuple[Any, ...] = ()
    ) -> None:
        super().__init__(initializer, initargs)

    def kill(self) -> None:
        """Kill the process and its children; the next call starts another one."""
        if self._proc is not None and self._proc.poll() is not None:
            # It has ended, and another process may have its number: kill nothing.
            self._reader.close()
            with contextlib.suppress(OSError):
                self._writer.close()
            self._proc = None
        super().kill()

    def _start(self) -> None:
        if self._proc is not None:
            return
        results, output = os.pipe()
        commands, calls = os.pipe()
        self._reader, self._writer = os.fdopen(results, "rb"), os.fdopen(calls, "wb")
        try:
            self._proc = ForkedProcess(FORK_SERVER.fork(commands, output), results)
        finally:
            os.close(commands)
            os.close(output)


def _receive(source: socket.socket, size: int) -> bytes:
    """Return ``size`` bytes; raise ``EOFError`` if the other side has ended."""
    data = b""
    while len(data) < size:
        part = source.recv(size - len(data))
        if not part:
            raise EOFError("no answer")
        data += part
    return data


def serve(requests: socket.socket) -> None:
    """Fork a worker for each request until the process that sends them ends."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # ended workers leave nothing behind
    with contextlib.suppress(OSError, EOFError):  # the process that sends the requests has ended
        while True:
            header, descriptors, *_ = socket.recv_fds(requests, _INT.size, 3)
            if not header:
                return
            request = json.loads(_receive(requests, _INT.unpack(header)[0]))
            server, pid = os.getpid(), os.fork()
            if pid == 0:
                requests.close()
                _work(server, descriptors, request)
            for descriptor in descriptors:
                os.close(descriptor)
            requests.sendall(_INT.pack(pid))


def _work(server: int, descriptors: list[int], request: dict[str, Any]) -> NoReturn:
    """Turn a fork of the server, whose process id is given, into a worker of TVM."""
    status = 1
    try:
        end_with_parent(server)
        signal.signal(signal.SIGINT, signal.default_int_handler)
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        commands, output, folder = descriptors
        os.environ.clear()
        os.environ.update(request["environment"])
        if request["affinity"]:
            os.sched_setaffinity(0, request["affinity"])
        os.fchdir(folder)
        os.close(folder)
        for descriptor in (commands, output):
            os.set_inheritable(descriptor, False)
        sys.argv = ["popen_worker", str(commands), str(output)]
        with contextlib.suppress(KeyboardInterrupt, OSError):  # as TVM's worker ends with its user
            popen_worker.main()
        status = 0
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)


if __name__ == "__main__":
    serve(socket.socket(fileno=int(sys.argv[1])))
