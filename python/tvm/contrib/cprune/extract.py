# SPDX-License-Identifier: Apache-2.0
"""From a Relay module to its tasks and subgraphs: which layer runs in which tuning task, exactly.

A layer's name travels in the span of its call into the fused functions
(``transform.LabelLayers``); the workload key of a fused function is what TVM itself looks schedules up by.
Nothing is joined by order, by name or by time.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from tvm.auto_scheduler import LayoutRewriteOption, SearchTask
from tvm.auto_scheduler.dispatcher import DispatchContext
from tvm.relay.backend import te_compiler

import tvm
from tvm import relay
from tvm.contrib.cprune import transform
from tvm.contrib.cprune.algorithms import pin_algorithms
from tvm.contrib.cprune.axes import channel_axes
from tvm.contrib.cprune.device import pinned_target
from tvm.contrib.cprune.types import Algorithm, CPruneError, Subgraph, Task


@dataclass(frozen=True)
class _Lowered:
    """What lowering one primitive function tells: nothing but ``op`` where there is nothing to tune."""

    op: str
    workload_key: str = ""
    out_axes: tuple[int, ...] = ()
    in_axes: tuple[int, ...] = ()
    groups: int = 1
    search_task: Any = None


@dataclass
class LoweringCache:
    """Primitive functions that were lowered already, by structural hash; ``lowered`` counts those that were
    not here."""

    entries: dict[tuple[str, int], _Lowered] = field(default_factory=dict)
    lowered: int = 0


class _CaptureKey(DispatchContext):
    """Takes the workload key that TVM asks a schedule for, and offers none."""

    def __init__(self) -> None:
        super().__init__()
        self.key = ""

    def query(self, target: Any, workload_key: str, has_complex_op: bool, dag: Any, func_name: str) -> None:
        if has_complex_op:
            self.key = str(workload_key)


def pass_context() -> tvm.transform.PassContext:
    """Return the context that everything is lowered and built in: auto_scheduler's, the algorithms pinned."""
    return tvm.transform.PassContext(
        opt_level=3,
        config={"relay.backend.use_auto_scheduler": True},
        disabled_pass=transform.DISABLED_PASSES,
    )


def _operators(function: relay.Function) -> str:
    calls = [node for node in transform.post_order(function.body) if isinstance(node, relay.Call)]
    return "+".join(call.op.name for call in calls)


def _lower(function: relay.Function, anchors: list[relay.Call], target: tvm.target.Target) -> _Lowered:
    capture = _CaptureKey()
    compiler = te_compiler.get()
    compiler.clear()
    silent, tvm.autotvm.GLOBAL_SCOPE.silent = tvm.autotvm.GLOBAL_SCOPE.silent, True
    try:
        with target, capture, pass_context():
            compiler.lower(function, target)
    finally:
        tvm.autotvm.GLOBAL_SCOPE.silent = silent
    if not capture.key:
        return _Lowered(_operators(function))
    task = SearchTask(
        workload_key=capture.key,
        target=target,
        layout_rewrite_option=LayoutRewriteOption.get_target_default(target, True),
    )
    out_axes, in_axes = channel_axes(task.compute_dag, anchors[0]) if len(anchors) == 1 else ((), ())
    groups = int(getattr(anchors[0].attrs, "groups", 1)) if anchors and "conv2d" in anchors[0].op.name else 1
    return _Lowered(_operators(function), capture.key, out_axes, in_axes, groups, task)


def extract_from_program(
    mod: tvm.IRModule,
    params: Mapping[str, Any] | None,
    target: tvm.target.Target | str,
    algorithms: Mapping[str, Algorithm] | None = None,
    cache: LoweringCache | None = None,
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
        Layers whose convolutions run as Winograd; all others are direct.
    cache
        Carries lowered functions from one extraction to the next.

    Raises
    ------
    CPruneError
        If an anchor cannot be traced to one layer.
    """
    cache = LoweringCache() if cache is None else cache
    target = pinned_target(target)
    algorithms = algorithms or {}
    prepared = pin_algorithms(transform.prepare(mod, params), algorithms)
    record: Any = transform.RecordSubgraphs()
    with target, pass_context():
        record(transform.fuse(prepared))

    subgraphs: dict[str, list[Subgraph]] = {}
    lowered: dict[str, _Lowered] = {}
    for function, anchors in record.found:
        key = (str(target), tvm.ir.structural_hash(function))
        if key not in cache.entries:
            cache.entries[key] = _lower(function, anchors, target)
            cache.lowered += 1
        entry = cache.entries[key]
        layers = tuple(_layer(anchor) for anchor in anchors)
        if not entry.workload_key:
            if layers:
                raise CPruneError(f"layer {layers[0]} has no tuning task on {target}: its shape is dynamic")
            continue
        name = f"{entry.op}#{len(subgraphs.setdefault(entry.workload_key, []))}"
        algorithm = _algorithm(anchors)
        subgraphs[entry.workload_key].append(Subgraph(name, entry.op, layers, algorithm))
        lowered[entry.workload_key] = entry
    return tuple(
        Task(
            workload_key=key,
            subgraphs=tuple(calls),
            flops=float(lowered[key].search_task.compute_dag.flop_ct),
            out_axes=lowered[key].out_axes,
            in_axes=lowered[key].in_axes,
            groups=lowered[key].groups,
            search_task=lowered[key].search_task,
        )
        for key, calls in subgraphs.items()
    )


def _layer(anchor: relay.Call) -> str:
    layer = transform.layer_of(anchor)
    if layer is None:
        raise CPruneError(
            f"a {anchor.op.name} of the fused program names no layer: its weight is computed, not a parameter"
        )
    return layer


def _algorithm(anchors: list[relay.Call]) -> Algorithm | None:
    if not anchors:
        return None
    return "winograd" if anchors[0].op.name == transform.WINOGRAD else "direct"
