# SPDX-License-Identifier: Apache-2.0
"""Functions that run inside local worker processes.

A worker keeps the programs that it compiles in memory and times them on request: no program is written to
disk, linked or loaded. For RPC devices it links them into libraries instead.
"""

import math
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from tvm.auto_scheduler.measure import MeasureErrorNo
from tvm.autotvm.task.space import InstantiationError

import tvm
from tvm import auto_scheduler, autotvm
from tvm.contrib import graph_executor
from tvm.contrib.cprune.measuring import evaluator
from tvm.contrib.cprune.measuring.cpu_state import (
    PREPARE,
    activations_of,
    limit_threads,
    pinned_threads,
    register_prepare,
)
from tvm.contrib.cprune.measuring.result import ArgSpecs, Costs, Failure
from tvm.contrib.cprune.messages import last_line
from tvm.contrib.cprune.targets.codegen import codegen_context
from tvm.contrib.cprune.targets.presets import Preset
from tvm.contrib.cprune.types import CPruneError, InfrastructureError

MAX_LOADED_MODELS = 4

# By program id: the compiled module, the specs of its arguments, and the positions of the activations.
_programs: dict[int, tuple[Any, ArgSpecs, list[int]]] = {}
# By path: a graph executor, and whether its library has weights.
_models: dict[str, tuple[Any, bool]] = {}


def start(threads: int) -> None:
    """Initialize a worker process. Ctrl-C is handled by the main process."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    limit_threads(threads)


def build(program_id: int, serialized: Any) -> Failure | None:
    """Compile a program and keep it as ``program_id``.

    Parameters
    ----------
    serialized
        A ``MeasureInput`` of AutoTVM, or a serialized one of auto_scheduler.
    """

    def keep(module: Any, args: Any) -> None:
        module.get_function(module.entry_name, query_imports=True)
        _programs[program_id] = (module, _arg_specs(args), activations_of(args))

    outcome = _compile(serialized, keep, MeasureErrorNo.COMPILE_HOST)
    return outcome if isinstance(outcome, Failure) else None


def build_file(serialized: Any, path: str, preset: Preset) -> ArgSpecs | Failure:
    """Compile a program into a shared library for another device; return its arguments' specs."""

    def link(module: Any, _: Any) -> None:
        preset.link(module, Path(path))

    return _compile(serialized, link, MeasureErrorNo.COMPILE_DEVICE)


def _compile(serialized: Any, finish: Callable[[Any, Any], None], error_no: int) -> ArgSpecs | Failure:
    """Compile a program, pass its module and arguments to ``finish``, and return the specs of its arguments.

    Templates, schedules and passes of TVM raise exceptions of any type: they are failures of the program
    (``error_no`` if it could be instantiated).

    Raises
    ------
    InfrastructureError
        If this machine or its compiler fails.
    """
    try:
        try:
            schedule, args, target = _instantiate(serialized)
        except (OSError, MemoryError):
            raise
        except Exception as error:
            return Failure(MeasureErrorNo.INSTANTIATION_ERROR, last_line(error))
        with codegen_context(target):
            module = tvm.build(schedule, args, target=target)
        finish(module, args)
        return _arg_specs(args)
    except InfrastructureError:
        raise
    except (OSError, MemoryError) as error:
        raise InfrastructureError(f"cannot compile programs: {last_line(error)}") from error
    except Exception as error:
        return Failure(error_no, last_line(error))


def _instantiate(serialized: Any) -> tuple[Any, Any, Any]:
    """Return a program's schedule, arguments and target."""
    if isinstance(serialized, autotvm.MeasureInput):
        task, config = serialized.task, serialized.config
        # Templates then expect packed weights, as in a model's build.
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
    plain, packed = (_element_counts(tensors) for tensors in (task.compute_dag.tensors, args))
    if plain != packed:
        # TVM times such a program, but cannot build a model with it. An example is one whose blocks of
        # channels are not a multiple of the product's.
        raise CPruneError(f"TVM packs {plain} elements of the arguments into {packed}")
    return schedule, args, task.target


def _element_counts(tensors: Any) -> list[int]:
    return [math.prod(int(size) for size in tensor.shape) for tensor in tensors]


def _arg_specs(args: Any) -> ArgSpecs:
    return [(tuple(int(size) for size in arg.shape), str(arg.dtype)) for arg in args]


def run(program_id: int, repeats: int, min_seconds: float, cold_weights: bool) -> Costs | Failure:
    """Time a program that ``build`` compiled, and drop it; see ``evaluator.time_program``."""
    module, specs, activations = _programs.pop(program_id)
    device = tvm.cpu()
    weights = [index for index in range(len(specs)) if index not in activations]
    try:
        register_prepare(weights if cold_weights else [])
        fill = tvm.get_global_func("tvm.contrib.random.random_fill")
        args = [tvm.nd.empty(shape, dtype, device) for shape, dtype in specs]
        for arg in args:
            fill(arg)
        with pinned_threads():
            return evaluator.time_program(module, device, args, repeats, min_seconds, PREPARE)
    except tvm.error.TVMError as error:
        return Failure(MeasureErrorNo.RUNTIME_DEVICE, last_line(error))


def outputs(program_id: int, inputs: list[np.ndarray]) -> list[np.ndarray]:
    """Run a program that ``build`` compiled once on ``inputs``, and drop it.

    Returns
    -------
    The values of all arguments afterwards; those that ``inputs`` does not cover start as zeros.
    """
    module, specs, _ = _programs.pop(program_id)
    args = [tvm.nd.array(value) for value in inputs]
    args += [tvm.nd.array(np.zeros(shape, dtype)) for shape, dtype in specs[len(inputs) :]]
    module(*args)
    return [arg.numpy() for arg in args]


def time_models(libraries: list[str], input_name: str, data: np.ndarray, repeats: int) -> list[Costs]:
    """Time compiled models in turn, with random weights if a library has none.

    See ``evaluator.time_alternately``.
    """
    models = [_load_model(path, input_name)[0] for path in libraries]
    with pinned_threads():
        return evaluator.time_alternately(models, tvm.cpu(), input_name, data, repeats)


def run_model(library: str, input_name: str, data: np.ndarray) -> list[np.ndarray]:
    """Return a compiled model's outputs.

    Raises
    ------
    CPruneError
        If the library has no weights.
    """
    model, complete = _load_model(library, input_name)
    if not complete:
        raise CPruneError(f"{library} was built without weights: it can only be timed")
    return evaluator.all_outputs(model, tvm.cpu(), input_name, data)


def _load_model(path: str, input_name: str) -> tuple[Any, bool]:
    """Return a graph executor, and whether its library contains all weights."""
    if path not in _models:
        while len(_models) >= MAX_LOADED_MODELS:
            _models.pop(next(iter(_models)))
        library = tvm.runtime.load_module(path)
        model = graph_executor.GraphModule(library["default"](tvm.cpu()))
        shapes, _ = model.get_input_info()
        missing = {str(name) for name in shapes} - {str(name) for name in library["get_graph_params"]()}
        evaluator.fill_weights(model, missing - {input_name})
        _models[path] = model, missing <= {input_name}
    return _models[path]
