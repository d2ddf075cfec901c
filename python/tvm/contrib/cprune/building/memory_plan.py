# SPDX-License-Identifier: Apache-2.0
"""Which tensors of a compiled model share a buffer.

TVM's plan (src/relay/backend/graph_plan_memory.cc) puts a tensor into a free buffer of a sixteenth to 16
times its size. Each core computes one part of a tensor, such as its first or its last rows. If the tensor
before it in the buffer was much larger or smaller, its parts lay at other addresses: a core then writes to
lines that another core's cache holds, and waits until they are invalidated. A buffer for each size is no
solution: it needs more memory, and takes more time where cores share a cache.
"""

import json
import math
from collections import Counter
from dataclasses import dataclass
from itertools import chain
from typing import Any

import tvm

# The graph executor does not call this function: its output is its input in another shape.
_NO_CALL = "__nop"
# See benchmarks/memory_plan.py.
MAX_RATIO = 2.0


def plan_graph(graph_json: str, max_ratio: float = MAX_RATIO) -> str:
    """Return a graph in which tensors share a buffer only if their sizes are similar.

    No other tensor is written to the buffers of inputs and weights, and none to that of an output after it.

    Parameters
    ----------
    graph_json
        A graph of the graph executor (src/runtime/graph_executor/graph_executor.h).
    max_ratio
        Of two tensors that use a buffer one after the other, the larger one has at most this many times the
        bytes of the smaller one.
    """
    graph = json.loads(graph_json)
    graph["attrs"]["storage_id"][1] = _buffers(graph, max_ratio)
    return json.dumps(graph, indent=2)


@dataclass
class _Buffer:
    """A buffer, the bytes of the last tensor in it, and the number of reads of it that are still to come."""

    number: int
    place: tuple[Any, ...]
    size: int = 0
    reads: int = 0


def _buffers(graph: dict[str, Any], max_ratio: float) -> list[int]:
    """Return the number of each tensor's buffer."""
    nodes, first = graph["nodes"], graph["node_row_ptr"]
    places, sizes = _places(graph), _sizes(graph)
    uses = Counter(_tensor(first, entry) for entry in chain(graph["heads"], *(n["inputs"] for n in nodes)))
    owners: list[_Buffer] = []
    buffers: list[_Buffer] = []
    free: list[_Buffer] = []
    for number, node in enumerate(nodes):
        inputs = [owners[_tensor(first, entry)] for entry in node["inputs"]]
        for tensor in range(first[number], first[number + 1]):
            if node["op"] != "tvm_op":
                buffer = None
            elif node["attrs"]["func_name"] == _NO_CALL:
                buffer = inputs[0]
            else:
                buffer = _best(free, places[tensor], sizes[tensor], max_ratio)
            if buffer is None:
                # The extra read keeps the buffer of an input from being freed.
                buffer = _Buffer(len(buffers), places[tensor], reads=int(node["op"] != "tvm_op"))
                buffers.append(buffer)
            buffer.size = sizes[tensor]
            buffer.reads += uses[tensor]
            owners.append(buffer)
        for buffer in inputs:
            buffer.reads -= 1
            if not buffer.reads:
                free.append(buffer)
    return [buffer.number for buffer in owners]


def _best(free: list[_Buffer], place: tuple[Any, ...], size: int, max_ratio: float) -> _Buffer | None:
    """Remove the free buffer whose last tensor is the most similar in size, and return it."""
    ratios = [(max(size, b.size) / min(size, b.size), n) for n, b in enumerate(free) if b.place == place]
    ratio, number = min(ratios, default=(math.inf, 0))
    return free.pop(number) if ratio <= max_ratio else None


def _sizes(graph: dict[str, Any]) -> list[int]:
    """Return the bytes of each tensor."""
    attrs = graph["attrs"]
    pairs = zip(attrs["shape"][1], attrs["dltype"][1], strict=True)
    return [math.prod(shape) * tvm.DataType(kind).itemsize() for shape, kind in pairs]


def _places(graph: dict[str, Any]) -> list[tuple[Any, ...]]:
    """Return the device and the memory scope of each tensor."""
    attrs, count = graph["attrs"], len(graph["attrs"]["shape"][1])
    kinds = [attrs[name][1] for name in ("device_index", "storage_scope") if name in attrs]
    return list(zip(*kinds, strict=True)) if kinds else [()] * count


def _tensor(first: list[int], entry: list[int]) -> int:
    """Return the number of a tensor, given as a node and the index of its output."""
    return int(first[entry[0]] + entry[1])
