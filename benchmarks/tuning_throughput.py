# SPDX-License-Identifier: Apache-2.0
"""Programs built and timed a minute: our measuring processes against auto_scheduler's local builder and
runner.

    python benchmarks/tuning_throughput.py

Both measure the same programs in turn, with the same repeats, cold weights and number of processes.
"""

import time

from tvm.auto_scheduler.measure import MeasureErrorNo

from common import SHAPE, median, print_machine, resnet18, spread
from tvm import auto_scheduler
from tvm.contrib.cprune.config import TuneConfig
from tvm.contrib.cprune.importers.from_torch import from_torch
from tvm.contrib.cprune.measuring.local_pool import LocalMeasurer
from tvm.contrib.cprune.targets.target import host_target, host_threads
from tvm.contrib.cprune.tasks import extract_from_program

LAYERS = ("stages.0.0.conv1", "stages.1.0.conv2", "stages.2.0.conv1", "stages.3.0.shortcut.0")
BATCH, ROUNDS = 8, 3


def main() -> None:
    print_machine()
    config = TuneConfig()
    tasks = extract_from_program(from_torch(resnet18(), SHAPE).mod, None, host_target())
    builder = auto_scheduler.LocalBuilder(timeout=int(config.build_timeout), n_parallel=host_threads())
    runner = auto_scheduler.LocalRunner(
        timeout=int(config.run_timeout),
        number=1,
        repeat=config.repeats,
        min_repeat_ms=0,
        enable_cpu_cache_flush=config.cold_weights,
    )
    ours, stock, failures = [], [], 0
    with LocalMeasurer(config) as pool:
        for layer in LAYERS:
            task = next(task for task in tasks if layer in task.layers).tvm_task
            policy = auto_scheduler.SketchPolicy(
                task, params={"sample_init_min_population": BATCH * ROUNDS}, seed=1, verbose=0
            )
            states = list(policy.sample_initial_population())[: BATCH * ROUNDS]
            inputs = [auto_scheduler.MeasureInput(task, state) for state in states]
            for start in range(0, len(inputs), BATCH):
                batch = inputs[start : start + BATCH]
                began = time.perf_counter()
                results = pool.measure(batch)
                ours.append((time.perf_counter() - began) / len(batch))
                began = time.perf_counter()
                theirs = runner.run(batch, builder.build(batch, verbose=0), verbose=0)
                stock.append((time.perf_counter() - began) / len(batch))
                failures += sum(r.error_no != MeasureErrorNo.NO_ERROR for r in [*results, *theirs])
            print(
                f"{layer:24} ours {60 / ours[-1]:6.1f}, stock {60 / stock[-1]:6.1f} programs a minute",
                flush=True,
            )
    print(f"{len(ours)} batches of {BATCH} programs, measured by both in turn; {failures} programs failed")
    for name, seconds in (("ours", ours), ("stock", stock)):
        rates = [60 / each for each in seconds]
        print(f"{name:6} {median(rates):6.1f} ± {spread(rates):.1f} programs a minute")
    ratios = [b / a for a, b in zip(ours, stock, strict=True)]
    print(f"ratio  {median(ratios):6.2f} ± {spread(ratios):.2f}   (asked: at least 1.5)")


if __name__ == "__main__":
    main()
