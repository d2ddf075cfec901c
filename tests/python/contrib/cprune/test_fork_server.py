# SPDX-License-Identifier: Apache-2.0
"""Worker processes that are forked from a process that has imported TVM."""

import os
import signal
import time
from collections.abc import Iterator

import psutil
import pytest

from tvm.contrib.cprune.measuring import fork_server
from tvm.contrib.cprune.measuring.fork_server import ForkedWorker, ForkServer


@pytest.fixture
def server(monkeypatch) -> ForkServer:
    fresh = ForkServer()
    monkeypatch.setattr(fork_server, "FORK_SERVER", fresh)
    return fresh


@pytest.fixture
def worker(server) -> Iterator[ForkedWorker]:
    started = ForkedWorker()
    yield started
    started.kill()


def call(worker: ForkedWorker, function, *arguments):
    worker.send(function, arguments)
    return worker.recv()


def server_of(worker: ForkedWorker) -> psutil.Process:
    parent = psutil.Process(call(worker, os.getpid)).parent()
    assert parent is not None
    return parent


def test_a_worker_has_the_environment_and_the_folder_of_the_moment(worker, monkeypatch, tmp_path):
    server_of(worker)
    worker.kill()
    monkeypatch.setenv("CPRUNE_TEST", "later than the server")
    monkeypatch.chdir(tmp_path)
    assert call(worker, os.getenv, "CPRUNE_TEST") == "later than the server"
    assert call(worker, os.getcwd) == str(tmp_path)


def test_a_worker_that_ends_is_noticed_and_replaced(worker):
    first = call(worker, os.getpid)
    assert worker.is_alive()
    os.kill(first, signal.SIGKILL)
    assert worker._proc is not None and worker._proc.wait(10) is not None
    assert not worker.is_alive()
    with pytest.raises(ChildProcessError):
        call(worker, os.getpid)
    assert call(worker, os.getpid) != first
    worker.send(time.sleep, (60,), timeout=0.2)
    with pytest.raises(TimeoutError):
        worker.recv()
    assert not worker.is_alive()


def test_ended_workers_leave_no_process_behind(worker):
    server = server_of(worker)
    for _ in range(3):
        call(worker, os.getpid)
        worker.kill()
    deadline = time.time() + 10
    while server.children() and time.time() < deadline:
        time.sleep(0.02)
    assert not server.children()


def test_an_interrupted_start_does_not_mix_up_workers(worker, monkeypatch):
    receive = fork_server._receive

    def interrupted(*arguments):
        monkeypatch.setattr(fork_server, "_receive", receive)
        raise KeyboardInterrupt

    server_of(worker)
    other = ForkedWorker()
    monkeypatch.setattr(fork_server, "_receive", interrupted)
    with pytest.raises(KeyboardInterrupt):
        other.send(os.getpid)
    other = ForkedWorker()
    assert call(other, os.getpid) == other._proc.pid
    other.kill()


def test_a_server_that_was_killed_is_replaced(worker):
    server = server_of(worker)
    worker.kill()
    server.send_signal(signal.SIGKILL)
    psutil.wait_procs([server], timeout=10)
    assert server_of(worker).pid != server.pid


@pytest.mark.parametrize("state", ["idle", "busy"])
def test_the_server_and_its_workers_end_with_the_process_that_uses_them(state, server):
    """The busy worker never returns to the loop that would notice that its user has ended."""
    outer, code = (
        ForkedWorker(),
        (
            "from tvm.contrib.cprune.measuring.fork_server import ForkedWorker\n"
            "import builtins, os\n"
            "builtins.inner = inner = ForkedWorker()\n"
            "inner.send(os.getpid)\n"
            "builtins.inner_pid = inner.recv()\n"
        ),
    )
    call(outer, exec, code)
    inner = psutil.Process(call(outer, eval, "inner_pid"))
    processes = [inner, inner.parent()]
    if state == "busy":
        call(outer, exec, "inner.send(exec, ('while True: pass',))")
    os.kill(call(outer, os.getpid), signal.SIGKILL)
    _, alive = psutil.wait_procs(processes, timeout=10)
    for process in alive:
        process.kill()
    assert not alive
    outer.kill()
