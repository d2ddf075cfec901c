# SPDX-License-Identifier: Apache-2.0
"""Programs per minute: of CPrune's measurer beside auto_scheduler's builder and runner, and of a search.

    python benchmarks/tuning_throughput.py

Both measurers get the same programs, batch by batch in turn, with the same repeats, cold weights and number
of processes. A profile shows how long one process takes for each stage of a program. The search is the first
tuning of torchvision's ResNet-18 at 224x224, from nothing.
"""

import argparse
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tvm.auto_scheduler.measure import MeasureErrorNo

import tvm
from common import SHAPE, median, print_machine, resnet18, spread
from tvm import auto_scheduler
from tvm.contrib.cprune.compiler import Compiler
from tvm.contrib.cprune.config import PruneConfig, TuneConfig
from tvm.contrib.cprune.importers.from_torch import from_torch
from tvm.contrib.cprune.loop.console import ConsoleReport
from tvm.contrib.cprune.measuring.local_pool import LocalMeasurer
from tvm.contrib.cprune.models.torchvision_models import load_torchvision
from tvm.contrib.cprune.targets.codegen import codegen_context
from tvm.contrib.cprune.targets.target import host_target, host_threads
from tvm.contrib.cprune.tasks import extract_from_program

LAYERS = ("stages.0.0.conv1", "stages.1.0.conv2", "stages.2.0.conv1", "stages.3.0.shortcut.0")
BATCH, ROUNDS = 8, 3

Inputs = list[auto_scheduler.MeasureInput]
Measure = Callable[[Inputs], Sequence[auto_scheduler.MeasureResult]]


def make_stock(config: TuneConfig) -> Measure:
    """Return a function that measures with auto_scheduler's builder and runner."""
    builder = auto_scheduler.LocalBuilder(timeout=int(config.build_timeout), n_parallel=host_threads())
    runner = auto_scheduler.LocalRunner(
        timeout=int(config.run_timeout),
        number=1,
        repeat=config.repeats,
        min_repeat_ms=0,
        enable_cpu_cache_flush=config.cold_weights,
    )
    return lambda inputs: runner.run(inputs, builder.build(inputs, verbose=0), verbose=0)


def sample_batches(task: auto_scheduler.SearchTask) -> list[Inputs]:
    """Return batches of random programs for a task."""
    count = BATCH * ROUNDS
    policy = auto_scheduler.SketchPolicy(
        task, params={"sample_init_min_population": count}, seed=1, verbose=0
    )
    states = list(policy.sample_initial_population())[:count]
    inputs = [auto_scheduler.MeasureInput(task, state) for state in states]
    return [inputs[start : start + BATCH] for start in range(0, len(inputs), BATCH)]


def time_batch(measure: Measure, batch: Inputs) -> tuple[float, int]:
    """Return the programs measured per minute, and how many of them failed."""
    started = time.perf_counter()
    results = measure(batch)
    rate = 60 * len(batch) / (time.perf_counter() - started)
    return rate, sum(result.error_no != MeasureErrorNo.NO_ERROR for result in results)


def profile(inputs: Inputs, config: TuneConfig) -> dict[str, float]:
    """Return the mean seconds of each stage of compiling and timing programs, one after the other."""
    stages: defaultdict[str, float] = defaultdict(float)
    generate = tvm.get_global_func("target.build.llvm")

    def record(stage: str, function: Callable[[], Any]) -> Any:
        started = time.perf_counter()
        result = function()
        stages[stage] += time.perf_counter() - started
        return result

    def timed_llvm(mod: tvm.IRModule, target: tvm.target.Target) -> tvm.runtime.Module:
        return record("LLVM", lambda: generate(mod, target))

    def compile_and_time(measure_input: auto_scheduler.MeasureInput) -> None:
        task = measure_input.task
        replay, layout = task.compute_dag.apply_steps_from_state, task.layout_rewrite_option
        schedule, args = record("schedule", lambda: replay(measure_input.state, layout_rewrite=layout))
        with codegen_context(task.target):
            module = record("build", lambda: tvm.build(schedule, args, target=task.target))
        record("machine code", lambda: module.get_function(module.entry_name, query_imports=True))
        arrays = [tvm.nd.array(np.ones([int(n) for n in arg.shape], "float32")) for arg in args]
        evaluate = module.time_evaluator(module.entry_name, tvm.cpu(), number=1, repeat=config.repeats)
        record("timed runs", lambda: evaluate(*arrays))

    tvm.register_func("target.build.llvm", timed_llvm, override=True)
    try:
        for measure_input in inputs:
            compile_and_time(measure_input)
    finally:
        tvm.register_func("target.build.llvm", generate, override=True)
    stages["TVM's passes"] = stages.pop("build") - stages["LLVM"]
    return {stage: seconds / len(inputs) for stage, seconds in stages.items()}


def print_profile(tasks: Sequence[auto_scheduler.SearchTask], config: TuneConfig) -> None:
    """Print the mean seconds of each stage over a batch of programs of each task."""
    means = profile([item for task in tasks for item in sample_batches(task)[0]], config)
    total = sum(means.values())
    stages = ", ".join(f"{name} {1e3 * value:.0f} ms" for name, value in means.items())
    print(f"one process takes {1e3 * total:.0f} ms per program: {stages}")


def time_search() -> None:
    """Print the trials per minute of a first tuning."""
    torch.manual_seed(0)
    model, shape = load_torchvision("resnet18", 1000).eval(), (1, 3, 224, 224)
    with (
        tempfile.TemporaryDirectory() as folder,
        ConsoleReport() as report,
        Compiler(PruneConfig(), shape, Path(folder), report=report) as compiler,
    ):
        relay_model = compiler.import_model(model)
        started = time.perf_counter()
        compiler.tuner.search(relay_model)
        seconds, trials = time.perf_counter() - started, sum(compiler.programs.trials().values())
    print(f"search: {trials} trials in {seconds:.0f} s, {60 * trials / seconds:.0f} per minute (goal: 74)")


def main() -> None:
    argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    ).parse_args()
    print_machine()
    config = TuneConfig()
    tasks = extract_from_program(from_torch(resnet18(), SHAPE).mod, None, host_target())
    rates: dict[str, list[float]] = {"CPrune": [], "stock": []}
    failures = 0
    chosen = [next(task for task in tasks if layer in task.layers).tvm_task for layer in LAYERS]
    with LocalMeasurer(config) as measurer:
        methods = {"CPrune": measurer.measure, "stock": make_stock(config)}
        for layer, task in zip(LAYERS, chosen, strict=True):
            for batch in sample_batches(task):
                for name, measure in methods.items():
                    rate, failed = time_batch(measure, batch)
                    rates[name].append(rate)
                    failures += failed
            latest = ", ".join(f"{name} {values[-1]:6.1f}" for name, values in rates.items())
            print(f"{layer:24} {latest} programs per minute", flush=True)
    print(f"{len(rates['stock'])} batches of {BATCH} programs, measured by both; {failures} programs failed")
    for name, values in rates.items():
        print(f"{name:6} {median(values):6.1f} ± {spread(values):.1f} programs per minute")
    ratios = [ours / stock for ours, stock in zip(rates["CPrune"], rates["stock"], strict=True)]
    print(f"ratio  {median(ratios):6.2f} ± {spread(ratios):.2f}   (goal: at least 3)")
    print_profile(chosen, config)
    time_search()


if __name__ == "__main__":
    main()
