# SPDX-License-Identifier: Apache-2.0
"""Tasks of small networks, programs of them that were not measured, and task tables."""

from collections.abc import Mapping, Sequence
from typing import Any, TypeAlias

import numpy as np
from networks import KINDS
from torch import nn

import tvm
from tvm import auto_scheduler, autotvm, te
from tvm.contrib.cprune.config import TuneConfig
from tvm.contrib.cprune.importers.from_torch import from_torch
from tvm.contrib.cprune.measuring.records import Measured, dump
from tvm.contrib.cprune.table import Row, TaskTable, to_program
from tvm.contrib.cprune.targets.target import host_target
from tvm.contrib.cprune.tasks import extract_from_program
from tvm.contrib.cprune.types import Algorithm, Latency, Program, Split, Subgraph, Task, TunerName

FAST = TuneConfig(trials=2, batch=2, population=16, repeats=3)
# Ansor's default population of 2048 takes ten seconds to sample.
POPULATION = 64
Target: TypeAlias = tvm.target.Target | str

_tasks: dict[tuple[str, int, str, TunerName], list[Task]] = {}
_states: dict[tuple[str, str], list[Any]] = {}


def _name(target: Target) -> str:
    """Return a target as text with its host, which TVM omits."""
    return f"{target} {target.host}" if isinstance(target, tvm.target.Target) else target


def task_of(kind: str, width: int, target: Target, tuner: TunerName = "ansor") -> Task:
    """Return the task of a kind's layer at a width, the first one if AutoTVM has several templates."""
    return tasks_of(kind, width, target, tuner)[0]


def tasks_of(kind: str, width: int, target: Target, tuner: TunerName) -> list[Task]:
    """Return all tasks of a kind's layer at a width; extracted once per process."""
    key = (kind, width, _name(target), tuner)
    if key not in _tasks:
        make, algorithm, layer, *_ = KINDS[kind]
        model = make(width)
        shape = (1, model.conv.in_channels, 8, 8)
        algorithms: dict[str, Algorithm] = {"conv": algorithm} if tuner == "ansor" else {}
        tasks = extract(model, shape, target, tuner, algorithms)
        _tasks[key] = [task for task in tasks if layer in task.layers]
    return _tasks[key]


def template_task_of(kind: str, width: int, target: Target | None = None) -> Task:
    """Return the AutoTVM task of a kind's layer at a width."""
    return task_of(kind, width, target or host_target(), "autotvm")


def extract(
    model: nn.Module,
    shape: tuple[int, ...],
    target: Target,
    tuner: TunerName = "ansor",
    algorithms: Mapping[str, Algorithm] | None = None,
) -> tuple[Task, ...]:
    """Return the tasks of a model in the layout of the tuner."""
    mod = from_torch(model, shape, "NCHW" if tuner == "autotvm" else "NHWC").mod
    return extract_from_program(mod, None, target, algorithms, tuner=tuner)


def sampled_states(task: Task) -> list[Any]:
    """Return random programs of an Ansor task, as its search would start from; sampled once per process."""
    key = (task.workload_key, _name(task.tvm_task.target))
    if key not in _states:
        params = {"sample_init_min_population": 30, "evolutionary_search_population": POPULATION}
        policy = auto_scheduler.SketchPolicy(task.tvm_task, params=params, seed=7, verbose=0)
        _states[key] = list(policy.sample_initial_population())
    return _states[key]


def record_of(task: Task, state: Any) -> str:
    """Return the record of an Ansor program as if it had been measured."""
    return _line(auto_scheduler.MeasureInput(task.tvm_task, state))


def random_records(task: Task) -> list[str]:
    """Return records of random programs of an Ansor task."""
    return [record_of(task, state) for state in sampled_states(task)]


def random_configurations(task: Task, count: int) -> list[str]:
    """Return records of ``count`` random configurations of an AutoTVM task."""
    tvm_task = task.tvm_task
    space = tvm_task.config_space
    indices = np.random.default_rng(0).integers(0, len(space), count)
    return [
        _line(autotvm.MeasureInput(tvm_task.target, tvm_task, space.get(int(index)))) for index in indices
    ]


def _line(measure_input: Any) -> str:
    return dump(measure_input, auto_scheduler.MeasureResult([1.0], 0, "", 0.1, 0.0)).line


def table_of(products: dict[str, tuple[int, int]]) -> TaskTable:
    """Return a table of one direct convolution per layer.

    Parameters
    ----------
    products
        Layer -> products of its program's inner lengths along output and input channels.
    """
    rows = []
    for layer, pair in products.items():
        task = Task(layer, (Subgraph("f#0", "nn.conv2d", (layer,), "direct"),), 1.0)
        out, into = [(Split(0, "conv", (0,), 0, (product,)),) for product in pair]
        rows.append(Row(task, Program("{}", Latency((1.0,)), out, into)))
    return _table(rows, "llvm -mcpu=skylake-avx512")


def measured_table(task: Task, record: Measured) -> TaskTable:
    """Return a table of one task with a measured program."""
    return _table([Row(task, to_program(task, record))], str(task.tvm_task.target))


def _table(rows: Sequence[Row], target: str) -> TaskTable:
    return TaskTable(tuple(rows), target, 2, True)


def reference(task: Task, inputs: Sequence[np.ndarray]) -> np.ndarray:
    """Return the output of a task's compute DAG without a schedule."""
    tensors = list(task.tvm_task.compute_dag.tensors)
    schedule = te.create_schedule([t.op for t in tensors if isinstance(t.op, te.ComputeOp)][-1:])
    function = tvm.build(schedule, tensors, "llvm")
    args = [tvm.nd.array(value) for value in inputs]
    args.append(tvm.nd.array(np.zeros([int(n) for n in tensors[-1].shape], "float32")))
    function(*args)
    result: np.ndarray = args[-1].numpy()
    return result
