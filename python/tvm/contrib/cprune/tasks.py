# SPDX-License-Identifier: Apache-2.0
"""Extract the tuning tasks of a Relay module, and the layers that run in each.

Layers are identified by name, never by order or latency:

1. The importer names each weight after its module path, and ``LabelLayers`` copies that name into the span of
   the anchor that reads the weight.
2. ``FuseOps`` keeps spans, so the anchors inside a primitive function name its layers.
3. Lowering the function yields the workload key under which TVM looks up its schedule in a build. Functions
   with the same key are subgraphs of one task.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import tvm
from tvm import relay
from tvm.contrib.cprune.lowering import lower_ansor, lower_autotvm, pass_context
from tvm.contrib.cprune.targets.target import parse_target, pinned_target
from tvm.contrib.cprune.transform.pin_algorithms import pin_algorithms, winograd
from tvm.contrib.cprune.transform.prepare import prepare
from tvm.contrib.cprune.transform.record_subgraphs import RecordSubgraphs, fuse
from tvm.contrib.cprune.transform.relay_graph import WINOGRAD, calls_of, layer_of
from tvm.contrib.cprune.types import Algorithm, CandidateError, CPruneError, Subgraph, Task, TunerName

_LOWER = {"ansor": lower_ansor, "autotvm": lower_autotvm}


@dataclass
class LoweringCache:
    """Tasks of primitive functions, by tuner, target and structural hash.

    Attributes
    ----------
    lowered
        Number of functions that were lowered, that is, not in the cache.
    """

    entries: dict[tuple[str, int], tuple[Task, ...]] = field(default_factory=dict)
    lowered: int = 0

    def lower(
        self, function: relay.Function, anchors: list[relay.Call], target: tvm.target.Target, tuner: TunerName
    ) -> tuple[Task, ...]:
        """Return the tasks of a primitive function, without subgraphs."""
        key = (f"{tuner} {target}", tvm.ir.structural_hash(function))
        if key not in self.entries:
            self.entries[key] = _LOWER[tuner](function, anchors, target)
            self.lowered += 1
        return self.entries[key]


def extract_from_program(
    mod: tvm.IRModule,
    params: Mapping[str, Any] | None,
    target: tvm.target.Target | str,
    algorithms: Mapping[str, Algorithm] | None = None,
    cache: LoweringCache | None = None,
    tuner: TunerName = "ansor",
) -> tuple[Task, ...]:
    """Return the tasks of a Relay module with their subgraphs, in the order of each task's first call.

    Parameters
    ----------
    mod, params
        A module from a TVM frontend whose weights are named ``<layer>.weight``, or a prepared module.
    target
        The compilation target.
    algorithms
        For auto_scheduler: layers whose convolutions run as Winograd, "winograd-2", "winograd-4" or
        "winograd-6" by tile size; all others run direct. For AutoTVM: the template of each layer; an unlisted
        layer is in the task of every template that TVM has for it.
    cache
        Reuses functions that were lowered by earlier extractions.
    tuner
        "ansor" (auto_scheduler, which requires NHWC) or "autotvm" (whose CPU templates require NCHW).

    Raises
    ------
    CPruneError
        If an anchor has no layer, or a layer has no task.
    """
    prepared = prepare(mod, params)
    if tuner == "ansor":
        target, prepared = pinned_target(target), pin_algorithms(prepared, algorithms or {})
    else:
        target = parse_target(target)
    recorder: Any = RecordSubgraphs()
    with target, pass_context(target, tuner):
        recorder(fuse(prepared))
    cache = LoweringCache() if cache is None else cache
    return _join(recorder.subgraphs, target, algorithms or {}, cache, tuner)


def _join(
    subgraphs: Sequence[tuple[relay.Function, list[relay.Call]]],
    target: tvm.target.Target,
    algorithms: Mapping[str, Algorithm],
    cache: LoweringCache,
    tuner: TunerName,
) -> tuple[Task, ...]:
    """Lower each subgraph, and join those with the same workload key to one task."""
    tasks: dict[str, Task] = {}
    for function, anchors in subgraphs:
        lowered = cache.lower(function, anchors, target, tuner)
        layers = tuple(_layer(anchor) for anchor in anchors)
        if layers and not lowered:
            raise CandidateError(f"layer {layers[0]} has no tuning task of {tuner} on {target}")
        op = "+".join(call.op.name for call in calls_of(function.body))
        for candidate, algorithm in _chosen(lowered, layers, anchors, algorithms):
            task = tasks.get(candidate.workload_key, candidate)
            subgraph = Subgraph(f"{op}#{task.weight}", op, layers, algorithm)
            tasks[task.workload_key] = replace(task, subgraphs=(*task.subgraphs, subgraph))
    return tuple(tasks.values())


def _chosen(
    lowered: tuple[Task, ...],
    layers: tuple[str, ...],
    anchors: list[relay.Call],
    algorithms: Mapping[str, Algorithm],
) -> Iterator[tuple[Task, Algorithm | None]]:
    """Yield the tasks that a subgraph belongs to, with their algorithm.

    The algorithm of an auto_scheduler task follows from the anchor. An AutoTVM task is one template, so tasks
    of other templates than the chosen one are skipped.
    """
    for task in lowered:
        if task.tuner == "ansor":
            yield task, _algorithm(anchors)
        elif all(algorithms.get(layer, task.tvm_task.name) == task.tvm_task.name for layer in layers):
            yield task, task.tvm_task.name


def _layer(anchor: relay.Call) -> str:
    layer = layer_of(anchor)
    if layer is None:
        raise CPruneError(
            f"a {anchor.op.name} has no layer: its weight is computed or a constant, expected a parameter"
        )
    return layer


def _algorithm(anchors: list[relay.Call]) -> Algorithm | None:
    if not anchors:
        return None
    return winograd(int(anchors[0].attrs.tile_size)) if anchors[0].op.name == WINOGRAD else "direct"


def alternative_tasks(direct: Sequence[Task], winograd: Sequence[Task]) -> dict[str, str]:
    """Map the workload key of each task to that of the task with the same layers and the other algorithm."""
    others = {task.layers: task.workload_key for task in winograd if task.layers}
    pairs = [(task.workload_key, others[task.layers]) for task in direct if task.layers in others]
    return {a: b for one, two in pairs if one != two for a, b in ((one, two), (two, one))}
