# SPDX-License-Identifier: Apache-2.0
"""Accuracy of the latency that the task table predicts, for ResNet-18 (32x32) with 16 trials per task.

The prediction is the sum over all tasks of latency times number of subgraphs.

    python benchmarks/fidelity.py
"""

from common import print_machine, resnet18_compiler, tune_resnet18
from tvm.contrib.cprune.measuring.records import to_input

ROUNDS = 5


def main() -> None:
    print_machine()
    with resnet18_compiler() as compiler:
        model = tune_resnet18(compiler)
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
        times = sorted(samples[row.task.workload_key])
        latency = times[len(times) // 2]
        total += latency * row.task.weight
        algorithm = row.task.subgraphs[0].algorithm or ""
        impact = latency * row.task.weight
        print(f"{latency * 1e6:8.1f} {row.task.weight:2} {impact * 1e6:8.1f}  {row.task.title} {algorithm}")
    whole.sort()
    measured = whole[len(whole) // 2]
    print(f"predicted by the tasks {total * 1e3:.3f} ms, measured {measured * 1e3:.3f} ms")
    print(
        f"predicted over measured {total / measured:.3f}   (goal: 0.90 to 1.10; "
        f"{ROUNDS} rounds of all tasks and the model)"
    )


if __name__ == "__main__":
    main()
