# SPDX-License-Identifier: Apache-2.0
"""TVM's native RPC server for AArch64, in an emulator."""

import os
import shutil
import signal
import socket
import subprocess
from pathlib import Path
from types import TracebackType

QEMU, SYSROOT = "qemu-aarch64", "/usr/aarch64-linux-gnu"
# The path of ``tvm_rpc``, with ``libtvm_runtime.so`` beside it.
VARIABLE = "CPRUNE_TVM_RPC"


def missing() -> str | None:
    """Return what to do to have an emulated server, None if everything is there."""
    if not shutil.which(QEMU) or not shutil.which("aarch64-linux-gnu-g++"):
        return "apt install g++-aarch64-linux-gnu qemu-user"
    if not Path(os.getenv(VARIABLE, "")).is_file():
        return (
            "python3 tools/build_tvm.py TVM --runtime-only --cross aarch64-linux-gnu, where TVM is a "
            f"checkout of TVM v0.17.0, and set {VARIABLE}=TVM/build-cprune-aarch64-linux-gnu/tvm_rpc"
        )
    return None


class EmulatedServer:
    """A server that registers at a tracker. Use it as a context manager.

    Parameters
    ----------
    tracker
        ``host:port`` of the tracker.
    folder
        Takes the server's files and its log, ``server.log``.
    """

    def __init__(self, tracker: str, key: str, folder: Path) -> None:
        self._tracker, self._key, self._folder = tracker, key, folder
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self._port = probe.getsockname()[1]
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> "EmulatedServer":
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.kill()

    def log(self) -> str:
        return (self._folder / "server.log").read_text()

    def start(self) -> None:
        program = Path(os.environ[VARIABLE]).resolve()
        command = [QEMU, "-L", SYSROOT, "-E", f"LD_LIBRARY_PATH={program.parent}", str(program), "server"]
        command += ["--host=127.0.0.1", f"--port={self._port}", f"--port-end={self._port + 10}"]
        command += [f"--tracker={self._tracker}", f"--key={self._key}"]
        with (self._folder / "server.log").open("a") as log:
            self._process = subprocess.Popen(
                command, cwd=self._folder, stdout=log, stderr=log, start_new_session=True
            )

    def kill(self) -> None:
        """Kill the server and its sessions, as if the device was switched off."""
        if self._process is not None:
            os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()
            self._process = None
