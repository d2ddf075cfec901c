# SPDX-License-Identifier: Apache-2.0
"""Accuracy of the latency that the task table predicts, for networks tuned with 16 trials per task.

    python benchmarks/fidelity.py
    python benchmarks/fidelity.py --networks mobilenet_v2

The networks are ResNet-18 for 32x32 images and torchvision's MobileNetV2 at 224x224. The prediction is the
sum over all tasks of latency times number of subgraphs. Goals: within 10 % and within 5 %.
"""

import argparse

import torch

from common import (
    CACHE,
    TRIALS,
    median,
    print_machine,
    resnet18_compiler,
    tune_resnet18,
)
from tvm.contrib.cprune.compiler import Candidate, Compiler
from tvm.contrib.cprune.config import PruneConfig, TuneConfig
from tvm.contrib.cprune.loop.console import ConsoleReport
from tvm.contrib.cprune.measuring.records import to_input
from tvm.contrib.cprune.models.torchvision_models import load_torchvision

ROUNDS = 5
# The largest difference from 1 of predicted over measured.
GOALS = {"resnet18": 0.10, "mobilenet_v2": 0.05}


def mobilenet_compiler() -> Compiler:
    """Return a compiler for MobileNetV2 at 224x224, which keeps its records."""
    config = PruneConfig(tune=TuneConfig(trials=TRIALS), measure_repeats=100)
    return Compiler(config, (1, 3, 224, 224), CACHE / "mobilenet_v2", report=ConsoleReport())


def tune_mobilenet(compiler: Compiler) -> Candidate:
    """Tune MobileNetV2 with random weights, or reuse the records."""
    torch.manual_seed(0)
    return compiler.tune(load_torchvision("mobilenet_v2", 1000).eval())


def compare(compiler: Compiler, model: Candidate, goal: float) -> None:
    """Time the tasks and the model in turn, and print both."""
    rows = model.table.by_impact()
    inputs = [to_input(row.program.record, row.task.tvm_task) for row in rows]
    # The latencies in the records are older. Time all programs again, interleaved with the model.
    samples: dict[str, list[float]] = {row.task.workload_key: [] for row in rows}
    whole: list[float] = []
    for _ in range(ROUNDS):
        for row, result in zip(rows, compiler.measurer.measure(inputs), strict=True):
            samples[row.task.workload_key] += [float(cost) for cost in result.costs]
        whole += compiler.time({"model": model})["model"].samples
    total = 0.0
    print(f"{'us':>8} {'x':>2} {'sum us':>8}  task")
    for row in rows:
        latency = median(samples[row.task.workload_key])
        impact = latency * row.task.weight
        total += impact
        algorithm = row.task.subgraphs[0].algorithm or ""
        print(f"{latency * 1e6:8.1f} {row.task.weight:2} {impact * 1e6:8.1f}  {row.task.title} {algorithm}")
    measured = median(whole)
    print(f"predicted by the tasks {total * 1e3:.3f} ms, measured {measured * 1e3:.3f} ms")
    print(
        f"predicted over measured {total / measured:.3f}   (goal: {1 - goal:.2f} to {1 + goal:.2f}; "
        f"{ROUNDS} rounds of all tasks and the model)",
        flush=True,
    )


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--networks", nargs="+", default=list(GOALS), choices=GOALS, metavar="NAME")
    print_machine()
    for network in parser.parse_args().networks:
        small = network == "resnet18"
        with resnet18_compiler() if small else mobilenet_compiler() as compiler:
            print(f"# {network}")
            model = tune_resnet18(compiler) if small else tune_mobilenet(compiler)
            compare(compiler, model, GOALS[network])


if __name__ == "__main__":
    main()
