# SPDX-License-Identifier: Apache-2.0
"""What runs inside a process that talks to one device: it holds a session, and times what it is sent.

A process for each device, for a call over TVM's RPC to a device that hangs never returns: the process is
killed, and the device asked for again.
"""

import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from tvm.auto_scheduler.measure import MeasureErrorNo
from tvm.rpc import base
from tvm.rpc.client import connect as connect_server

import tvm
from tvm.contrib import graph_executor
from tvm.contrib.cprune.measuring.local_worker import Failure, last_line, timed

Specs = list[tuple[tuple[int, ...], str]]
FLUSH = "cache_flush_cpu_non_first_arg"


@dataclass(frozen=True)
class Lost:
    """The device went away while it worked: the program may be as good as any."""

    reason: str


_session: Any = None


def request(host: str, port: int, key: str, wait: float, session_timeout: int) -> str | None:
    """Take a free device of ``key`` from the tracker; return its address, None if there was none in time.

    Raises
    ------
    OSError
        If the tracker does not answer, or the device that it names cannot be reached.
    """
    global _session
    _session = None
    sock = base.connect_with_retry((host, port), timeout=min(wait, 5), retry_period=0.5)
    try:
        sock.settimeout(wait)
        sock.sendall(base.struct.pack("<i", base.RPC_TRACKER_MAGIC))
        magic = base.struct.unpack("<i", base.recvall(sock, 4))[0]
        if magic != base.RPC_TRACKER_MAGIC:
            raise OSError(f"{host}:{port} is not an RPC tracker")
        base.sendjson(sock, [base.TrackerCode.REQUEST, key, "", 1])
        code, address = base.recvjson(sock)
        if code != base.TrackerCode.SUCCESS:
            raise OSError(f"the tracker refused: {address}")
    except TimeoutError:
        return None
    finally:
        sock.close()
    url, device_port, match_key = address
    try:
        _session = connect_server(url, device_port, match_key, session_timeout)
    except tvm.error.TVMError as error:
        raise OSError(f"device {url}:{device_port} cannot be reached: {last_line(error)}") from None
    return f"{url}:{device_port}"


def release() -> None:
    """Give the device back."""
    global _session
    _session = None


def _device(kind: str) -> Any:
    return _session.device(kind, 0)


def run(
    path: str,
    specs: Specs,
    kind: str,
    threads: int,
    repeats: int,
    min_seconds: float,
    prepare: str,
    cooldown: float,
) -> tuple[float, ...] | Failure | Lost:
    """Upload a library, time its program, and remove it; seconds of each run after one that is not
    counted."""
    name = Path(path).name
    try:
        _session.upload(path)
        if kind == "cpu" and threads:
            _session.get_function("runtime.config_threadpool")(1, threads)
        module, device = _session.load_module(name), _device(kind)
        args = [_filled(shape, dtype, device) for shape, dtype in specs]
        costs = timed(module, device, args, repeats, min_seconds, prepare)
        _session.remove(name)
        time.sleep(cooldown)
        return costs
    except tvm.error.TVMError as error:
        return (
            Failure(MeasureErrorNo.RUNTIME_DEVICE, last_line(error)) if _alive() else Lost(last_line(error))
        )


def _alive() -> bool:
    """Whether the session still answers."""
    try:
        _session.get_function("runtime.config_threadpool")
    except (tvm.error.TVMError, AttributeError):
        return False
    return True


def _filled(shape: tuple[int, ...], dtype: str, device: Any) -> Any:
    array = tvm.nd.empty(shape, dtype, device)
    try:
        _session.get_function("tvm.contrib.random.random_fill")(array)
    except (AttributeError, tvm.error.TVMError):  # a runtime without it
        array.copyfrom(np.random.default_rng(0).random(shape).astype(dtype))
    return array


def _load_model(path: str, kind: str) -> Any:
    _session.upload(path)
    library = _session.load_module(Path(path).name)
    return graph_executor.GraphModule(library["default"](_device(kind)))


def time_models(
    paths: list[str], kind: str, threads: int, name: str, data: np.ndarray, repeats: int
) -> list[tuple[float, ...]] | Lost:
    """Time models in turn on one device: seconds of each run."""
    try:
        if kind == "cpu" and threads:
            _session.get_function("runtime.config_threadpool")(1, threads)
        models, device = [_load_model(path, kind) for path in paths], _device(kind)
        samples: list[list[float]] = [[] for _ in models]
        for model in models:
            model.set_input(name, tvm.nd.array(data, device))
            model.run()
            model.run()
        timers = [model.module.time_evaluator("run", device, number=1, repeat=1) for model in models]
        for _ in range(repeats):
            for timer, times in zip(timers, samples, strict=True):
                times.append(float(timer().results[0]))
        return [tuple(times) for times in samples]
    except tvm.error.TVMError as error:
        return Lost(last_line(error))


def run_model(path: str, kind: str, name: str, data: np.ndarray) -> np.ndarray | Lost:
    """Return a model's first output on the device."""
    try:
        model = _load_model(path, kind)
        model.set_input(name, tvm.nd.array(data, _device(kind)))
        model.run()
        return model.get_output(0).numpy()
    except tvm.error.TVMError as error:
        return Lost(last_line(error))
