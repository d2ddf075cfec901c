# SPDX-License-Identifier: Apache-2.0
"""The speed of this machine's arithmetic and memory, and the least time that a task can take with them."""

import math
import time
from collections.abc import Callable

import torch

from tvm.contrib.cprune.table import TaskTable
from tvm.contrib.cprune.targets.target import host_threads
from tvm.contrib.cprune.types import Task


def seconds(function: Callable[[], object]) -> float:
    """Return the seconds that a call takes."""
    started = time.perf_counter()
    function()
    return time.perf_counter() - started


def speed_of_products() -> float:
    """Return the operations per second of a large matrix product in PyTorch."""
    torch.set_num_threads(host_threads())
    a, b = torch.rand(1024, 1024), torch.rand(1024, 1024)
    return 2 * 1024**3 / min(seconds(lambda: a @ b) for _ in range(20))


def speed_of_memory() -> float:
    """Return the bytes per second that a sum over a large array reads."""
    data = torch.rand(64 << 20)
    return 4 * data.numel() / min(seconds(data.sum) for _ in range(10))


def bytes_of(task: Task) -> int:
    """Return the bytes of a task's inputs, weights and output in float32."""
    return 4 * sum(math.prod(map(int, tensor.shape)) for tensor in task.tvm_task.compute_dag.tensors)


def print_tasks(table: TaskTable) -> None:
    """Print each task's latency and bound: the greater of its operations and its bytes at full speed.

    The operations are those of its algorithm. Data in the cache can be faster than the bound.
    """
    products, memory = speed_of_products(), speed_of_memory()
    print(f"# products at {products / 1e9:.0f} GFLOP/s, memory at {memory / 1e9:.1f} GB/s")
    print("| task | algorithm | times | us | GFLOP/s | MB | bound, us |\n|---|---|---|---|---|---|---|")
    for row in table.by_impact():
        task, latency, size = row.task, row.program.latency.median, bytes_of(row.task)
        bound = max(task.flops / products, size / memory)
        cells = (
            f"{latency * 1e6:.0f} | {task.flops / latency / 1e9:.0f} | {size / 1e6:.2f} | {bound * 1e6:.0f}"
        )
        print(f"| {task.title} | {task.subgraphs[0].algorithm or ''} | {task.weight} | {cells} |")
