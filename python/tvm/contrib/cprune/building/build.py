# SPDX-License-Identifier: Apache-2.0
"""Compiling a model with the programs of its task table."""

import gc
import json
import math
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tvm.auto_scheduler.dispatcher import DispatchContext
from tvm.relay.backend.executor_factory import GraphExecutorFactoryModule

import tvm
from tvm import autotvm, relay
from tvm.contrib.cprune.building.lowered_functions import LoweredFunctions
from tvm.contrib.cprune.building.memory_plan import plan_graph
from tvm.contrib.cprune.building.object_cache import ObjectCache
from tvm.contrib.cprune.files import replaced
from tvm.contrib.cprune.lowering import pass_context, quietly
from tvm.contrib.cprune.measuring.records import state_of
from tvm.contrib.cprune.messages import last_line
from tvm.contrib.cprune.table import TaskTable
from tvm.contrib.cprune.targets.presets import Preset
from tvm.contrib.cprune.targets.target import parse_target, pinned_target
from tvm.contrib.cprune.transform.pin_algorithms import pin_algorithms
from tvm.contrib.cprune.types import Algorithm, CandidateError, RelayModel

# The garbage collector runs once the models built since its last run have more bytes of weights than this.
MAX_UNCOLLECTED = 1 << 29


class _AnsorPrograms(DispatchContext):
    """Supplies a build with the table's auto_scheduler programs, and tracks which it used or lacked."""

    def __init__(self, table: TaskTable) -> None:
        super().__init__()
        self._states = {row.task.workload_key: state_of(row.program.record) for row in table.rows}
        self.used: set[str] = set()
        self.missing: list[str] = []

    def query(self, target: Any, workload_key: str, has_complex_op: bool, dag: Any, func_name: str) -> Any:
        """Return the state of a workload, None if the table has none."""
        state = self._states.get(str(workload_key))
        if state is not None:
            self.used.add(str(workload_key))
        elif has_complex_op:
            self.missing.append(str(func_name))
        return state

    def update(self, target: Any, workload_key: str, state: Any) -> None:
        """Register the key that a task gets once the layout of its weight is rewritten."""
        self._states[str(workload_key)] = state


class _AutoTVMPrograms(autotvm.task.ApplyHistoryBest):
    """Supplies a build with the table's AutoTVM configurations.

    ``missing`` stays empty: TVM also queries templates of a layer that the table does not use.
    """

    def __init__(self, table: TaskTable) -> None:
        super().__init__([autotvm.record.decode(row.program.record) for row in table.rows])
        self._keys = {row.task.workload_key for row in table.rows}
        self.used: set[str] = set()
        self.missing: list[str] = []

    def _query_inside(self, target: Any, workload: Any) -> Any:
        config = super()._query_inside(target, workload)
        key = json.dumps([workload[0], workload[1:]]) if workload else ""
        if config is not None and key in self._keys:
            self.used.add(key)
        return config


def algorithms_of(table: TaskTable) -> dict[str, Algorithm]:
    """Return the algorithm of each layer; auto_scheduler's direct layers are omitted."""
    subgraphs = (subgraph for row in table.rows for subgraph in row.task.subgraphs)
    named = [subgraph for subgraph in subgraphs if subgraph.algorithm and subgraph.algorithm != "direct"]
    return {layer: str(subgraph.algorithm) for subgraph in named for layer in subgraph.layers}


def build(
    model: RelayModel,
    table: TaskTable,
    strict: bool = True,
    host: str | None = None,
    lower_passes: Sequence[Sequence[Any]] = (),
    **options: Any,
) -> Any:
    """Compile a model with the programs of its table.

    Parameters
    ----------
    strict
        Whether a task without a program is an error. A program of the table that the build does not use is
        always an error.
    host
        Target of the code between the tasks, if it differs from the table's target.
    lower_passes
        Passes that take part in lowering, as TVM's setting ``tir.add_lower_pass`` lists them.
    options
        Passed on to ``relay.build``, such as an executor and a runtime; the default is the graph executor.

    Returns
    -------
    library
        What ``relay.build`` returns.

    Raises
    ------
    CPruneError
        If a task was compiled without its program; the message names it.
    """
    programs: Any
    if table.tuner == "ansor":
        target, mod = pinned_target(table.target), pin_algorithms(model.mod, algorithms_of(table))
        programs, context = _AnsorPrograms(table), pass_context(target, lower_passes=lower_passes)
    else:
        target, mod = parse_target(table.target), model.mod
        programs, context = _AutoTVMPrograms(table), pass_context(target, "autotvm", True, lower_passes)
    target = tvm.target.Target(target, host=host) if host else target
    with programs, context, quietly():
        try:
            library = relay.build(mod, target, **options)
        except tvm.error.TVMError as error:
            reason = last_line(error)
            raise CandidateError(f"TVM cannot compile the model: {reason}") from error
    unused = [row.task.title for row in table.rows if row.task.workload_key not in programs.used]
    if unused or (strict and programs.missing):
        count = len(table.rows) - len(unused)
        names = "; ".join([*unused, *programs.missing])
        raise CandidateError(
            f"{count} of {len(table.rows)} tasks were compiled with their program; without one: {names}"
        )
    planned = isinstance(library, GraphExecutorFactoryModule) and target.kind.name == "llvm"
    return (
        _replace(library, plan_graph(library.get_graph_json()), library.get_params()) if planned else library
    )


def _replace(
    library: GraphExecutorFactoryModule, graph: str, params: Mapping[str, Any]
) -> GraphExecutorFactoryModule:
    """Return a compiled model with another graph and other parameters."""
    parts = (library.ir_mod, library.target, library.executor, graph, library.get_lib(), library.libmod_name)
    return GraphExecutorFactoryModule(*parts, params, library.function_metadata)


class ModelBuilder:
    """Compiles models into shared libraries, reusing functions that earlier models share.

    Parameters
    ----------
    folder
        Takes the libraries, and object files in ``objects/``.
    preset
        Device that the libraries are linked for.
    """

    def __init__(self, folder: Path, preset: Preset) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.objects, self.functions = ObjectCache(folder / "objects"), LoweredFunctions()
        self._folder, self._preset = folder, preset
        self._uncollected = 0

    def build(self, model: RelayModel, table: TaskTable, name: str, weights: bool = True) -> Path:
        """Compile a model; return its library, which is complete or does not exist.

        Parameters
        ----------
        weights
            Whether the library contains the weights. Without them it is linked faster, and can only be timed.

        Raises
        ------
        CPruneError
            If a task was compiled without its program, or linking fails.
        """
        # Reference cycles keep earlier traced models alive. The collector counts objects, not bytes, and
        # would run too late.
        if self._uncollected > MAX_UNCOLLECTED:
            gc.collect()
            self._uncollected = 0
        # A unique name: a process that has loaded a library keeps seeing the old file under its name.
        path = self._folder / f"{name}-{time.time_ns()}.so"
        with self.objects.serve_builds(weights), self.functions.serve_build() as lower_passes:
            library = build(model, table, lower_passes=lower_passes)
        params = library.get_params()
        self._uncollected += sum(4 * math.prod(value.shape) for value in params.values())
        if not weights:
            kept = {name: value for name, value in params.items() if not value.dtype.startswith("float")}
            library = _replace(library, library.get_graph_json(), kept)
        with replaced(path) as aside:
            self._preset.link(library, aside)
        return path

    def remove_libraries(self) -> None:
        """Delete all libraries in the folder, such as those of a killed process; keep the object files.

        Only the process that locks the folder may do so.
        """
        for path in self._folder.glob("*.so"):
            path.unlink()
