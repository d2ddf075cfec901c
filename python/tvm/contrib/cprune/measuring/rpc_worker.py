# SPDX-License-Identifier: Apache-2.0
"""Functions that run inside a process that holds a session with one RPC device.

Each device has its own process: a call over TVM's RPC to a hanging device never returns, so the only way out
is to kill the process.
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
from tvm.contrib.cprune.measuring import evaluator
from tvm.contrib.cprune.measuring.result import ArgSpecs, Costs, DeviceLost, Failure
from tvm.contrib.cprune.measuring.tracker import ask
from tvm.contrib.cprune.messages import last_line

# Seconds to wait for the tracker to accept a connection, and between two attempts.
CONNECT_TIMEOUT, CONNECT_RETRY_PERIOD = 5.0, 0.5

_session: Any = None


@dataclass(frozen=True)
class RunSettings:
    """How programs and models run on a device.

    Attributes
    ----------
    device_type
        "cpu", "opencl", "vulkan" or "cuda".
    threads
        Threads of a CPU; 0 is the device's default.
    repeats, min_seconds, prepare
        See ``evaluator.time_program``.
    timeout
        Seconds after which a program counts as hung.
    cooldown
        Seconds to pause after each program.
    """

    device_type: str
    threads: int
    repeats: int
    min_seconds: float
    prepare: str
    timeout: float
    cooldown: float


@dataclass(frozen=True)
class ProgramLibrary:
    """A program that was compiled into a shared library for the device."""

    path: str
    specs: ArgSpecs


def request(host: str, port: int, key: str, wait: float, session_timeout: int) -> str | None:
    """Request a free device from the tracker and open a session with it.

    Returns
    -------
    The device's address, or None if no device became free within ``wait`` seconds.

    Raises
    ------
    OSError
        If the tracker does not respond, or the device that it assigned cannot be reached.
    """
    global _session
    _session = None
    assigned = _request_address(host, port, key, wait)
    if assigned is None:
        return None
    url, device_port, match_key = assigned
    try:
        _session = connect_server(url, device_port, match_key, session_timeout)
    except tvm.error.TVMError as error:
        raise OSError(f"cannot reach device {url}:{device_port}: {last_line(error)}") from None
    return f"{url}:{device_port}"


def _request_address(host: str, port: int, key: str, wait: float) -> tuple[str, int, str] | None:
    """Return the address of a free device, None if there is none within ``wait`` seconds."""
    timeout = min(wait, CONNECT_TIMEOUT)
    sock = base.connect_with_retry((host, port), timeout=timeout, retry_period=CONNECT_RETRY_PERIOD)
    try:
        sock.settimeout(wait)
        return ask(sock, [base.TrackerCode.REQUEST, key, "", 1])
    except TimeoutError:
        return None
    finally:
        sock.close()


def release() -> None:
    """Close the session, which makes the device free for others."""
    global _session
    _session = None


def run(program: ProgramLibrary, settings: RunSettings) -> Costs | Failure | DeviceLost:
    """Upload a program, time it, and delete it from the device.

    A device that cannot store the program counts as lost.
    """
    name = Path(program.path).name
    try:
        _session.upload(program.path)
    except tvm.error.TVMError as error:
        return DeviceLost(f"cannot upload a program: {last_line(error)}")
    try:
        _limit_threads(settings)
        module, device = _session.load_module(name), _device(settings)
        args = [_random_array(shape, dtype, device) for shape, dtype in program.specs]
        repeats, min_seconds, prepare = settings.repeats, settings.min_seconds, settings.prepare
        costs = evaluator.time_program(module, device, args, repeats, min_seconds, prepare)
        _session.remove(name)
        time.sleep(settings.cooldown)
        return costs
    except tvm.error.TVMError as error:
        message = last_line(error)
        return Failure(MeasureErrorNo.RUNTIME_DEVICE, message) if _is_alive() else DeviceLost(message)


def time_models(
    libraries: list[str], settings: RunSettings, input_name: str, data: np.ndarray, repeats: int
) -> list[Costs] | DeviceLost:
    """Time compiled models in turn on the device; see ``evaluator.time_alternately``."""
    try:
        _limit_threads(settings)
        models = [_load_model(path, settings) for path in libraries]
        return evaluator.time_alternately(models, _device(settings), input_name, data, repeats)
    except tvm.error.TVMError as error:
        return DeviceLost(last_line(error))


def run_model(
    library: str, settings: RunSettings, input_name: str, data: np.ndarray
) -> list[np.ndarray] | DeviceLost:
    """Return a compiled model's outputs on the device."""
    try:
        model = _load_model(library, settings)
        return evaluator.all_outputs(model, _device(settings), input_name, data)
    except tvm.error.TVMError as error:
        return DeviceLost(last_line(error))


def _device(settings: RunSettings) -> Any:
    return _session.device(settings.device_type, 0)


def _limit_threads(settings: RunSettings) -> None:
    if settings.device_type == "cpu" and settings.threads:
        _session.get_function("runtime.config_threadpool")(1, settings.threads)


def _is_alive() -> bool:
    """Return whether the session still responds."""
    try:
        _session.get_function("runtime.config_threadpool")
    except (tvm.error.TVMError, AttributeError):
        return False
    return True


def _random_array(shape: tuple[int, ...], dtype: str, device: Any) -> Any:
    array = tvm.nd.empty(shape, dtype, device)
    try:
        _session.get_function("tvm.contrib.random.random_fill")(array)
    except (AttributeError, tvm.error.TVMError):  # a runtime built without USE_RANDOM
        array.copyfrom(np.random.default_rng(0).random(shape).astype(dtype))
    return array


def _load_model(path: str, settings: RunSettings) -> Any:
    _session.upload(path)
    library = _session.load_module(Path(path).name)
    return graph_executor.GraphModule(library["default"](_device(settings)))
