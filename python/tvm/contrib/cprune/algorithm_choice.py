# SPDX-License-Identifier: Apache-2.0
"""The algorithm of each layer whose measured program is the fastest."""

from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence

from tvm.contrib.cprune.measuring.records import Measured, faster
from tvm.contrib.cprune.table import Row
from tvm.contrib.cprune.types import Algorithm, Task


def fastest_templates(rows: Iterable[Row]) -> dict[str, Algorithm]:
    """Return the AutoTVM template of each layer that has the fastest program.

    Parameters
    ----------
    rows
        The fastest program of each template.
    """
    by_layer: dict[str, list[Row]] = defaultdict(list)
    for row in rows:
        for layer in row.task.layers:
            by_layer[layer].append(row)
    fastest = {layer: max(choices, key=lambda row: row.speed) for layer, choices in by_layer.items()}
    return {layer: str(row.task.subgraphs[0].algorithm) for layer, row in fastest.items()}


def winograd_layers(
    direct: Sequence[Task],
    winograd: Sequence[Task],
    legal: Mapping[str, Algorithm],
    best: Callable[[str], Measured | None],
) -> dict[str, Algorithm]:
    """Return the layers for which Winograd's algorithm is faster, with their algorithm in ``legal``.

    Parameters
    ----------
    direct, winograd
        The tasks of a model whose convolutions all run direct, or as in ``legal``.
    best
        Returns the fastest measured program of a workload key.
    """
    direct_task = {layer: task for task in direct for layer in task.layers}
    chosen: dict[str, Algorithm] = {}
    for task in winograd:
        for layer in task.layers:
            a, b = (best(other.workload_key) for other in (direct_task[layer], task))
            if layer in legal and a is not b and faster(a, b) is b:
                chosen[layer] = legal[layer]
    return chosen
