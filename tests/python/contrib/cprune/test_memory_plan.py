# SPDX-License-Identifier: Apache-2.0
"""Buffers of compiled models: live tensors never share one, and tensors in one have similar sizes."""

import json
import math
from random import Random

import numpy as np
import pytest
import torch
from networks import Branches
from torch import nn

import tvm
from tvm import relay
from tvm.contrib import graph_executor
from tvm.contrib.cprune.building.memory_plan import MAX_RATIO, plan_graph
from tvm.contrib.cprune.importers.from_torch import from_torch

SHAPE = (1, 3, 16, 16)
SIZES = (1, 4, 6, 9, 13, 64, 100)


class Flattened(nn.Module):
    """A reshape, which calls no function, before and after a layer."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.fc = nn.Conv2d(3, 8, 3, 2, 1), nn.Linear(512, 512)

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        y = torch.relu(self.conv(x))
        z = torch.relu(self.fc(y.flatten(1)))
        return z.reshape(1, 8, 64).softmax(2), y


def random_graph(seed):
    """Return a graph whose functions have up to three inputs and two outputs of random sizes."""
    random = Random(seed)
    nodes, first, shapes, entries = [], [0], [], []
    for number in range(random.randint(2, 40)):
        calls = number > 0 and random.random() < 0.8
        inputs = [random.choice(entries) for _ in range(random.randint(1, 3))] if calls else []
        outputs = [[random.choice(SIZES)] for _ in range(random.choice((1, 1, 1, 2)) if calls else 1)]
        name = "f"
        if calls and random.random() < 0.15:
            name, inputs = "__nop", inputs[:1]
            outputs = [shapes[entries.index(inputs[0])]]
        nodes.append({"op": "tvm_op" if calls else "null", "attrs": {"func_name": name}, "inputs": inputs})
        entries += [[number, index, 0] for index in range(len(outputs))]
        shapes += outputs
        first.append(len(shapes))
    heads = [entries[-1], random.choice(entries)]
    lists = {"shape": shapes, "dltype": ["float32"] * len(shapes), "storage_id": list(range(len(shapes)))}
    attrs = {name: [f"list_{name}", values] for name, values in lists.items()}
    return {"nodes": nodes, "node_row_ptr": first, "heads": heads, "attrs": attrs}


def calls_nothing(node):
    return node["op"] == "tvm_op" and node["attrs"]["func_name"] == "__nop"


def check_plan(graph):
    """Run a graph on its buffers: each must hold the tensor that is read. Return the number of buffers."""
    first, buffers = graph["node_row_ptr"], graph["attrs"]["storage_id"][1]
    sizes = [math.prod(shape) for shape in graph["attrs"]["shape"][1]]
    contents = contents_of(graph)
    holds, last_size, fixed = {}, {}, set()
    for number, node in enumerate(graph["nodes"]):
        read = [first[i] + index for i, index, _ in node["inputs"]]
        assert all(holds[buffers[tensor]] == contents[tensor] for tensor in read)
        written = range(first[number], first[number + 1])
        if calls_nothing(node):
            assert buffers[written[0]] == buffers[read[0]]
            continue
        targets = {buffers[tensor] for tensor in written}
        assert len(targets) == len(written)
        assert targets.isdisjoint(fixed | {buffers[tensor] for tensor in read})
        for tensor in written:
            small, large = sorted([last_size.get(buffers[tensor], sizes[tensor]), sizes[tensor]])
            assert large <= MAX_RATIO * small
            holds[buffers[tensor]], last_size[buffers[tensor]] = contents[tensor], sizes[tensor]
        if node["op"] != "tvm_op":
            fixed |= targets
    outputs = [first[i] + index for i, index, _ in graph["heads"]]
    assert all(holds[buffers[tensor]] == contents[tensor] for tensor in outputs)
    return len(set(buffers))


def contents_of(graph):
    """Return for each tensor the first one with the same content: what ``__nop`` returns is its input."""
    first, contents = graph["node_row_ptr"], []
    for number, node in enumerate(graph["nodes"]):
        for tensor in range(first[number], first[number + 1]):
            source = node["inputs"][0] if calls_nothing(node) else None
            contents.append(contents[first[source[0]] + source[1]] if source else tensor)
    return contents


@pytest.mark.parametrize("seed", range(200))
def test_buffers_hold_what_is_read_and_tensors_of_similar_sizes(seed):
    graph = random_graph(seed)
    check_plan(json.loads(plan_graph(json.dumps(graph))))


@pytest.mark.parametrize(
    ("name", "values"),
    [("dltype", ["float32", "float64"]), ("device_index", [1, 2]), ("storage_scope", ["", "global.texture"])],
)
def test_tensors_of_other_sizes_and_places_have_other_buffers(name, values):
    # A chain of functions, whose tensors have 8 elements and alternate between two values of an attribute.
    count = 7
    nodes = [
        {"op": "tvm_op" if n else "null", "attrs": {"func_name": "f"}, "inputs": [[n - 1, 0, 0]] if n else []}
        for n in range(count)
    ]
    lists = {"shape": [[8]] * count, "dltype": ["float32"] * count, "storage_id": list(range(count))}
    lists[name] = [values[n % 2] for n in range(count)]
    attrs = {key: [f"list_{key}", listed] for key, listed in lists.items()}
    graph = {
        "nodes": nodes,
        "node_row_ptr": list(range(count + 1)),
        "heads": [[count - 1, 0, 0]],
        "attrs": attrs,
    }
    buffers = json.loads(plan_graph(json.dumps(graph), 1.0))["attrs"]["storage_id"][1]
    for one in range(count):
        for other in range(count):
            assert buffers[one] != buffers[other] or lists[name][one] == lists[name][other]
    assert len(set(buffers)) < count


def test_random_graphs_share_buffers():
    plans = [json.loads(plan_graph(json.dumps(random_graph(seed)))) for seed in range(200)]
    shared = [
        plan for plan in plans if len(set(plan["attrs"]["storage_id"][1])) < len(plan["attrs"]["shape"][1])
    ]
    assert len(shared) > 100


@pytest.mark.parametrize("model", [Branches(), Flattened()], ids=["branches", "flattened"])
def test_a_compiled_model_computes_the_same_with_either_plan(model):
    library = relay.build(from_torch(model.eval(), SHAPE).mod, "llvm")
    stock, planned = library.get_graph_json(), plan_graph(library.get_graph_json())
    assert check_plan(json.loads(planned)) < len(json.loads(planned)["attrs"]["shape"][1])
    data = np.random.default_rng(0).standard_normal(SHAPE).astype("float32")
    outputs = []
    for graph in (stock, planned):
        executor = graph_executor.create(graph, library.get_lib(), tvm.cpu())
        executor.set_input(**library.get_params())
        executor.set_input("data", data)
        executor.run()
        outputs.append([executor.get_output(n).numpy() for n in range(executor.get_num_outputs())])
    for expected, actual in zip(*outputs, strict=True):
        assert np.abs(expected).max() > 0
        np.testing.assert_array_equal(actual, expected)
