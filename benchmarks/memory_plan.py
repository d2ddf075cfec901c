# SPDX-License-Identifier: Apache-2.0
"""Latency of tuned networks with different limits for the sizes of tensors that share a buffer.

    python benchmarks/memory_plan.py
    python benchmarks/memory_plan.py --networks mobilenet_v2 --rounds 60

The limit is the ratio of the larger tensor to the smaller one. TVM's own plan has a limit of 16, and chooses
among the free buffers in another way. With a limit of 0, no tensors share a buffer. All plans use the same
programs, and take turns. Each round also measures the distance of the two cores (see core_distance.py).
"""

import argparse
import json
import math
import time
from typing import Any

import numpy as np
import torch

import tvm
from common import CACHE, TRIALS, median, print_machine, spread
from core_distance import FAR, round_trip
from tvm.contrib import graph_executor
from tvm.contrib.cprune.building.memory_plan import MAX_RATIO, plan_graph
from tvm.contrib.cprune.compiler import Compiler
from tvm.contrib.cprune.config import PruneConfig, TuneConfig
from tvm.contrib.cprune.loop.console import ConsoleReport
from tvm.contrib.cprune.measuring.cpu_state import limit_threads
from tvm.contrib.cprune.measuring.timing import sample_input
from tvm.contrib.cprune.models.torchvision_models import load_torchvision
from tvm.contrib.cprune.targets.target import host_threads
from tvm.contrib.cprune.types import INPUT

NETWORKS = ("mobilenet_v2", "resnet18")
SHAPE = (1, 3, 224, 224)
TVM_RATIO = 16.0
RATIOS = (TVM_RATIO, MAX_RATIO, 1.5, 1.0, 0.0)
WARM_UP, RUNS = 3, 15
# Seconds between two rounds.
PAUSE = 1.0


def library_of(name: str) -> Any:
    """Return the compiled library of a tuned network with random weights."""
    torch.manual_seed(0)
    model = load_torchvision(name, 1000).eval()
    config = PruneConfig(tune=TuneConfig(trials=TRIALS))
    with ConsoleReport() as report, Compiler(config, SHAPE, CACHE / name, report=report) as compiler:
        return tvm.runtime.load_module(str(compiler.tune(model).library))


def executor_of(library: Any, ratio: float) -> tuple[Any, float]:
    """Return a graph executor whose plan has a limit, and the megabytes of its activations."""
    graph = plan_graph(library["get_graph_json"](), ratio)
    executor = graph_executor.create(graph, library, tvm.cpu())
    executor.set_input(INPUT, sample_input(SHAPE))
    for name, value in library["get_graph_params"]().items():
        executor.set_input(name, value)
    return executor, megabytes(json.loads(graph))


def megabytes(graph: dict[str, Any]) -> float:
    """Return the size of the buffers that functions write to."""
    first, attrs = graph["node_row_ptr"], graph["attrs"]
    written = [first[n] for n, node in enumerate(graph["nodes"]) if node["op"] == "tvm_op"]
    sizes: dict[int, int] = {}
    for tensor in written:
        buffer = attrs["storage_id"][1][tensor]
        sizes[buffer] = max(sizes.get(buffer, 0), 4 * math.prod(attrs["shape"][1][tensor]))
    return sum(sizes.values()) / 1e6


def seconds_of(executor: Any) -> float:
    """Return the median seconds of some runs, after others that fill the caches."""
    seconds = []
    for run in range(WARM_UP + RUNS):
        started = time.perf_counter()
        executor.run()
        if run >= WARM_UP:
            seconds.append(time.perf_counter() - started)
    return median(seconds)


def compare(name: str, rounds: int) -> None:
    """Print the latency of each plan in each round, and the ratios to TVM's limit."""
    library = library_of(name)
    plans = {ratio: executor_of(library, ratio) for ratio in RATIOS}
    outputs = []
    for executor, _ in plans.values():
        executor.run()
        outputs.append(executor.get_output(0).numpy())
    if not all(np.array_equal(output, outputs[0]) for output in outputs):
        raise SystemExit("the plans compute different outputs")
    sizes = ", ".join(f"{ratio:g} ({size:.1f} MB)" for ratio, (_, size) in plans.items())
    print(f"# {name}: ns of a round trip, ms with a limit of {sizes}")
    samples: dict[float, list[float]] = {ratio: [] for ratio in RATIOS}
    distances = []
    for _ in range(rounds):
        distances.append(round_trip())
        for ratio, (executor, _) in plans.items():
            samples[ratio].append(seconds_of(executor))
        cells = (f"{values[-1] * 1e3:6.3f}" for values in samples.values())
        print(f"{distances[-1]:4.0f} {' '.join(cells)}", flush=True)
        time.sleep(PAUSE)
    for kind, far in (("up to", False), ("more than", True)):
        chosen = [number for number, distance in enumerate(distances) if (distance > FAR) == far]
        print(f"# {len(chosen)} rounds with {kind} {FAR} ns: ms, and ratio to limit {TVM_RATIO:g}")
        for ratio, values in samples.items() if chosen else ():
            over = [values[number] / samples[TVM_RATIO][number] for number in chosen]
            own = median([values[number] for number in chosen])
            print(f"limit {ratio:4g}: {own * 1e3:.3f}, {median(over):.3f} ± {spread(over):.3f}")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--networks", nargs="+", default=list(NETWORKS), choices=NETWORKS, metavar="NAME")
    parser.add_argument("--rounds", type=int, default=30, help="default: %(default)s")
    args = parser.parse_args()
    limit_threads(host_threads())
    print_machine()
    for name in args.networks:
        compare(name, args.rounds)


if __name__ == "__main__":
    main()
