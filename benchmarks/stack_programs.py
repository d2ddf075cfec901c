# SPDX-License-Identifier: Apache-2.0
"""Networks compiled with one algorithm for their convolutions, for ``stack.py``.

TVM 0.17 has AutoTVM templates for the three algorithms, but its strategy for x86 offers only the first one
(relay/op/strategy/x86.py). That of arm_cpu offers all three (relay/op/strategy/arm_cpu.py). Their schedules
use no instructions of Arm, so this machine's target with the key ``arm_cpu`` compiles them for x86.
"""

from collections import defaultdict
from collections.abc import Callable, Iterable
from pathlib import Path

import torch
from tvm.autotvm.task.space import ConfigEntity, FallbackConfigEntity

from tvm import autotvm
from tvm.contrib.cprune.compiler import Compiler, Unbuilt
from tvm.contrib.cprune.loop.verification import TOLERANCE
from tvm.contrib.cprune.measuring.records import Measured, RecordLog
from tvm.contrib.cprune.models.reference import check_batches, compare_with_torch
from tvm.contrib.cprune.table import make_table
from tvm.contrib.cprune.targets.target import host_target
from tvm.contrib.cprune.tuning.autotvm.configuration import fallback_config
from tvm.contrib.cprune.tuning.autotvm.search import search
from tvm.contrib.cprune.types import Algorithm, Task

# Returns the program of a workload key.
Best = Callable[[str], Measured | None]
ALGORITHMS = {
    "direct": "conv2d_NCHWc.x86",
    "winograd": "conv2d_nchw_winograd.arm_cpu",
    "spatial-pack": "conv2d_nchw_spatial_pack.arm_cpu",
}
TUNING = ("untuned", "tuned")


def stack_target() -> str:
    """Return the target of this machine with the operator strategies of arm_cpu."""
    return f"{host_target()} -keys=arm_cpu,cpu"


def usable(templates: Iterable[Algorithm], algorithm: str) -> set[Algorithm]:
    """Return the templates that may run a layer, out of all that TVM has for it.

    A convolution that the algorithm cannot compute is direct. Layers that are no plain convolution, such as
    depthwise and linear ones, may use any of their templates with every algorithm.
    """
    templates = set(templates)
    for wanted in (ALGORITHMS[algorithm], ALGORITHMS["direct"]):
        if wanted in templates:
            return {wanted}
    return templates


def tasks_of(tasks: Iterable[Task], algorithm: str) -> list[Task]:
    """Return the tasks that a network may need with an algorithm, out of those of all templates."""
    templates: dict[str, set[Algorithm]] = defaultdict(set)
    for task in tasks:
        for layer in task.layers:
            templates[layer].add(template_of(task))
    by_layer = {layer: usable(names, algorithm) for layer, names in templates.items()}
    return [task for task in tasks if any(template_of(task) in by_layer[layer] for layer in task.layers)]


def template_of(task: Task) -> Algorithm:
    """Return the template of an AutoTVM task."""
    return str(task.subgraphs[0].algorithm)


def fallback_input(task: Task) -> autotvm.MeasureInput:
    """Return the program that TVM uses without tuning, even if the template's space does not have it.

    For 1x1 convolutions of images with 4 rows, the fallback of conv2d_NCHWc.x86 computes 4 rows at once, but
    the space has only 1 and 2.
    """
    tvm_task = task.tvm_task
    config = fallback_config(tvm_task)
    if config is None:
        fallback = FallbackConfigEntity()
        with tvm_task.target:
            tvm_task.instantiate(fallback)
        config = ConfigEntity(len(tvm_task.config_space), fallback.code_hash, fallback._entity_map, [])
    return autotvm.MeasureInput(tvm_task.target, tvm_task, config)


def fastest_templates(tasks: Iterable[Task], best: Best) -> dict[str, Algorithm]:
    """Return the template of the fastest program for each layer."""
    found: dict[str, tuple[float, Algorithm]] = {}
    for task in tasks:
        measured = best(task.workload_key)
        if measured is not None and measured.latency is not None:
            for layer in task.layers:
                pair = (measured.latency.median, template_of(task))
                found[layer] = min(found.get(layer, pair), pair)
    return {layer: template for layer, (_, template) in found.items()}


def compile_network(
    compiler: Compiler, model: torch.nn.Module, algorithm: str, tuning: str, path: Path
) -> None:
    """Compile a network unless ``path`` exists, and compare it with PyTorch.

    Tuned programs are the fastest of ``compiler.config.tune.trials`` per task, untuned ones those of TVM's
    fallback configurations, which count as a trial. Records of earlier calls count, too.

    Parameters
    ----------
    path
        Receives the library.

    Raises
    ------
    CPruneError
        If a task has no valid program, or the outputs differ.
    """
    if path.exists():
        return
    relay, config = compiler.import_model(model), compiler.config.tune
    tasks = tasks_of(compiler.tuner.extract(relay, {}), algorithm)
    log = RecordLog(compiler.run_dir / "programs.json")
    inputs = {task.workload_key: fallback_input(task) for task in tasks}
    compiler.measurer.measure_new(list(inputs.values()), log)
    best: Best = log.best
    if tuning == "tuned":
        search(tasks, config, compiler.measurer, log)
    else:
        best = {key: log.find(fallback) for key, fallback in inputs.items()}.get
    chosen = compiler.tuner.extract(relay, fastest_templates(tasks, best))
    threads = compiler.measurer.threads
    table = make_table(chosen, best, str(compiler.target), threads, config.cold_weights)
    library = compiler.build(Unbuilt(model, relay, table)).library
    batches = check_batches(compiler.input_shape, None, 0)
    compare_with_torch(
        model, lambda data: compiler.measurer.run_model(library, data), batches, TOLERANCE, path.name
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    library.replace(path)
