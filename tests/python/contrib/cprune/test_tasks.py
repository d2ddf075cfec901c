# SPDX-License-Identifier: Apache-2.0
"""Each layer is in the task that an oracle finds by the values of weights, without names."""

import pytest
import torch
from networks import Branches, OneLayer, randomize_norms
from torch import nn

import tvm
from models import make_model
from tvm import auto_scheduler, relay
from tvm.contrib.cprune.importers.from_torch import from_torch
from tvm.contrib.cprune.lowering import pass_context
from tvm.contrib.cprune.models.torchvision_models import load_torchvision
from tvm.contrib.cprune.tasks import LoweringCache, extract_from_program
from tvm.contrib.cprune.transform.record_subgraphs import fuse
from tvm.contrib.cprune.transform.relay_graph import calls_of
from tvm.contrib.cprune.tuning.ansor.axes import axes_of

NETWORKS = {
    "resnet18": 32,
    "resnet50": 32,
    "vgg16_bn": 32,
    "mobilenet_v2": 32,
    "mnasnet1_0": 32,
    "squeezenet1_1": 32,
    "densenet121": 32,
    "efficientnet_b0": 32,
    "inception_v3": 75,
}


def layers_of(model):
    return [name for name, module in model.named_modules() if isinstance(module, nn.Conv2d | nn.Linear)]


def mark(model):
    """Fill the weight of each layer with a number of its own, by which the oracle identifies the layer."""
    numbers = {}
    for number, name in enumerate(layers_of(model), 1):
        numbers[number] = name
        model.get_submodule(name).weight.data.fill_(float(number))
    return numbers


def partition(pairs):
    """Return the sets of layers that share a key."""
    groups = {}
    for key, layer in pairs:
        groups.setdefault(key, set()).add(layer)
    return sorted(sorted(layers) for layers in groups.values())


def workload_key_of(function, target, cache):
    """Return the workload key that TVM's own extraction finds for a fused function."""
    text = function.astext(show_meta_data=False)
    if text not in cache:
        fresh = [relay.var(f"p{i}", v.checked_type) for i, v in enumerate(function.params)]
        body = relay.bind(function.body, dict(zip(function.params, fresh, strict=True)))
        mod = tvm.IRModule.from_expr(relay.Function(fresh, body))
        with tvm.transform.PassContext(disabled_pass=["AlterOpLayout"]):
            tasks, _ = auto_scheduler.extract_tasks(mod, {}, target)
        (cache[text],) = [task.workload_key for task in tasks]
    return cache[text]


def oracle(relay_model, numbers, target):
    """Yield (workload key, layer), where only the values of weights identify layers."""
    with target, pass_context(target):
        fused = fuse(relay_model.mod)
    cache = {}
    for call in calls_of(fused["main"].body):
        for anchor in calls_of(call.op.body) if isinstance(call.op, relay.Function) else []:
            if anchor.op.name in ("nn.conv2d", "nn.dense"):
                position = list(call.op.params).index(anchor.args[1])
                value = float(call.args[position].data.numpy().flat[0])
                yield workload_key_of(call.op, target, cache), numbers[round(value)]


@pytest.mark.parametrize("name", NETWORKS)
def test_every_layer_is_in_exactly_one_subgraph(name, target):
    model = load_torchvision(name, 10).eval()
    numbers = mark(model)
    relay_model = from_torch(model, (1, 3, NETWORKS[name], NETWORKS[name]))
    tasks = extract_from_program(relay_model.mod, None, target)
    mapped = [layer for task in tasks for layer in task.layers]
    assert sorted(mapped) == sorted(layers_of(model))
    ours = partition((task.workload_key, layer) for task in tasks for layer in task.layers)
    assert ours == partition(oracle(relay_model, numbers, target))


def test_a_module_of_tvms_importer_is_extracted(target):
    model = randomize_norms(make_model("resnet8", 1, 10))
    traced = torch.jit.trace(model, torch.zeros(1, 1, 16, 16))
    mod, params = relay.frontend.from_pytorch(traced, [("x", (1, 1, 16, 16))], preserve_pytorch_scopes=True)
    tasks = extract_from_program(mod, params, target)
    assert sorted(layer for task in tasks for layer in task.layers) == sorted(layers_of(model))


def test_only_the_changed_functions_of_a_pruned_model_are_lowered(target):
    cache = LoweringCache()
    extract_from_program(
        from_torch(make_model("resnet18", 3, 10), (1, 3, 32, 32)).mod, None, target, cache=cache
    )
    first = cache.lowered
    model = make_model("resnet18", 3, 10)
    block = model.stages[3][0]
    block.conv1 = nn.Conv2d(256, 448, 3, 2, 1, bias=False)
    block.bn1 = nn.BatchNorm2d(448)
    block.conv2 = nn.Conv2d(448, 512, 3, 1, 1, bias=False)
    extract_from_program(from_torch(model, (1, 3, 32, 32)).mod, None, target, cache=cache)
    assert first > 15
    assert cache.lowered == first + 2


def test_tasks_know_the_axes_over_channels(target):
    tasks = extract_from_program(from_torch(Branches(), (1, 3, 16, 16)).mod, None, target)
    by_layer = {layer: task for task in tasks for layer in task.layers}

    def extents(layer, axes):
        numbered = axes_of(by_layer[layer].tvm_task.compute_dag)
        return {numbered[axis][2] for axis in axes}

    for layer, out, inner in [
        ("left", 16, 16),
        ("stem.0", 16, 3),
        ("grouped", 16, 4),
        ("mix", 16, 32),
        ("fc", 10, 16),
    ]:
        assert extents(layer, by_layer[layer].out_axes) == {out}
        assert extents(layer, by_layer[layer].in_axes) == {inner}
    depthwise = by_layer["depthwise"]
    assert depthwise.out_axes == depthwise.in_axes
    assert extents("depthwise", depthwise.out_axes) == {32}


def test_winograd_is_another_task_of_the_same_layer(target):
    mod = from_torch(OneLayer(8, 16), (1, 8, 8, 8)).mod
    direct = extract_from_program(mod, None, target)
    winograd = extract_from_program(mod, None, target, {"conv": "winograd-4"})
    pair = [next(t for t in tasks if "conv" in t.layers) for tasks in (direct, winograd)]
    assert pair[0].workload_key != pair[1].workload_key
    assert [task.subgraphs[0].algorithm for task in pair] == ["direct", "winograd-4"]
