# SPDX-License-Identifier: Apache-2.0
"""Imported models have the outputs and the layer names of the PyTorch model."""

import numpy as np
import pytest
import torch
from networks import Branches, OneLayer, randomize_norms
from torch import nn

import tvm
from models import make_model
from tvm import relay
from tvm.contrib import graph_executor
from tvm.contrib.cprune.importers.from_torch import from_torch, import_torch
from tvm.contrib.cprune.importers.model_file import ModelFile
from tvm.contrib.cprune.lowering import pass_context
from tvm.contrib.cprune.targets.target import pinned_target
from tvm.contrib.cprune.transform.pin_algorithms import pin_algorithms, winograd_algorithms
from tvm.contrib.cprune.transform.prepare import prepare
from tvm.contrib.cprune.transform.relay_graph import ANCHORS, calls_of, layer_of
from tvm.contrib.cprune.types import CPruneError


def layers_of(model):
    return {name for name, module in model.named_modules() if isinstance(module, nn.Conv2d | nn.Linear)}


def run(mod, data, target):
    with pass_context(target):
        library = relay.build(mod, target)
    module = graph_executor.GraphModule(library["default"](tvm.cpu()))
    module.set_input("data", data)
    module.run()
    return module.get_output(0).numpy()


class LinearOnMap(nn.Module):
    """Linear layers on a feature map, as in ConvNeXt."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.wide, self.narrow = nn.Conv2d(3, 8, 3), nn.Linear(8, 16), nn.Linear(16, 8, bias=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.conv(x).permute(0, 2, 3, 1)
        return self.narrow(nn.functional.gelu(self.wide(x)) + 1).permute(0, 3, 1, 2)


NETWORKS = {
    "linear on a feature map": (LinearOnMap, (2, 3, 8, 8)),
    "branches": (Branches, (1, 3, 16, 16)),
    "bias": (lambda: OneLayer(8, 16), (1, 8, 8, 8)),
    "batch of two": (lambda: OneLayer(8, 16), (2, 8, 8, 8)),
    "resnet8": (lambda: make_model("resnet8", 1, 10), (1, 1, 16, 16)),
    "mobilenetv1": (lambda: make_model("mobilenetv1", 3, 10), (1, 3, 16, 16)),
    "lenet": (lambda: make_model("lenet", 1, 10), (1, 1, 16, 16)),
}


@pytest.mark.parametrize("winograd", [False, True])
@pytest.mark.parametrize("name", NETWORKS)
def test_imported_networks_have_the_outputs_and_layers_of_pytorch(name, winograd, target):
    make, shape = NETWORKS[name]
    torch.manual_seed(0)
    model = randomize_norms(make())
    relay_model = from_torch(model, shape)
    assert set(relay_model.layers) == layers_of(model)
    algorithms = winograd_algorithms(relay_model.mod) if winograd else {}
    mod = pin_algorithms(relay_model.mod, algorithms)
    data = np.random.default_rng(0).standard_normal(shape).astype("float32")
    expected = model(torch.tensor(data)).detach().numpy()
    np.testing.assert_allclose(
        run(mod, data, target), expected, rtol=1e-4, atol=1e-4 * np.abs(expected).max()
    )


def test_operators_on_parameters_are_folded():
    """None is left to run time or to TVM's slow constant folding."""
    mod = from_torch(randomize_norms(Branches()), (1, 3, 16, 16)).mod
    calls = calls_of(mod["main"].body)
    assert not [c.op.name for c in calls if all(isinstance(arg, relay.Constant) for arg in c.args)]


def test_a_scale_that_depends_on_data_is_not_folded():
    """Squeeze-and-excitation scales by a computed value. The weight behind it must stay a constant."""
    mod = from_torch(Branches(), (1, 3, 16, 16)).mod
    anchors = [call for call in calls_of(mod["main"].body) if call.op.name in ANCHORS]
    assert len(anchors) == 9
    assert all(layer_of(call) and isinstance(call.args[1], relay.Constant) for call in anchors)


class Twice(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(8, 8, 3, padding=1)

    def forward(self, x):
        return self.conv(torch.relu(self.conv(x)))


class Tied(nn.Module):
    def __init__(self):
        super().__init__()
        self.first, self.second = nn.Conv2d(8, 8, 3, padding=1), nn.Conv2d(8, 8, 3, padding=1)
        self.second.weight = self.first.weight

    def forward(self, x):
        return self.second(torch.relu(self.first(x)))


class Borrowing(nn.Module):
    """Reads a bias of two other layers in one operator."""

    def __init__(self):
        super().__init__()
        self.conv, self.left, self.right = (nn.Conv2d(8, 8, 1) for _ in range(3))

    def forward(self, x):
        return self.conv(x) * (self.left.bias + self.right.bias).reshape(1, 8, 1, 1)


class Masked(nn.Module):
    """Multiplies by a buffer that ``state_dict`` omits."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(8, 8, 3, padding=1)
        self.register_buffer("mask", torch.full((8,), 2.0), persistent=False)

    def forward(self, x):
        return self.conv(x) * self.mask.reshape(1, 8, 1, 1)


class Reordered(nn.Module):
    """Reorders channels by an integer buffer."""

    def __init__(self, persistent=True):
        super().__init__()
        self.conv = nn.Conv2d(8, 8, 3, padding=1)
        self.register_buffer("order", torch.tensor([1, 0, 3, 2, 5, 4, 7, 6]), persistent=persistent)

    def forward(self, x):
        return self.conv(x)[:, self.order]


class Hidden(nn.Module):
    """Reads a tensor that is neither a parameter nor a buffer; a trace makes it a constant."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(8, 8, 1)
        self.scale = torch.full((8, 1, 1), 3.0)

    def forward(self, x):
        return self.conv(x) * self.scale


def outputs_of(model, shape):
    """Return the outputs of TVM and of PyTorch, and the imported parameters."""
    mod, params = import_torch(model, shape)
    data = np.random.default_rng(0).standard_normal(shape).astype("float32")
    with tvm.transform.PassContext(opt_level=1):
        library = relay.build(mod, "llvm", params=params)
    module = graph_executor.GraphModule(library["default"](tvm.cpu()))
    module.set_input("data", data)
    module.run()
    return module.get_output(0).numpy(), model(torch.tensor(data)).detach().numpy(), params


@pytest.mark.parametrize("source", ["module", "file"])
@pytest.mark.parametrize(
    ("make", "expected"),
    [
        (Twice, {"conv.weight", "conv.bias"}),
        (Tied, {"first.weight", "first.bias", "second.bias"}),
        (Borrowing, {"conv.weight", "conv.bias", "left.bias", "right.bias"}),
        (Masked, {"conv.weight", "conv.bias", "mask"}),
        (Reordered, {"conv.weight", "conv.bias", "order"}),
        (lambda: Reordered(persistent=False), {"conv.weight", "conv.bias", "order"}),
        (Hidden, {"conv.weight", "conv.bias"}),
    ],
    ids=["twice", "tied", "borrowing", "float buffer", "index", "non-persistent index", "constant"],
)
def test_parameters_are_named_by_identity(make, expected, source, tmp_path):
    torch.manual_seed(0)
    model, shape = make().eval(), (1, 8, 8, 8)
    if source == "file":
        torch.jit.trace(model, torch.zeros(shape)).save(str(tmp_path / "model.pt"))
        model = torch.jit.load(str(tmp_path / "model.pt"))
    tvm_output, torch_output, params = outputs_of(model, shape)
    np.testing.assert_allclose(tvm_output, torch_output, rtol=1e-4, atol=1e-5)
    assert set(params) == expected
    tensors = {**dict(model.named_parameters()), **dict(model.named_buffers())}
    for name, value in params.items():
        np.testing.assert_array_equal(value.numpy(), tensors[name].detach().numpy())


def test_a_model_is_traced_once():
    runs = []
    model = Tied()
    model.register_forward_hook(lambda *_: runs.append(1))
    from_torch(model, (1, 8, 8, 8))
    assert len(runs) == 1


def test_a_layer_used_twice_labels_both_calls():
    for model, layer in ((Twice(), "conv"), (Tied(), "first")):
        mod = from_torch(model, (1, 8, 8, 8)).mod
        calls = calls_of(mod["main"].body)
        assert [layer_of(call) for call in calls if call.op.name == "nn.conv2d"] == [layer, layer]


@pytest.mark.filterwarnings("error:The .grad attribute")
def test_saving_writes_tied_tensors_under_each_name(tmp_path):
    path, shape = tmp_path / "model.pt", (1, 8, 8, 8)
    torch.jit.trace(Tied().eval(), torch.zeros(shape)).save(str(path))
    file = ModelFile.load(path, shape)
    file.save({"first.weight": np.zeros((8, 8, 3, 3), "float32")}, path)
    saved = torch.jit.load(str(path))
    assert not saved.state_dict()["first.weight"].any()
    torch.testing.assert_close(saved(torch.ones(shape))[0, :, 0, 0], saved.state_dict()["second.bias"])


class Writing(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(8, 8, 1)
        self.register_buffer("state", torch.zeros(1, 8, 8, 8))

    def forward(self, x):
        self.state[:, 1] = x[:, 0]
        return self.conv(x + self.state)


class NamedLikeTheInput(nn.Module):
    def __init__(self):
        super().__init__()
        self.data = nn.Parameter(torch.ones(1, 8, 1, 1))

    def forward(self, x):
        return x * self.data


class TwoInputs(torch.jit.ScriptModule):
    @torch.jit.script_method
    def forward(self, x, y):
        return x + y


@pytest.mark.parametrize(
    ("model", "message"),
    [
        (torch.jit.script(Hidden().eval()), r"reads a tensor of shape \(8, 1, 1\) that is neither"),
        (Writing(), "writes to a parameter or buffer"),
        (NamedLikeTheInput(), "a parameter named 'data'"),
        (TwoInputs(), "has 2 inputs, expected one"),
    ],
    ids=["unregistered tensor", "written buffer", "name of the input", "two inputs"],
)
def test_a_model_whose_tensors_cannot_be_named_is_refused(model, message):
    with pytest.raises(CPruneError, match=message):
        from_torch(model, (1, 8, 8, 8))


def test_a_computed_weight_is_refused_with_its_parameters():
    class Mixed(nn.Module):
        def __init__(self):
            super().__init__()
            self.a = nn.Parameter(torch.randn(8, 8, 3, 3))
            self.b = nn.Parameter(torch.randn(8, 8, 3, 3))

        def forward(self, x):
            return nn.functional.conv2d(x, self.a + self.b)

    with pytest.raises(CPruneError, match=r"weight of a nn\.conv2d is computed from \['a', 'b'\]"):
        from_torch(Mixed(), (1, 8, 8, 8))


def test_a_model_that_cannot_be_traced_is_refused_in_one_line():
    with pytest.raises(CPruneError, match=r"cannot import OneLayer for input \(1, 3, 8, 8\)"):
        from_torch(OneLayer(8, 16), (1, 3, 8, 8))


def test_preparing_a_prepared_module_returns_it():
    mod = from_torch(Branches(), (1, 3, 16, 16)).mod
    assert prepare(mod).same_as(mod)


def test_an_unknown_target_is_refused_with_its_name():
    with pytest.raises(CPruneError, match="target 'nonsense' is not a TVM target"):
        pinned_target("nonsense")


def test_importing_leaves_the_pytorch_model_unchanged():
    model = randomize_norms(Branches()).train()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    from_torch(model, (1, 3, 16, 16))
    assert model.training
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
