# SPDX-License-Identifier: Apache-2.0
"""What runs inside a measuring process: it builds programs, keeps them, and times them when it is told to.

Programs stay in the process that compiled them, so nothing is written to disk, linked or loaded again.
"""

import functools
import math
import os
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from tvm.auto_scheduler.measure import MeasureErrorNo
from tvm.autotvm.task.space import InstantiationError

import tvm
from tvm import auto_scheduler, autotvm
from tvm.contrib import graph_executor
from tvm.contrib.cprune.targets.presets import Preset
from tvm.contrib.cprune.types import CPruneError

# Number of the program -> (compiled module, shapes and types of its arguments).
_programs: dict[int, tuple[Any, list[tuple[tuple[int, ...], str]]]] = {}
_models: dict[str, Any] = {}
_PREPARE = "cprune.before_each_run"
# How often TVM's threads look for work before they sleep (src/runtime/thread_pool.cc), and the seconds after
# which they surely do. By default they look 300,000 times, which takes long on a core that is in use: what
# another process times meanwhile takes half as long again.
SPINS, REST = 20_000, 0.02
# How many times as often as asked for a quick program is timed at most.
MOST = 10


@dataclass(frozen=True)
class Failure:
    """Why a program was not built or did not run; ``number`` is TVM's ``MeasureErrorNo``."""

    number: int
    message: str


def start(threads: int) -> None:
    """Fix the thread count before TVM's thread pool starts. Ctrl-C is the main process's to handle."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    os.environ["TVM_NUM_THREADS"] = str(threads)
    os.environ["TVM_THREAD_POOL_SPIN_COUNT"] = str(SPINS)


@contextmanager
def _own_cores() -> Iterator[None]:
    """Keep TVM's threads on a core each while something is timed.

    Left to the system, the threads of a program that runs for less than a millisecond may share a core for
    many runs, beside a core that does nothing: the same program then takes twice its time.
    """
    cores, threads = sorted(os.sched_getaffinity(0)), int(os.environ["TVM_NUM_THREADS"])
    if not 1 < threads <= len(cores):
        yield
        return
    one_core_per_thread = -2  # ThreadGroup::kSpecifyOneCorePerThread
    used = cores[:threads]
    tvm.get_global_func("runtime.config_threadpool")(one_core_per_thread, threads, [str(c) for c in used])
    os.sched_setaffinity(0, used[:1])
    try:
        yield
    finally:
        os.sched_setaffinity(0, cores)
        time.sleep(REST)


def last_line(error: BaseException) -> str:
    """Return what an error of TVM says behind its stack."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[-1] if lines else type(error).__name__


def build(number: int, serialized: Any) -> Failure | None:
    """Compile a ``MeasureInput`` of AutoTVM, or a serialized one of auto_scheduler; keep it under
    ``number``."""
    try:
        schedule, args, target = _instantiate(serialized)
    except (tvm.error.TVMError, InstantiationError) as error:
        return Failure(MeasureErrorNo.INSTANTIATION_ERROR, last_line(error))
    try:
        module = tvm.build(schedule, args, target=target)
        module.get_function(module.entry_name, query_imports=True)
    except (tvm.error.TVMError, ValueError) as error:
        return Failure(MeasureErrorNo.COMPILE_HOST, last_line(error))
    _programs[number] = (module, [(tuple(int(size) for size in arg.shape), str(arg.dtype)) for arg in args])
    return None


def _instantiate(serialized: Any) -> tuple[Any, Any, Any]:
    """Return the schedule of a program, its arguments and its target."""
    if isinstance(serialized, autotvm.MeasureInput):
        task, config = serialized.task, serialized.config
        # Weights come packed, as the build of a model packs them.
        autotvm.GLOBAL_SCOPE.in_tuning = True
        with task.target:
            schedule, args = task.instantiate(config)
        if not config.valid():
            raise InstantiationError(config.errors)
        return schedule, args, task.target
    measure_input = auto_scheduler.MeasureInput.deserialize(serialized)
    task = measure_input.task
    schedule, args = task.compute_dag.apply_steps_from_state(
        measure_input.state, layout_rewrite=task.layout_rewrite_option
    )
    return schedule, args, task.target


def build_file(serialized: Any, path: str, preset: Preset) -> list[tuple[tuple[int, ...], str]] | Failure:
    """Compile a program into a library for another device; return its arguments' shapes and types."""
    try:
        schedule, args, target = _instantiate(serialized)
    except (tvm.error.TVMError, InstantiationError) as error:
        return Failure(MeasureErrorNo.INSTANTIATION_ERROR, last_line(error))
    try:
        preset.link(tvm.build(schedule, args, target=target), Path(path))
    except (tvm.error.TVMError, ValueError, CPruneError) as error:
        return Failure(MeasureErrorNo.COMPILE_DEVICE, last_line(error))
    return [(tuple(int(size) for size in arg.shape), str(arg.dtype)) for arg in args]


def timed(
    module: Any, device: Any, args: list[Any], repeats: int, min_seconds: float, prepare: str
) -> tuple[float, ...]:
    """Return the seconds of each run of a program, after one that is not counted.

    Parameters
    ----------
    repeats
        How many runs, at least; more of them, but at most ``MOST`` times as many, until they last
        ``min_seconds`` together.
    prepare
        The name of a function that is called before each run; "" for none.
    """

    def evaluate(count: int) -> tuple[float, ...]:
        timer = module.time_evaluator(module.entry_name, device, number=1, repeat=count, f_preproc=prepare)
        return tuple(float(cost) for cost in timer(*args).results)

    if min_seconds:
        (once,) = evaluate(1)
        repeats = min(MOST * repeats, max(repeats, math.ceil(min_seconds / max(once, 1e-9))))
    return evaluate(repeats)


def run(number: int, repeats: int, min_seconds: float, cold_weights: bool) -> tuple[float, ...] | Failure:
    """Time a program that ``build`` kept; see ``timed``."""
    module, specs = _programs.pop(number)
    device = tvm.cpu()
    try:
        _before_each_run(specs, cold_weights)
        fill = tvm.get_global_func("tvm.contrib.random.random_fill")
        args = [tvm.nd.empty(shape, dtype, device) for shape, dtype in specs]
        for arg in args:
            fill(arg)
        with _own_cores():
            return timed(module, device, args, repeats, min_seconds, _PREPARE)
    except tvm.error.TVMError as error:
        return Failure(MeasureErrorNo.RUNTIME_DEVICE, last_line(error))


@functools.cache
def _parallel_kernel() -> Any:
    """Return a program that does next to nothing on every thread."""
    data = tvm.te.placeholder((64,), name="data")
    result = tvm.te.compute((64,), lambda i: data[i] + 1)
    schedule = tvm.te.create_schedule(result.op)
    schedule[result].parallel(result.op.axis[0])
    array = tvm.nd.array(np.zeros(64, "float32"))
    kernel = tvm.build(schedule, [data, result], "llvm")
    return lambda: kernel(array, array)


def _before_each_run(specs: list[tuple[tuple[int, ...], str]], cold_weights: bool) -> None:
    """Register what happens before each timed run, so that the program finds what it would find within a
    model.

    Its weights are out of the cache, for the other layers' have passed through it; the tensors that go from
    layer to layer are in it, as are those with the output's shape that it adds to its own; and the threads
    are awake.
    """
    flush = tvm.get_global_func("cache_flush_cpu_non_first_arg")
    weights = [i for i, spec in enumerate(specs[:-1]) if i > 0 and spec != specs[-1]] if cold_weights else []
    wake = _parallel_kernel()

    def prepare(*args: Any) -> None:
        for index in weights:
            flush(args[0], args[index])
        wake()

    tvm.register_func(_PREPARE, prepare, override=True)


def outputs(number: int, inputs: list[np.ndarray]) -> list[np.ndarray]:
    """Run a program that ``build`` kept once on ``inputs``; return every argument's value afterwards."""
    module, specs = _programs.pop(number)
    args = [tvm.nd.array(value) for value in inputs]
    args += [tvm.nd.array(np.zeros(shape, dtype)) for shape, dtype in specs[len(inputs) :]]
    module(*args)
    return [arg.numpy() for arg in args]


def time_models(libraries: list[str], name: str, data: np.ndarray, repeats: int) -> list[tuple[float, ...]]:
    """Time compiled models in turn: one run of each, ``repeats`` times over, so that drift meets all of them
    alike.

    Returns
    -------
    For each model the seconds of each run.
    """
    models = [_load_model(path) for path in libraries]
    device = tvm.cpu()
    samples: list[list[float]] = [[] for _ in models]
    timers = [model.module.time_evaluator("run", device, number=1, repeat=1) for model in models]
    with _own_cores():
        for model in models:
            model.set_input(name, tvm.nd.array(data, device))
            model.run()
            model.run()
        for _ in range(repeats):
            for timer, times in zip(timers, samples, strict=True):
                times.append(float(timer().results[0]))
    return [tuple(times) for times in samples]


def run_model(library: str, name: str, data: np.ndarray) -> np.ndarray:
    """Return a compiled model's first output."""
    model = _load_model(library)
    model.set_input(name, tvm.nd.array(data))
    model.run()
    return model.get_output(0).numpy()


def _load_model(path: str) -> Any:
    if path not in _models:
        while len(_models) > 3:
            _models.pop(next(iter(_models)))
        _models[path] = graph_executor.GraphModule(tvm.runtime.load_module(path)["default"](tvm.cpu()))
    return _models[path]
