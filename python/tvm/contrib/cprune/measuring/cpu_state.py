# SPDX-License-Identifier: Apache-2.0
"""Thread placement and cache contents during timed runs on this machine's CPU."""

import functools
import os
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np

import tvm
from tvm import te

# TVM's threads spin this many times before they sleep (src/runtime/thread_pool.cc). With TVM's default of
# 300,000, idle threads of one process slow down what another process times by half.
SPIN_COUNT = 20_000
# Seconds after which idle threads have stopped spinning.
SPIN_SECONDS = 0.02
# Name of the function that is called before each timed run.
PREPARE = "cprune.before_each_run"
# ThreadGroup::kSpecifyOneCorePerThread in TVM's threading_backend.h.
_ONE_CORE_PER_THREAD = -2


def limit_threads(threads: int) -> None:
    """Set the size of TVM's thread pool; must precede the pool's first use in a process."""
    os.environ["TVM_NUM_THREADS"] = str(threads)
    os.environ["TVM_THREAD_POOL_SPIN_COUNT"] = str(SPIN_COUNT)


@contextmanager
def pinned_threads() -> Iterator[None]:
    """Pin each of TVM's threads to its own core.

    Otherwise the scheduler may keep two threads of a sub-millisecond program on one core for many runs while
    another core is idle, which doubles the program's time.
    """
    cores, threads = sorted(os.sched_getaffinity(0)), int(os.environ["TVM_NUM_THREADS"])
    if not 1 < threads <= len(cores):
        yield
        return
    used = cores[:threads]
    configure = tvm.get_global_func("runtime.config_threadpool")
    configure(_ONE_CORE_PER_THREAD, threads, [str(core) for core in used])
    os.sched_setaffinity(0, used[:1])
    try:
        yield
    finally:
        os.sched_setaffinity(0, cores)
        time.sleep(SPIN_SECONDS)


def activations_of(args: Sequence[te.Tensor]) -> list[int]:
    """Return the positions of a program's arguments that are activations.

    These are the input of the layer, the output, and other arguments of the output's shape, such as the other
    operand of a residual addition. Before a reduction without weights, such as a mean, such an operand has
    the input's shape. auto_scheduler's programs have the output last, AutoTVM's have it first.
    """
    *_, output = [tensor for tensor in args if not isinstance(tensor.op, te.PlaceholderOp)]
    reduction = _reduction_of(output)
    source = _input_of(reduction)
    shapes = [_shape(output)]
    if len(reduction.input_tensors) == 1:
        shapes.append(_shape(source.output(0)))
    return [
        index for index, tensor in enumerate(args) if tensor.op.same_as(source) or _shape(tensor) in shapes
    ]


def _shape(tensor: te.Tensor) -> list[int]:
    return [int(size) for size in tensor.shape]


def _reduction_of(output: te.Tensor) -> te.tensor.Operation:
    """Return the reduction nearest to the output, which is the layer's or computes with its result.

    Without any, it is the operation of the output.
    """
    op, pending = output.op, [output.op]
    while pending:
        candidate = pending.pop(0)
        if getattr(candidate, "reduce_axis", None):
            return candidate
        pending += [tensor.op for tensor in candidate.input_tensors]
    return op


def _input_of(op: te.tensor.Operation) -> te.tensor.Operation:
    """Return the placeholder of a layer's input: convolutions and products read it before the weight."""
    while op.input_tensors:
        op = op.input_tensors[0].op
    return op


def register_prepare(weights: Sequence[int]) -> None:
    """Register a function ``PREPARE`` that restores the state in which a model would run the program.

    It flushes the weights from the cache, since those of other layers have passed through it, and keeps the
    activations. It also wakes the threads.

    Parameters
    ----------
    weights
        Positions of the arguments to flush.
    """
    flush = tvm.get_global_func("cache_flush_cpu_non_first_arg")
    wake_threads = _parallel_kernel()

    def prepare(*args: Any) -> None:
        for index in weights:
            # The function leaves its first argument in the cache.
            flush(args[index - 1], args[index])
        wake_threads()

    tvm.register_func(PREPARE, prepare, override=True)


@functools.cache
def _parallel_kernel() -> Any:
    """Return a trivial kernel that runs on every thread."""
    data = te.placeholder((64,), name="data")
    result = te.compute((64,), lambda i: data[i] + 1)
    schedule = te.create_schedule(result.op)
    schedule[result].parallel(result.op.axis[0])
    array = tvm.nd.array(np.zeros(64, "float32"))
    kernel = tvm.build(schedule, [data, result], "llvm")
    return lambda: kernel(array, array)


def run_parallel_kernel() -> None:
    """Compile the kernel that wakes the threads, and run it."""
    _parallel_kernel()()
