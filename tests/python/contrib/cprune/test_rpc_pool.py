# SPDX-License-Identifier: Apache-2.0
"""Devices behind a real tracker on loopback: three servers, and what happens to them."""

import contextlib
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from conftest import ROOT, TUTORIAL, random_records, task_of
from tvm.rpc import base

import tvm
from tvm import te
from tvm.contrib.cprune.config import TuneConfig
from tvm.contrib.cprune.measuring import throttling
from tvm.contrib.cprune.measuring.records import RecordLog, identity, input_identity, to_input
from tvm.contrib.cprune.measuring.rpc_pool import RpcMeasurer
from tvm.contrib.cprune.measuring.throttling import SpeedWatch
from tvm.contrib.cprune.measuring.tracker import Tracker
from tvm.contrib.cprune.targets.presets import find_preset
from tvm.contrib.cprune.targets.target import host_target, pinned_target
from tvm.contrib.cprune.types import CPruneError

KEY = "board"
HOLD = 0.3
FAST = TuneConfig(repeats=2, run_timeout=6, threads=1)


def wait_until(ready: Callable[[], bool], what: str) -> None:
    deadline = time.time() + 60
    while not ready():
        assert time.time() < deadline, f"waited a minute for {what}"
        time.sleep(0.02)


class Site:
    """A tracker and servers on loopback, each a process of its own."""

    def __init__(self) -> None:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = probe.getsockname()[1]
        self.servers: list[subprocess.Popen] = []  # type: ignore[type-arg]
        self.start_tracker()

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.port}"

    def start_tracker(self) -> None:
        where = ["--host", "127.0.0.1", "--port", str(self.port), "--port-end", str(self.port + 1)]
        self.tracker = self._start("-m", "tvm.exec.rpc_tracker", *where)

    def add(self, hold: float = HOLD) -> subprocess.Popen:  # type: ignore[type-arg]
        script = str(ROOT / "benchmarks" / "holding_server.py")
        self.servers.append(self._start(script, self.address, KEY, str(hold)))
        return self.servers[-1]

    def _start(self, *command: str) -> subprocess.Popen:  # type: ignore[type-arg]
        return subprocess.Popen(
            [sys.executable, *command],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )

    def wait(self, count: int, free: int | None = None) -> None:
        """Wait until the tracker knows at least ``count`` devices, and so many of them are free."""

        def ready() -> bool:
            with contextlib.suppress(CPruneError):
                known, unused = Tracker.parse(self.address, KEY).devices()
                return known >= count and free in (None, unused)
            return False

        wait_until(ready, f"{count} devices at the tracker, {free} of them free")

    def close(self) -> None:
        for process in [*self.servers, self.tracker]:
            kill(process)


def kill(process: subprocess.Popen, number: int = signal.SIGKILL) -> None:  # type: ignore[type-arg]
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, number)
    if number == signal.SIGKILL:
        process.wait()


@pytest.fixture
def site() -> Iterator[Site]:
    made = Site()
    yield made
    made.close()


@pytest.fixture(scope="module")
def inputs():  # type: ignore[no-untyped-def]
    task = task_of("1x1", 64, pinned_target(host_target()))
    found = [to_input(line, task.tvm_task) for line in random_records(task)[:12]]
    assert len({identity(each) for each in found}) == 12
    return found


class Measuring:
    """Measures programs on a site's devices into a log."""

    def __init__(self, site: Site, folder: Path) -> None:
        self.site, self.said = site, list[str]()
        self.log = RecordLog(folder / "records.json")

    def pool(self, prepare: str = "cprune.hold") -> RpcMeasurer:
        tracker = Tracker.parse(self.site.address, KEY, wait=2)
        tell = lambda event: self.said.append(event["message"])  # noqa: E731
        return RpcMeasurer(FAST, find_preset(None), tracker, tell, prepare)

    def run(self, inputs, meanwhile: Callable[[], None] = lambda: None, busy: int = 3) -> None:  # type: ignore[no-untyped-def]
        """Measure ``inputs`` while something happens once ``busy`` devices are at work."""
        with self.pool() as pool, ThreadPoolExecutor(1) as thread:

            def held() -> bool:
                return sum(each.address is not None for each in pool._devices) >= busy

            def act() -> None:
                wait_until(held, f"{busy} devices at work")
                meanwhile()

            # First as many as there are devices: the processes that talk to them take seconds to start.
            measured = pool.measure_new(inputs[:busy], self.log)
            if busy:
                self.site.wait(busy, free=busy)
            event = thread.submit(act)
            measured += pool.measure_new(inputs[busy:], self.log)
            event.result()
        self.check(inputs)
        assert len(measured) == len(inputs)

    def check(self, inputs) -> None:  # type: ignore[no-untyped-def]
        """Every program has one valid record in the file, no more and no less."""
        lines = (self.log.path or Path()).read_text().splitlines()
        found = Counter(input_identity(line) for line in lines)
        assert found == Counter(identity(each) for each in inputs), self.said
        failed = [each.error for each in self.log.measured if each.latency is None]
        assert not failed, (failed, self.said)
        assert all(len(each.latency.samples) == FAST.repeats for each in self.log.measured if each.latency)


@pytest.fixture
def three(site, tmp_path) -> Measuring:
    for _ in range(3):
        site.add()
    site.wait(3)
    return Measuring(site, tmp_path)


def test_all_devices_share_the_work(three, inputs):
    address = three.site.address
    Tracker.parse(address, KEY).require()
    with pytest.raises(CPruneError, match=rf"{address} has no device of key 'bored'; it has board \(3\)"):
        Tracker.parse(address, "bored").require()
    three.run(inputs)
    assert not [line for line in three.said if "was lost" in line]
    # All are free again.
    three.site.wait(3, free=3)


def test_a_server_that_is_killed_loses_only_its_program(three, inputs):
    three.run(inputs, lambda: kill(three.site.servers[0]))
    assert [line for line in three.said if "was lost" in line], three.said


def test_a_server_that_hangs_is_left_out(three, inputs):
    three.run(inputs, lambda: kill(three.site.servers[0], signal.SIGSTOP))
    assert [line for line in three.said if "was lost: no answer in" in line], three.said
    kill(three.site.servers[0], signal.SIGCONT)


def test_a_run_waits_for_a_device_that_joins_late(site, tmp_path, inputs):
    site.wait(0)
    measuring = Measuring(site, tmp_path)
    event = threading.Timer(3, site.add)
    event.start()
    measuring.run(inputs[:4], busy=0)
    event.join()
    assert any("waiting for a device of key board" in line for line in measuring.said)


def test_a_device_that_cannot_be_reached_is_said(site, tmp_path, inputs):
    site.wait(0)
    measuring = Measuring(site, tmp_path)
    with socket.socket() as nobody, socket.create_connection(("127.0.0.1", site.port)) as tracker:
        nobody.bind(("127.0.0.1", 0))
        # As a server does whose address nobody else reaches.
        tracker.sendall(base.struct.pack("<i", base.RPC_TRACKER_MAGIC))
        base.recvall(tracker, 4)
        port = nobody.getsockname()[1]
        for message in (
            [base.TrackerCode.UPDATE_INFO, {"key": f"server:{KEY}", "addr": ("127.0.0.1", port)}],
            [base.TrackerCode.PUT, KEY, (port, f"{KEY}:1"), "127.0.0.1"],
        ):
            base.sendjson(tracker, message)
            base.recvjson(tracker)
        event = threading.Timer(3, site.add)
        event.start()
        measuring.run(inputs[:2], busy=0)
        event.join()
    said = [line for line in measuring.said if f"device 127.0.0.1:{port} cannot be reached" in line]
    assert len(said) == 1 and said[0].endswith(f"; asking {site.address} again"), measuring.said


def test_a_tracker_that_restarts_is_found_again(site, tmp_path, inputs):
    site.add(hold=0.05)
    site.wait(1)
    measuring = Measuring(site, tmp_path)

    def restart() -> None:
        kill(site.tracker)
        time.sleep(1)
        site.start_tracker()

    measuring.run(inputs[:6], restart, busy=1)
    site.wait(1)
    with measuring.pool() as pool:
        pool.measure_new(inputs, measuring.log)
    measuring.check(inputs)
    site.wait(1, free=1)
    assert len(measuring.log.measured) == len(inputs)


def test_a_change_of_speed_is_believed_when_it_is_seen_twice(monkeypatch):
    watch = SpeedWatch()
    for cost in (2.0, 1.0):  # the faster one of two counts
        assert watch.note("a", [cost] * 9) == ""
    assert not watch.doubts("a")
    assert watch.corrected("a", [3.0]) == (3.0,)
    # A moment of something else, and a few runs of it within one look.
    assert watch.note("a", [5.0] * 9) == "" and watch.doubts("a")
    assert watch.note("a", [1.05] * 9) == "" and not watch.doubts("a")
    assert watch.note("a", [1.0] * 3 + [9.0] * 6) == "" and not watch.doubts("a")
    # It stays, and goes again; less than a tenth is nothing.
    assert watch.note("a", [1.6] * 9) == "" and watch.doubts("a")
    said = "device a takes 1.50 times as long as at first: its times are divided by that"
    assert watch.note("a", [1.5] * 9) == said
    assert watch.corrected("a", [3.0, 6.0]) == (2.0, 4.0)
    assert watch.note("a", [1.6] * 9) == "" and not watch.doubts("a")
    assert watch.note("a", [1.04] * 9) == ""
    assert watch.note("a", [1.04] * 9) == "device a is as fast as at first again"
    assert watch.corrected("a", [3.0]) == (3.0,)
    # Others have nothing to do with it.
    assert watch.due("b") and not watch.due("a")
    monkeypatch.setattr(throttling, "EVERY", 0.0)
    assert watch.due("a")


def build_holding(preset, path: Path) -> list[tuple[tuple[int, ...], str]]:  # type: ignore[no-untyped-def]
    """Compile a reference program that takes as long as the server holds it, whatever else runs there."""
    data = te.placeholder((1,), name="data")
    hold = te.extern((1,), [data], lambda ins, _: tvm.tir.call_packed("cprune.hold", ins[0]), name="hold")
    preset.link(tvm.build(te.create_schedule(hold.op), [data, hold], preset.make_target()), path)
    return [((1,), "float32")] * 2


def test_a_device_that_slows_down_is_said_and_measured_out(site, tmp_path, inputs, monkeypatch):
    monkeypatch.setattr(throttling, "EVERY", 0.0)  # before each program
    monkeypatch.setattr(throttling, "build_reference", build_holding)
    server = site.add(hold=0.005)
    site.wait(1)
    measuring = Measuring(site, tmp_path)
    with measuring.pool(prepare="") as pool:
        first = pool.measure(inputs[:2])
        site.wait(1, free=1)
        kill(server, signal.SIGUSR1)
        then = pool.measure(inputs[:2])
    # What is said last: a machine that is busy with other things may slow down and recover before.
    said = re.search(
        r"takes (\S+) times as long as at first: its times are divided by that", measuring.said[-1]
    )
    assert said and float(said[1]) > 2, measuring.said
    # The programs themselves are as fast as before.
    for before, after in zip(first, then, strict=True):
        assert float(min(after.costs)) < float(min(before.costs))


def test_the_whole_way_over_rpc(site, tmp_path):
    for _ in range(3):
        site.add(hold=0)
    site.wait(3)
    options = [
        "--model",
        "lenet",
        "--train-epochs",
        "1",
        "--short-term-epochs",
        "1",
        "--fine-tune-epochs",
        "1",
    ]
    options += [
        "--accuracy-requirement",
        "0.05",
        "--trials",
        "4",
        "--max-iterations",
        "2",
        "--final-trials",
        "0",
    ]
    remote = ["--tracker", site.address, "--device-key", KEY, "--threads", "1", "--target", host_target()]
    run = ["--experiment-data-dir", str(tmp_path / "run"), "--repeats", "2"]
    command = [sys.executable, str(TUTORIAL / "main.py"), *options, *remote, *run]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=1800)
    assert done.returncode == 0, done.stdout + done.stderr
    assert f'"device_key": "{KEY}"' in (tmp_path / "run" / "result.json").read_text()

    deploy = [sys.executable, "-m", "tvm.contrib.cprune", "deploy"]
    bundle = tmp_path / "bundle"
    more = ["--tracker", site.address, "--device-key", KEY, "--repeats", "5", "--out", str(bundle)]
    done = subprocess.run(
        [*deploy, str(tmp_path / "run"), *more], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert "images a second" in done.stdout and "unpruned" in done.stdout
    example = subprocess.run(
        [sys.executable, str(bundle / "example.py")], capture_output=True, text=True, check=False
    )
    assert example.stdout.startswith("class "), example.stderr
    check = [*deploy, "--check", str(bundle)]
    assert subprocess.run(check, capture_output=True, check=False).returncode == 0
    params = bytearray((bundle / "params.bin").read_bytes())
    params[100] ^= 1
    (bundle / "params.bin").write_bytes(bytes(params))
    done = subprocess.run(check, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert "params.bin was changed" in done.stderr.splitlines()[-1]


@pytest.mark.parametrize(
    ("address", "key", "message"),
    [
        ("nowhere", "k", "the tracker's address is 'nowhere', expected host:port"),
        ("127.0.0.1:99999", "k", "the tracker's address is '127.0.0.1:99999'"),
        (None, "k", "no tracker: give --tracker host:port, or set TVM_TRACKER_HOST"),
        ("127.0.0.1:9190", None, "no device key: give --device-key"),
    ],
)
def test_malformed_trackers_are_refused(address, key, message, monkeypatch):
    monkeypatch.delenv("TVM_TRACKER_HOST", raising=False)
    with pytest.raises(CPruneError, match=message):
        Tracker.parse(address, key)


def test_the_tracker_of_the_environment(monkeypatch):
    monkeypatch.setenv("TVM_TRACKER_HOST", "10.0.0.1")
    monkeypatch.setenv("TVM_TRACKER_PORT", "9191")
    assert Tracker.parse(None, "k") == Tracker("10.0.0.1", 9191, "k")


@pytest.mark.parametrize(("host", "warned"), [("127.0.0.1", False), ("localhost", False), ("10.0.0.1", True)])
def test_a_tracker_that_others_reach_is_warned_of(host, warned):
    assert ("has no authentication" in Tracker(host, 9190, "k").warning) == warned


def doctor(*arguments: str) -> tuple[int, str]:
    command = [sys.executable, "-m", "tvm.contrib.cprune", "doctor", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    return done.returncode, done.stdout + done.stderr


def test_doctor_finds_this_machine_well():
    code, text = doctor()
    assert code == 0, text
    round_trip = "ok   round trip: compiled, ran and compared on this machine"
    for line in ("ok   TVM: 0.17", "ok   plug-in", "ok   compiler", round_trip):
        assert line in text, text


def test_doctor_says_what_is_missing():
    code, text = doctor("--target", "android-cpu", "--tracker", "127.0.0.1:9", "--device-key", "phone")
    assert code == 1
    assert "FAIL compiler: TVM_NDK_CC is not set" in text
    assert "FAIL tracker: no tracker answers at 127.0.0.1:9" in text
    assert "?    round trip: there is no tracker" in text


def test_doctor_on_devices(site):
    site.wait(0)
    code, text = doctor("--tracker", site.address, "--device-key", KEY)
    assert code == 1 and "FAIL devices: none of key board" in text, text
    site.add()
    site.wait(1)
    code, text = doctor("--tracker", site.address, "--device-key", KEY)
    assert code == 0 and "ok   round trip: compiled, ran and compared on a device of board" in text, text
