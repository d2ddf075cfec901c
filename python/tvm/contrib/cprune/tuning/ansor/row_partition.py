# SPDX-License-Identifier: Apache-2.0
"""Programs that divide the rows of the output among the cores.

The cores share the iterations of the outermost loops. auto_scheduler draws the lengths of these loops at
random, so that a core may compute some rows, some columns or some channels. If one layer's cores divide rows
and the next one's columns, half of each core's input is in the cache of another core. A program that is timed
alone does not show this. If all layers divide the rows, the data stays where it is. A layer whose weights
are larger than its activations keeps its loops, since each core would read all of them.
"""

import math
from collections.abc import Sequence
from typing import Any

from tvm import auto_scheduler, te
from tvm.contrib.cprune.measuring.cpu_state import activations_of
from tvm.contrib.cprune.measuring.records import dump, to_input
from tvm.contrib.cprune.targets.target import core_count
from tvm.contrib.cprune.tuning.ansor.axes import first_axes
from tvm.contrib.cprune.tuning.ansor.steps import Step, splits_of, steps_of, with_steps

# Inner lengths of a spatial axis in Ansor's tiling for CPUs, "SSRSRS".
SPATIAL_LEVELS = 3


def partition_rows(tvm_task: Any, steps: Sequence[Step]) -> list[Step]:
    """Return the steps of a program that divides the rows among the cores, if its tiles allow that.

    A factor of the rows moves from the second level of the tiling to the first, so that the number of
    iterations of the outermost loop becomes a multiple of the number of cores.

    Parameters
    ----------
    tvm_task
        The ``SearchTask`` of the program.
    steps
        Its transform steps.
    """
    changed = [list(step) for step in steps]
    cores, axis = core_count(tvm_task), _row_axis(tvm_task)
    if axis is None or cores < 2:
        return changed
    for split in splits_of(tvm_task.compute_dag, steps):
        if split.axes == (axis,) and len(split.lengths) == SPATIAL_LEVELS:
            second, *inner = split.lengths
            factor = _factor(split.extent // split.product, second, cores)
            changed[split.step][4] = [second // factor, *inner]
    return changed


def with_partitioned_rows(measure_input: Any) -> Any:
    """Return a ``MeasureInput`` of auto_scheduler with the steps of ``partition_rows``."""
    unmeasured = auto_scheduler.MeasureResult([0.0], 0, "", 0.0, 0.0)
    line = dump(measure_input, unmeasured).line
    return to_input(with_steps(line, partition_rows(measure_input.task, steps_of(line))), measure_input.task)


def _factor(iterations: int, second: int, cores: int) -> int:
    """Return the factor of the second level's length that moves to the first level."""
    for factor in range(1, second + 1):
        if second % factor == 0 and iterations * factor % cores == 0:
            return factor
    return second if iterations < cores else 1


def _row_axis(tvm_task: Any) -> int | None:
    """Return the number of the axis over the output's rows, None if the rows should not be divided.

    It is the first axis longer than 1 of the reduction that has the output's shape, in a task of a CPU. With
    several images, that is the axis over the images.
    """
    dag = tvm_task.compute_dag
    if tvm_task.target.kind.name != "llvm" or has_large_weights(dag):
        return None
    shape = [int(size) for size in dag.ops[-1].output(0).shape]
    for op, first in first_axes(dag):
        reduces = isinstance(op, te.ComputeOp) and op.reduce_axis
        if reduces and [int(size) for size in op.output(0).shape] == shape:
            return next((first + i for i, size in enumerate(shape) if size > 1), None)
    return None


def has_large_weights(dag: Any) -> bool:
    """Return whether the weights have more elements than the activations."""
    sizes = [math.prod(int(size) for size in tensor.shape) for tensor in dag.tensors]
    activations = sum(sizes[index] for index in activations_of(dag.tensors))
    return sum(sizes) > 2 * activations
