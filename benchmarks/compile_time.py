# SPDX-License-Identifier: Apache-2.0
"""How long programs take to compile, and how fast they are, without two of TVM's passes.

    python benchmarks/compile_time.py
    python benchmarks/compile_time.py --network mobilenet_v2 --programs 2

Random programs of the tasks of torchvision networks at 224x224 are compiled with all passes and as CPrune
compiles them (see ``targets/codegen.py``). Their outputs are compared, and they are timed in turn.
"""

import argparse
import math
import time
from typing import Any

import numpy as np
import torch

import tvm
from common import median, print_machine, spread
from tvm import auto_scheduler
from tvm.contrib.cprune.importers.from_torch import from_torch
from tvm.contrib.cprune.models.torchvision_models import load_torchvision
from tvm.contrib.cprune.targets.codegen import codegen_context
from tvm.contrib.cprune.targets.target import host_target, pinned_target
from tvm.contrib.cprune.tasks import extract_from_program
from tvm.contrib.cprune.transform.pin_algorithms import winograd_algorithms
from tvm.contrib.cprune.types import Task

ROUNDS = 9


def compiled(task: Task, state: Any, context: Any) -> tuple[Any, list[Any], float]:
    """Return a program's function, its arguments, and the seconds that it took to compile."""
    schedule, args = task.tvm_task.compute_dag.apply_steps_from_state(
        state, layout_rewrite=task.tvm_task.layout_rewrite_option
    )
    started = time.perf_counter()
    with context:
        function = tvm.build(schedule, args, target=task.tvm_task.target)
    return function, args, time.perf_counter() - started


def compare(task: Task, state: Any) -> tuple[float, float]:
    """Return the ratios of compile times and of latencies: as CPrune compiles over with all passes."""
    contexts = tvm.transform.PassContext(opt_level=3), codegen_context(task.tvm_task.target)
    built = [compiled(task, state, context) for context in contexts]
    generator = np.random.default_rng(0)
    shapes = [[int(size) for size in arg.shape] for arg in built[0][1]]
    values = [generator.standard_normal(shape).astype("float32") for shape in shapes]
    buffers = [[tvm.nd.array(value) for value in values] for _ in built]
    times: list[list[float]] = [[], []]
    for _ in range(ROUNDS):
        for (function, _, _), arguments, samples in zip(built, buffers, times, strict=True):
            samples.append(function.time_evaluator(function.entry_name, tvm.cpu())(*arguments).mean)
    outputs = [arguments[-1].numpy() for arguments in buffers]
    np.testing.assert_allclose(outputs[1], outputs[0], rtol=1e-4, atol=1e-4 * np.abs(outputs[0]).max())
    return built[1][2] / built[0][2], median(times[1]) / median(times[0])


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    networks = ("resnet18", "mobilenet_v2")
    parser.add_argument("--network", choices=networks, help="run only this network (default: both)")
    parser.add_argument("--programs", type=int, default=3, help="programs per task (default: %(default)s)")
    options = parser.parse_args()
    print_machine()
    print(f"{'network':14} {'algorithm':10} {'programs':>8} {'compile time':>15} {'latency':>15}")
    target = pinned_target(host_target())
    for network in [options.network] if options.network else networks:
        torch.manual_seed(0)
        mod = from_torch(load_torchvision(network, 1000).eval(), (1, 3, 224, 224)).mod
        for name, algorithms in (("direct", {}), ("winograd", winograd_algorithms(mod))):
            ratios = []
            for task in extract_from_program(mod, None, target, algorithms):
                if not task.layers or not str(task.subgraphs[0].algorithm).startswith(name):
                    continue
                parameters = {
                    "sample_init_min_population": options.programs,
                    "evolutionary_search_population": 4 * options.programs,
                }
                policy = auto_scheduler.SketchPolicy(task.tvm_task, params=parameters, seed=1, verbose=0)
                states = list(policy.sample_initial_population())[: options.programs]
                ratios += [compare(task, state) for state in states]
            if ratios:
                cells = [
                    f"{math.exp(sum(map(math.log, values)) / len(values)):.3f} ± {spread(list(values)):.3f}"
                    for values in zip(*ratios, strict=True)
                ]
                print(f"{network:14} {name:10} {len(ratios):8} {cells[0]:>15} {cells[1]:>15}", flush=True)


if __name__ == "__main__":
    main()
