# SPDX-License-Identifier: Apache-2.0
"""Lower one primitive function, and return the tuning tasks that TVM looks up while it does so."""

import functools
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from tvm.auto_scheduler import LayoutRewriteOption, SearchTask
from tvm.auto_scheduler.dispatcher import DispatchContext
from tvm.relay.backend import te_compiler

import tvm
from tvm import autotvm, relay
from tvm.contrib.cprune.targets.codegen import codegen_context
from tvm.contrib.cprune.transform.prepare import DISABLED_PASSES
from tvm.contrib.cprune.tuning.ansor.axes import axes_of, channel_axes, counted_flops
from tvm.contrib.cprune.tuning.autotvm import task as autotvm_tasks
from tvm.contrib.cprune.types import Task, TunerName

# TVM asks for its build options once per dimension of every lowered tensor, which takes a tenth of a build.
te_compiler.libinfo = functools.cache(te_compiler.libinfo)


def pass_context(
    target: tvm.target.Target,
    tuner: TunerName = "ansor",
    alter_layouts: bool = False,
    lower_passes: Sequence[Sequence[Any]] = (),
) -> tvm.transform.PassContext:
    """Return the context in which functions are lowered and modules are built.

    Parameters
    ----------
    target
        The compilation target.
    tuner
        Whose schedules TVM looks up: "ansor" (auto_scheduler) or "autotvm".
    alter_layouts
        Convert convolutions to the packed layouts of AutoTVM's configurations. Only a build does so.
    lower_passes
        Passes that take part in lowering, as TVM's setting ``tir.add_lower_pass`` lists them.
    """
    disabled = [name for name in DISABLED_PASSES if not alter_layouts or name != "AlterOpLayout"]
    config = {"relay.backend.use_auto_scheduler": tuner == "ansor"}
    return codegen_context(target, config, disabled, lower_passes)


@contextmanager
def quietly() -> Iterator[None]:
    """Suppress AutoTVM's warnings about tasks without a record."""
    silent, autotvm.GLOBAL_SCOPE.silent = autotvm.GLOBAL_SCOPE.silent, True
    try:
        yield
    finally:
        autotvm.GLOBAL_SCOPE.silent = silent


class _RecordKey(DispatchContext):
    """Records the workload key of the schedule lookup, and offers no schedule."""

    def __init__(self) -> None:
        super().__init__()
        self.key = ""

    def query(self, target: Any, workload_key: str, has_complex_op: bool, dag: Any, func_name: str) -> None:
        if has_complex_op:
            self.key = str(workload_key)


def lower_ansor(
    function: relay.Function, anchors: list[relay.Call], target: tvm.target.Target
) -> tuple[Task, ...]:
    """Return the auto_scheduler task of a primitive function.

    Parameters
    ----------
    function
        A function that ``FuseOps`` made.
    anchors
        The calls of anchors in ``function``.
    target
        The compilation target.

    Returns
    -------
    tuple[Task, ...]
        One task without subgraphs, or none if the function has nothing to tune.
    """
    lookup = _RecordKey()
    compiler = te_compiler.get()
    compiler.clear()
    with target, lookup, pass_context(target), quietly():
        compiler.lower(function, target)
    if not lookup.key:
        return ()
    tvm_task = SearchTask(
        workload_key=lookup.key,
        target=target,
        layout_rewrite_option=LayoutRewriteOption.get_target_default(target, True),
    )
    dag = tvm_task.compute_dag
    out_axes, in_axes = channel_axes(dag, anchors[0]) if len(anchors) == 1 else ((), ())
    groups = int(getattr(anchors[0].attrs, "groups", 1)) if anchors and "conv2d" in anchors[0].op.name else 1
    task = Task(
        lookup.key, (), counted_flops(dag), out_axes, in_axes, groups, axes_of(dag), "ansor", tvm_task
    )
    return (task,)


def lower_autotvm(
    function: relay.Function, anchors: list[relay.Call], target: tvm.target.Target
) -> tuple[Task, ...]:
    """Return the AutoTVM tasks of a primitive function: one for each template that TVM has for its anchor.

    The parameters are those of ``lower_ansor``.
    """
    lookup = autotvm.task.TaskExtractEnv.get()
    lookup.reset()
    compiler = te_compiler.get()
    compiler.clear()
    try:
        with lookup, target, pass_context(target, "autotvm"), quietly():
            compiler.lower(function, target)
    finally:
        compiler.clear()
    groups = int(getattr(anchors[0].attrs, "groups", 1)) if anchors else 1
    tasks = []
    for template, args in lookup.get_tasks():
        tvm_task = autotvm.task.create(template, args, target)
        out_axes, in_axes = autotvm_tasks.channel_axes(tvm_task) if len(anchors) == 1 else ((), ())
        axes, key = autotvm_tasks.axes_of(tvm_task), autotvm_tasks.workload_key(tvm_task)
        flops = float(tvm_task.flop)
        tasks.append(Task(key, (), flops, out_axes, in_axes, groups, axes, "autotvm", tvm_task))
    return tuple(tasks)
