# SPDX-License-Identifier: Apache-2.0
"""Building a model with the programs of its task table, and timing models side by side."""

import json
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from tvm.auto_scheduler.dispatcher import DispatchContext

import tvm
from tvm import autotvm, relay
from tvm.contrib.cprune.building.object_cache import ObjectCache
from tvm.contrib.cprune.files import replaced
from tvm.contrib.cprune.measuring.local_pool import LocalMeasurer
from tvm.contrib.cprune.measuring.records import state_of
from tvm.contrib.cprune.table import TaskTable
from tvm.contrib.cprune.targets.presets import Preset, find_preset
from tvm.contrib.cprune.targets.target import parse_target, pinned_target
from tvm.contrib.cprune.tasks import pass_context, quietly
from tvm.contrib.cprune.transform.pin_algorithms import pin_algorithms
from tvm.contrib.cprune.types import Algorithm, CPruneError, Latency, RelayModel

# Seconds between two rounds of timing.
PAUSE = 1.0


class _Programs(DispatchContext):
    """Hands the table's programs to a build, and remembers which were asked for and which were missing."""

    def __init__(self, table: TaskTable) -> None:
        super().__init__()
        self._states = {row.task.workload_key: state_of(row.program.record) for row in table.rows}
        self.used: set[str] = set()
        self.missing: list[str] = []

    def query(self, target: Any, workload_key: str, has_complex_op: bool, dag: Any, func_name: str) -> Any:
        state = self._states.get(str(workload_key))
        if state is not None:
            self.used.add(str(workload_key))
        elif has_complex_op:
            self.missing.append(str(func_name))
        return state

    def update(self, target: Any, workload_key: str, state: Any) -> None:
        """Take on the key that a task has after its weight's layout was rewritten."""
        self._states[str(workload_key)] = state


class _Configurations(autotvm.task.ApplyHistoryBest):
    """The same for AutoTVM's configurations; templates that the table does not use are not missing."""

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
    """Return the algorithm of each layer, but for direct ones of auto_scheduler."""
    subgraphs = (subgraph for row in table.rows for subgraph in row.task.subgraphs)
    named = [each for each in subgraphs if each.algorithm and each.algorithm != "direct"]
    return {layer: str(each.algorithm) for each in named for layer in each.layers}


def build(
    model: RelayModel, table: TaskTable, strict: bool = True, host: str | None = None, **options: Any
) -> Any:
    """Compile a model with the programs of its table, for TVM's graph executor unless told otherwise.

    Parameters
    ----------
    strict
        Whether a task without a program is an error. A program of the table that is not used always is one.
    host
        Target of the code between the tasks, where that is not the table's.
    options
        For ``relay.build``: an executor, a runtime.

    Raises
    ------
    CPruneError
        If a task did not run with its program; the message names it.
    """
    programs: Any
    if table.tuner == "ansor":
        target, mod = pinned_target(table.target), pin_algorithms(model.mod, algorithms_of(table))
        programs, context = _Programs(table), pass_context()
    else:
        target, mod = parse_target(table.target), model.mod
        programs, context = _Configurations(table), pass_context("autotvm", alter_layouts=True)
    target = tvm.target.Target(target, host=host) if host else target
    with programs, context, quietly():
        library = relay.build(mod, target, **options)
    unused = [row.task.title for row in table.rows if row.task.workload_key not in programs.used]
    if unused or (strict and programs.missing):
        ran = len(table.rows) - len(unused)
        names = "; ".join([*unused, *programs.missing])
        raise CPruneError(f"{ran} of {len(table.rows)} tasks ran with their program; without one: {names}")
    return library


def build_to(
    model: RelayModel, table: TaskTable, path: Path, objects: ObjectCache, preset: Preset | None = None
) -> Path:
    """Compile a model into the shared library ``path``; it appears whole or not at all.

    Functions that ``objects`` holds from earlier builds are not compiled again.
    """
    with objects.serve_builds():
        library = build(model, table)
    with replaced(path) as aside:
        (preset or find_preset(None)).link(library, aside)
    return path


def sample_input(shape: tuple[int, ...], seed: int = 0) -> np.ndarray:
    """Return a random input of ``shape``."""
    return np.random.default_rng(seed).standard_normal(shape).astype("float32")


def time_side_by_side(
    pool: LocalMeasurer,
    libraries: Mapping[str, Path],
    input_shape: tuple[int, ...],
    repeats: int,
    rounds: int = 1,
) -> dict[str, Latency]:
    """Time compiled models interleaved in one process, so that whatever disturbs one disturbs all.

    Parameters
    ----------
    repeats
        Runs of each model in a round.
    rounds
        With a pause between two of them: what lasts for some seconds disturbs one, not all.
    """
    data = sample_input(input_shape)
    samples: dict[str, tuple[float, ...]] = dict.fromkeys(libraries, ())
    for number in range(rounds):
        time.sleep(PAUSE if number else 0)
        found = pool.time_models(list(libraries.values()), data, repeats)
        samples = {name: samples[name] + times for name, times in zip(libraries, found, strict=True)}
    return {name: Latency(times) for name, times in samples.items()}
