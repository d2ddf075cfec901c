# SPDX-License-Identifier: Apache-2.0
"""From a Relay module to its tasks and subgraphs: which layer runs in which tuning task, exactly.

A layer's name travels in the span of its call into the fused functions
(``transform.LabelLayers``); the workload key of a fused function is what TVM itself looks schedules up by.
Nothing is joined by order, by name or by time.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from tvm.auto_scheduler import LayoutRewriteOption, SearchTask
from tvm.auto_scheduler.dispatcher import DispatchContext
from tvm.relay.backend import te_compiler

import tvm
from tvm import autotvm, relay
from tvm.contrib.cprune.targets.target import parse_target, pinned_target
from tvm.contrib.cprune.transform import simplify
from tvm.contrib.cprune.transform.pin_algorithms import pin_algorithms
from tvm.contrib.cprune.tuning.ansor.axes import axes_of, channel_axes
from tvm.contrib.cprune.tuning.autotvm import task as autotvm_tasks
from tvm.contrib.cprune.types import Algorithm, Axis, CPruneError, Subgraph, Task, TunerName


@dataclass(frozen=True)
class _Lowered:
    """A task that lowering one primitive function found."""

    op: str
    workload_key: str
    out_axes: tuple[int, ...]
    in_axes: tuple[int, ...]
    groups: int
    axes: tuple[Axis, ...]
    tvm_task: Any
    flops: float


@dataclass
class LoweringCache:
    """Primitive functions that were lowered already, by structural hash; ``lowered`` counts those that were
    not here."""

    entries: dict[tuple[str, int], tuple[_Lowered, ...]] = field(default_factory=dict)
    lowered: int = 0


class _CaptureKey(DispatchContext):
    """Takes the workload key that TVM asks a schedule for, and offers none."""

    def __init__(self) -> None:
        super().__init__()
        self.key = ""

    def query(self, target: Any, workload_key: str, has_complex_op: bool, dag: Any, func_name: str) -> None:
        if has_complex_op:
            self.key = str(workload_key)


@contextmanager
def quietly() -> Iterator[None]:
    """Keep AutoTVM from saying that it has no record of a task."""
    silent, autotvm.GLOBAL_SCOPE.silent = autotvm.GLOBAL_SCOPE.silent, True
    try:
        yield
    finally:
        autotvm.GLOBAL_SCOPE.silent = silent


def pass_context(tuner: TunerName = "ansor", alter_layouts: bool = False) -> tvm.transform.PassContext:
    """Return the context that everything is lowered and built in.

    Parameters
    ----------
    alter_layouts
        Let convolutions take the packed layouts that AutoTVM's configurations ask for; only a build does.
    """
    disabled = [each for each in simplify.DISABLED_PASSES if not alter_layouts or each != "AlterOpLayout"]
    config = {"relay.backend.use_auto_scheduler": tuner == "ansor"}
    return tvm.transform.PassContext(opt_level=3, config=config, disabled_pass=disabled)


def _operators(function: relay.Function) -> str:
    calls = [node for node in simplify.post_order(function.body) if isinstance(node, relay.Call)]
    return "+".join(call.op.name for call in calls)


def _lower_ansor(
    function: relay.Function, anchors: list[relay.Call], target: tvm.target.Target
) -> tuple[_Lowered, ...]:
    """Return the task of a function, none where there is nothing to tune."""
    capture = _CaptureKey()
    compiler = te_compiler.get()
    compiler.clear()
    with target, capture, pass_context(), quietly():
        compiler.lower(function, target)
    if not capture.key:
        return ()
    task = SearchTask(
        workload_key=capture.key,
        target=target,
        layout_rewrite_option=LayoutRewriteOption.get_target_default(target, True),
    )
    out_axes, in_axes = channel_axes(task.compute_dag, anchors[0]) if len(anchors) == 1 else ((), ())
    groups = int(getattr(anchors[0].attrs, "groups", 1)) if anchors and "conv2d" in anchors[0].op.name else 1
    axes = axes_of(task.compute_dag)
    flops = float(task.compute_dag.flop_ct)
    return (_Lowered(_operators(function), capture.key, out_axes, in_axes, groups, axes, task, flops),)


def _lower_autotvm(
    function: relay.Function, anchors: list[relay.Call], target: tvm.target.Target
) -> tuple[_Lowered, ...]:
    """Return a task for each template that TVM asks about when it lowers a function."""
    recorder = autotvm.task.TaskExtractEnv.get()
    recorder.reset()
    compiler = te_compiler.get()
    compiler.clear()
    try:
        with recorder, target, pass_context("autotvm"), quietly():
            compiler.lower(function, target)
    finally:
        compiler.clear()
    found, op = [], _operators(function)
    for name, args in recorder.get_tasks():
        task = autotvm.task.create(name, args, target)
        out_axes, in_axes = autotvm_tasks.channel_axes(task) if len(anchors) == 1 else ((), ())
        groups = int(getattr(anchors[0].attrs, "groups", 1)) if anchors else 1
        axes, key = autotvm_tasks.axes_of(task), autotvm_tasks.workload_key(task)
        found.append(_Lowered(op, key, out_axes, in_axes, groups, axes, task, float(task.flop)))
    return tuple(found)


def extract_from_program(
    mod: tvm.IRModule,
    params: Mapping[str, Any] | None,
    target: tvm.target.Target | str,
    algorithms: Mapping[str, Algorithm] | None = None,
    cache: LoweringCache | None = None,
    tuner: TunerName = "ansor",
) -> tuple[Task, ...]:
    """Return the tasks of a Relay module with their subgraphs, in order of the task's first call.

    Parameters
    ----------
    mod, params
        A module as a frontend returns it, its weights named ``<layer>.weight``, or one that ``prepare``
        returned.
    target
        What to compile for.
    algorithms
        For auto_scheduler, layers whose convolutions run as Winograd; all others are direct. For AutoTVM, the
        template of each layer; one that is not named is in a task of each template that TVM has for it.
    cache
        Carries lowered functions from one extraction to the next.
    tuner
        "ansor" (auto_scheduler, which wants NHWC) or "autotvm" (whose templates for CPUs want NCHW).

    Raises
    ------
    CPruneError
        If an anchor cannot be traced to one layer.
    """
    cache = LoweringCache() if cache is None else cache
    algorithms = algorithms or {}
    prepared = simplify.prepare(mod, params)
    if tuner == "ansor":
        target, prepared = pinned_target(target), pin_algorithms(prepared, algorithms)
    else:
        target = parse_target(target)
    record: Any = simplify.RecordSubgraphs()
    with target, pass_context(tuner):
        record(simplify.fuse(prepared))

    subgraphs: dict[str, list[Subgraph]] = {}
    lowered: dict[str, _Lowered] = {}
    for function, anchors in record.found:
        key = (f"{tuner} {target}", tvm.ir.structural_hash(function))
        if key not in cache.entries:
            lower = _lower_ansor if tuner == "ansor" else _lower_autotvm
            cache.entries[key] = lower(function, anchors, target)
            cache.lowered += 1
        layers = tuple(_layer(anchor) for anchor in anchors)
        if layers and not cache.entries[key]:
            raise CPruneError(f"layer {layers[0]} has no tuning task of {tuner} on {target}")
        for entry in cache.entries[key]:
            algorithm = _algorithm(anchors) if tuner == "ansor" else entry.tvm_task.name
            if tuner == "autotvm" and any(algorithms.get(each, algorithm) != algorithm for each in layers):
                continue
            name = f"{entry.op}#{len(subgraphs.setdefault(entry.workload_key, []))}"
            subgraphs[entry.workload_key].append(Subgraph(name, entry.op, layers, algorithm))
            lowered[entry.workload_key] = entry
    return tuple(
        Task(
            workload_key=key,
            subgraphs=tuple(calls),
            flops=lowered[key].flops,
            out_axes=lowered[key].out_axes,
            in_axes=lowered[key].in_axes,
            groups=lowered[key].groups,
            axes=lowered[key].axes,
            tuner=tuner,
            tvm_task=lowered[key].tvm_task,
        )
        for key, calls in subgraphs.items()
    )


def _layer(anchor: relay.Call) -> str:
    layer = simplify.layer_of(anchor)
    if layer is None:
        raise CPruneError(
            f"a {anchor.op.name} of the fused program names no layer: its weight is computed, not a parameter"
        )
    return layer


def _algorithm(anchors: list[relay.Call]) -> Algorithm | None:
    if not anchors:
        return None
    return "winograd" if anchors[0].op.name == simplify.WINOGRAD else "direct"
