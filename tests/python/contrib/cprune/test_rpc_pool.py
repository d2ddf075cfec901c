# SPDX-License-Identifier: Apache-2.0
"""Measuring on several devices behind a tracker, with faults of devices and of the tracker."""

import dataclasses
import re
import signal
import socket
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from programs import random_records, task_of
from rpc_site import KEY, Site, kill, running_site, wait_until
from tvm.rpc import base

import tvm
from tvm import te
from tvm.contrib.cprune.config import TuneConfig
from tvm.contrib.cprune.measuring import (
    local_worker,
    model_timing,
    rpc_device,
    rpc_worker,
    throttling,
)
from tvm.contrib.cprune.measuring.records import RecordLog, identity, input_identity, to_input
from tvm.contrib.cprune.measuring.result import ArgSpecs, Costs
from tvm.contrib.cprune.measuring.rpc_pool import RpcMeasurer
from tvm.contrib.cprune.measuring.tracker import Tracker
from tvm.contrib.cprune.targets.presets import Preset, find_preset
from tvm.contrib.cprune.targets.target import host_target, pinned_target
from tvm.contrib.cprune.types import InfrastructureError

CONFIG = TuneConfig(repeats=2, run_timeout=6, threads=1)
PROGRAMS = 12


@pytest.fixture
def site() -> Iterator[Site]:
    with running_site() as running:
        yield running


@pytest.fixture(scope="module")
def inputs() -> list[Any]:
    """Twelve different programs of one task."""
    task = task_of("1x1", 64, pinned_target(host_target()))
    distinct = [to_input(line, task.tvm_task) for line in random_records(task)[:PROGRAMS]]
    assert len({identity(measure_input) for measure_input in distinct}) == PROGRAMS
    return distinct


class Measurement:
    """Measures programs on a site's devices, and keeps their records and the reported messages."""

    def __init__(self, site: Site, folder: Path) -> None:
        self.site, self.messages = site, list[str]()
        self.log = RecordLog(folder / "records.json")

    def measurer(self, prepare: str = "cprune.hold", config: TuneConfig = CONFIG) -> RpcMeasurer:
        tracker = Tracker.parse(self.site.address, KEY, wait=2)

        def report(event: dict[str, Any]) -> None:
            self.messages.append(event["message"])

        return RpcMeasurer(config, find_preset(None), tracker, report, prepare)

    def run(self, inputs: list[Any], fault: Callable[[], None] = lambda: None, busy: int = 3) -> None:
        """Measure ``inputs``; cause a fault as soon as ``busy`` devices are at work."""
        with self.measurer() as measurer, ThreadPoolExecutor(1) as thread:

            def at_work() -> bool:
                return sum(device.address is not None for device in measurer.devices) >= busy

            def cause_fault() -> None:
                wait_until(at_work, f"{busy} devices at work")
                fault()

            # One program per device first: the processes that talk to them take seconds to start.
            records = measurer.measure_new(inputs[:busy], self.log)
            if busy:
                self.site.wait(busy, free=busy)
            faults = thread.submit(cause_fault)
            records += measurer.measure_new(inputs[busy:], self.log)
            faults.result()
        self.check(inputs)
        assert len(records) == len(inputs)

    def check(self, inputs: list[Any]) -> None:
        """Check that every program has exactly one record in the log and that it is valid."""
        lines = (self.log.path or Path()).read_text().splitlines()
        counts = Counter(input_identity(line) for line in lines)
        assert counts == Counter(identity(measure_input) for measure_input in inputs), self.messages
        failed = [record.error for record in self.log.measured if record.latency is None]
        assert not failed, (failed, self.messages)
        latencies = [record.latency for record in self.log.measured if record.latency]
        assert all(len(latency.samples) == CONFIG.repeats for latency in latencies)

    def reported(self, text: str) -> list[str]:
        return [message for message in self.messages if text in message]


@pytest.fixture
def three_devices(site: Site, tmp_path: Path) -> Measurement:
    for _ in range(3):
        site.add()
    site.wait(3)
    return Measurement(site, tmp_path)


def test_all_devices_share_the_work_and_are_released(three_devices, inputs):
    three_devices.run(inputs)
    assert not three_devices.reported("lost device")
    three_devices.site.wait(3, free=3)


def test_programs_of_a_killed_server_are_measured_elsewhere(three_devices, inputs):
    three_devices.run(inputs, lambda: kill(three_devices.site.servers[0]))
    assert three_devices.reported("lost device"), three_devices.messages


def test_programs_of_a_hanging_server_are_measured_elsewhere(three_devices, inputs):
    server = three_devices.site.servers[0]
    three_devices.run(inputs, lambda: kill(server, signal.SIGSTOP))
    lost = three_devices.reported("lost device")
    assert any("no answer within" in message for message in lost), three_devices.messages
    kill(server, signal.SIGCONT)


def test_measuring_waits_for_a_device_that_registers_late(site, tmp_path, inputs):
    site.wait(0)
    measurement = Measurement(site, tmp_path)
    late = threading.Timer(3, site.add)
    late.start()
    measurement.run(inputs[:4], busy=0)
    late.join()
    assert measurement.reported(f"waiting for a device of key {KEY}")


def test_a_compiler_without_space_stops_measuring(site, tmp_path, inputs, monkeypatch):
    site.wait(0)
    compiler = tmp_path / "g++"
    compiler.write_text("#!/bin/sh\necho 'ld: final link failed: No space left on device' >&2\nexit 1\n")
    compiler.chmod(0o755)
    measurement = Measurement(site, tmp_path)
    with measurement.measurer() as measurer:
        monkeypatch.setenv("CXX", str(compiler))
        message = r"^cannot link program-\d+\.so for cpu: ld: final link failed: No space left on device$"
        with pytest.raises(InfrastructureError, match=message):
            measurer.measure_new(inputs[:2], measurement.log)
    assert not measurement.log.measured


def test_an_unexpected_exception_of_a_builder_ends_the_call(site, tmp_path, monkeypatch):
    def build_file(*_: Any) -> None:
        raise AssertionError("a template's assertion")

    site.wait(0)
    monkeypatch.setattr(local_worker, "build_file", build_file)
    with Measurement(site, tmp_path).measurer() as measurer, pytest.raises(AssertionError, match="template"):
        measurer.measure_serialized(["program"] * 4)


def test_a_slow_model_is_timed_in_a_session_that_outlasts_it(site, tmp_path, monkeypatch):
    """A model that takes 0.9 s, with limits that are scaled down: programs have sessions of 4 s."""
    monkeypatch.setattr(rpc_device, "SESSION_MARGIN", 0)
    monkeypatch.setattr(model_timing, "FIRST_RUN_TIMEOUT", 10.0)

    def time_models(_: Any, __: Any, ___: str, ____: Any, repeats: int) -> list[Costs]:
        time.sleep(0.9 * repeats)
        rpc_worker._session.get_function("runtime.config_threadpool")  # fails if the session has ended
        return [(0.9,) * repeats]

    monkeypatch.setattr(rpc_worker, "time_models", time_models)
    site.add()
    site.wait(1)
    measurement, config = Measurement(site, tmp_path), dataclasses.replace(CONFIG, run_timeout=1)
    with measurement.measurer(config=config) as measurer:
        (costs,) = measurer.time_models([tmp_path / "model.so"], np.zeros(1), 6)
    assert len(costs) == 6
    assert not measurement.reported("lost device")


def register_unreachable(tracker: socket.socket, port: int) -> None:
    """Register a device at ``port``, where nothing listens, as its RPC server would do."""
    tracker.sendall(base.struct.pack("<i", base.RPC_TRACKER_MAGIC))
    base.recvall(tracker, 4)
    info = {"key": f"server:{KEY}", "addr": ("127.0.0.1", port)}
    base.sendjson(tracker, [base.TrackerCode.UPDATE_INFO, info])
    base.recvjson(tracker)
    base.sendjson(tracker, [base.TrackerCode.PUT, KEY, (port, f"{KEY}:1"), "127.0.0.1"])
    base.recvjson(tracker)


def test_an_unreachable_device_is_reported_once(site, tmp_path, inputs):
    site.wait(0)
    measurement = Measurement(site, tmp_path)
    with socket.socket() as closed, socket.create_connection(("127.0.0.1", site.port)) as tracker:
        closed.bind(("127.0.0.1", 0))
        port = closed.getsockname()[1]
        register_unreachable(tracker, port)
        late = threading.Timer(3, site.add)
        late.start()
        measurement.run(inputs[:2], busy=0)
        late.join()
    reported = measurement.reported(f"cannot reach device 127.0.0.1:{port}")
    assert len(reported) == 1, measurement.messages
    assert reported[0].endswith(f"; retrying the tracker at {site.address}")


def test_measuring_survives_a_restart_of_the_tracker(site, tmp_path, inputs):
    site.add(hold=0.05)
    site.wait(1)
    measurement = Measurement(site, tmp_path)
    measurement.run(inputs[:6], lambda: site.restart_tracker(down_seconds=1), busy=1)
    site.wait(1)
    with measurement.measurer() as measurer:
        measurer.measure_new(inputs, measurement.log)
    measurement.check(inputs)
    site.wait(1, free=1)
    assert len(measurement.log.measured) == len(inputs)


def build_holding(preset: Preset, path: Path) -> ArgSpecs:
    """Compile a reference program whose time is the server's hold, whatever else the machine runs."""
    data = te.placeholder((1,), name="data")
    hold = te.extern((1,), [data], lambda ins, _: tvm.tir.call_packed("cprune.hold", ins[0]), name="hold")
    preset.link(tvm.build(te.create_schedule(hold.op), [data, hold], preset.make_target()), path)
    return [((1,), "float32")] * 2


def test_a_slowdown_is_reported_and_corrected(site, tmp_path, inputs, monkeypatch):
    monkeypatch.setattr(throttling, "CHECK_INTERVAL", 0.0)  # check before every program
    monkeypatch.setattr(throttling, "build_reference", build_holding)
    server = site.add(hold=0.005)
    site.wait(1)
    measurement = Measurement(site, tmp_path)
    with measurement.measurer(prepare="") as measurer:
        before = measurer.measure(inputs[:2])
        site.wait(1, free=1)
        kill(server, signal.SIGUSR1)
        after = measurer.measure(inputs[:2])
    # Only the last message counts: a busy machine may slow down and recover earlier.
    pattern = r"takes (\S+) times as long as initially; its measurements are divided by this factor"
    slowdown = re.search(pattern, measurement.messages[-1])
    assert slowdown and float(slowdown[1]) > 2, measurement.messages
    # The programs themselves run as fast as before, so the correction makes them faster.
    for old, new in zip(before, after, strict=True):
        assert float(min(new.costs)) < float(min(old.costs))


@pytest.mark.parametrize(("hold", "corrected"), [(0.15, True), (0.4, False)])
def test_devices_of_different_speed_are_corrected_or_refused(
    site, tmp_path, inputs, monkeypatch, hold, corrected
):
    monkeypatch.setattr(throttling, "build_reference", build_holding)
    site.add(hold=0.05)
    site.wait(1)
    measurement = Measurement(site, tmp_path)
    with measurement.measurer(prepare="") as measurer:
        measurer.measure(inputs[:1])
        site.wait(1, free=1)
        site.add(hold=hold)
        site.wait(2)
        wait_until(lambda: bool(measurer.measure(inputs[:4]) and measurement.messages), "a report")
    (message,) = measurement.messages
    end = "; its measurements are divided by this factor" if corrected else " and is not used: "
    factor = re.search(rf"takes (\S+) times as long as device 127.0.0.1:\d+{end}", message)
    assert factor and (1.1 if corrected else 4) < float(factor[1]), message
