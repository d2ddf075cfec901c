# SPDX-License-Identifier: Apache-2.0
"""RoundChannels yields widths that fit and equal outputs, whatever is between two layers."""

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from networks import Branches, randomize_norms
from programs import table_of
from torch import nn

import tvm
from tvm import relay
from tvm.contrib import graph_executor
from tvm.contrib.cprune import from_torch
from tvm.contrib.cprune.importers.from_onnx import from_onnx
from tvm.contrib.cprune.importers.from_torch import import_torch
from tvm.contrib.cprune.table import Row, TaskTable
from tvm.contrib.cprune.transform import RoundChannels
from tvm.contrib.cprune.transform.relay_graph import calls_of, layer_of, operator_name, post_order
from tvm.contrib.cprune.transform.rounding.round_channels import round_function
from tvm.contrib.cprune.transform.rounding.widths import RoundingOptions
from tvm.contrib.cprune.types import CPruneError, Latency, Program, Split

SHAPE = (1, 3, 8, 8)


def run(mod: tvm.IRModule, data: np.ndarray, params: dict | None = None) -> np.ndarray:
    """Return the outputs of a plain TVM build."""
    with tvm.transform.PassContext(opt_level=1):
        library = relay.build(mod, "llvm", params=params)
    model = graph_executor.GraphModule(library["default"](tvm.cpu()))
    model.set_input("data", data)
    model.run()
    return model.get_output(0).numpy()


def convolution_widths(mod: tvm.IRModule) -> dict[str, int]:
    """Return the output channels of each convolution and dense layer."""
    widths = {}
    for call in calls_of(mod["main"].body):
        if operator_name(call) == "nn.conv2d":
            axis = str(call.attrs.data_layout).index("C")
            widths[str(layer_of(call))] = int(call.checked_type.shape[axis])
        elif operator_name(call) == "nn.dense":
            widths[str(layer_of(call))] = int(call.checked_type.shape[1])
    return widths


def rounded(model: nn.Module, table: TaskTable, shape=SHAPE, **options):
    relay_model = from_torch(model, shape)
    rounding = RoundChannels(table, **options)
    return relay_model.mod, rounding(relay_model.mod), rounding.roundings


def check_same(model: nn.Module, before: tvm.IRModule, after: tvm.IRModule, shape=SHAPE) -> None:
    data = np.random.default_rng(0).standard_normal(shape).astype("float32")
    expected = run(before, data)
    np.testing.assert_allclose(run(after, data), expected, rtol=1e-5, atol=1e-5)
    with torch.no_grad():
        np.testing.assert_allclose(expected, model(torch.tensor(data)).numpy(), rtol=1e-3, atol=1e-4)


class Block(nn.Module):
    """A layer of a random network, of one of several kinds."""

    def __init__(self, kind: str, inputs: int, width: int) -> None:
        super().__init__()
        self.kind, self.width = kind, width
        if kind == "depthwise":
            self.width = inputs
            self.conv = nn.Conv2d(inputs, inputs, 3, padding=1, groups=inputs, bias=False)
        elif kind == "residual":
            self.width = inputs
            self.conv = nn.Conv2d(inputs, inputs, 3, padding=1)
        elif kind == "squeeze":
            self.width = inputs
            self.down, self.up = nn.Conv2d(inputs, width, 1), nn.Conv2d(width, inputs, 1)
            self.conv = nn.Conv2d(inputs, inputs, 1)
        elif kind == "concat":
            self.width = inputs + width
            self.conv = nn.Conv2d(inputs, width, 1)
        else:
            self.conv = nn.Conv2d(inputs, width, 3, padding=1)
        self.norm = nn.BatchNorm2d(self.conv.out_channels)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.norm(self.conv(x))
        if self.kind == "residual":
            return torch.relu(y + x)
        if self.kind == "concat":
            return torch.cat([x, nn.functional.leaky_relu(y, 0.1)], 1)
        if self.kind == "squeeze":
            gate = self.up(torch.relu(self.down(y.mean((2, 3), keepdim=True))))
            return y * nn.functional.hardsigmoid(gate) if self.width % 2 else y * torch.sigmoid(gate)
        return nn.functional.relu6(y)


class RandomNet(nn.Module):
    def __init__(self, stem: int, blocks: list[tuple[str, int]], flatten: bool) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, stem, 3, padding=1)
        layers, width = [], stem
        for kind, size in blocks:
            layers.append(Block(kind, width, size))
            width = layers[-1].width
        self.body = nn.Sequential(*layers)
        self.flatten = flatten
        self.fc = nn.Linear(width * 16 if flatten else width, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.body(torch.relu(self.stem(x)))
        if self.flatten:
            return self.fc(torch.flatten(nn.functional.max_pool2d(x, 2), 1))
        return self.fc(x.mean((2, 3)))


KINDS = ("plain", "depthwise", "residual", "concat", "squeeze")


@settings(max_examples=6)
@given(
    st.integers(3, 13),
    st.lists(st.tuples(st.sampled_from(KINDS), st.integers(2, 13)), max_size=5),
    st.booleans(),
    st.data(),
)
def test_rounding_up_keeps_outputs_and_every_width_fits(stem, blocks, flatten, data):
    torch.manual_seed(0)
    model = randomize_norms(RandomNet(stem, blocks, flatten))
    layers = [n for n, m in model.named_modules() if isinstance(m, nn.Conv2d | nn.Linear)]
    powers = st.sampled_from([1, 2, 4, 8])
    products = {layer: (data.draw(powers), data.draw(powers)) for layer in layers}
    before, after, _ = rounded(model, table_of(products))
    check_same(model, before, after)
    for layer, width in convolution_widths(after).items():
        assert width % products[layer][0] == 0, (layer, width, products[layer])


def test_padding_passes_through_every_kind_of_layer():
    torch.manual_seed(1)
    model = randomize_norms(Branches(12))
    layers = [n for n, m in model.named_modules() if isinstance(m, nn.Conv2d | nn.Linear)]
    before, after, roundings = rounded(model, table_of(dict.fromkeys(layers, (16, 1))))
    check_same(model, before, after)
    widths = convolution_widths(after)
    assert all(width % 16 == 0 for width in widths.values()), widths
    # Each of the 4 groups has a multiple of 16 channels.
    assert widths["grouped"] == 64
    assert {layer for rounding in roundings for layer in rounding.layers} == set(layers) - {"depthwise"}


def test_a_depthwise_convolution_with_as_many_channels_as_kernel_rows_is_rounded():
    model = randomize_norms(RandomNet(3, [("plain", 3), ("depthwise", 3)], False))
    layers = [n for n, m in model.named_modules() if isinstance(m, nn.Conv2d | nn.Linear)]
    before, after, _ = rounded(model, table_of(dict.fromkeys(layers, (4, 1))))
    check_same(model, before, after)
    assert convolution_widths(after)["body.1.conv"] == 4


def count(mod: tvm.IRModule, *names: str) -> int:
    return sum(operator_name(call) in names for call in calls_of(mod["main"].body))


class Headed(nn.Module):
    """Two convolutions and an optional module between them."""

    def __init__(self, between: nn.Module | None = None) -> None:
        super().__init__()
        self.one, self.two, self.between = nn.Conv2d(3, 6, 3, padding=1), nn.Conv2d(6, 6, 1), between

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.one(x)
        return self.two(self.between(x) if self.between else x)


class Divide(nn.Module):
    """Divides each channel by a parameter, whose padding is zero."""

    def __init__(self, inverse: bool = False) -> None:
        super().__init__()
        self.scale, self.inverse = nn.Parameter(torch.linspace(1, 2, 6).reshape(1, 6, 1, 1)), inverse

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x * (1 / self.scale) if self.inverse else x / self.scale


@pytest.mark.parametrize(
    ("between", "cuts"),
    [
        (nn.Softmax(1), True),
        (nn.GroupNorm(1, 6), True),
        (nn.Sigmoid(), False),
        (nn.Hardswish(), False),
        (nn.SiLU(), False),
        (nn.Tanh(), False),
        (nn.PReLU(6), False),
        (nn.AvgPool2d(3, 1, 1), False),
        (nn.Upsample(scale_factor=2), False),
        (Divide(), True),
        # The padding of the dividend is unknown, too.
        (nn.Sequential(nn.Sigmoid(), nn.AvgPool2d(3, 1, 1), Divide()), True),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, nn.Module) else "",
)
def test_padding_is_cut_only_in_front_of_operators_that_combine_channels(between, cuts):
    torch.manual_seed(2)
    model = Headed(between).eval()
    before, after, _ = rounded(model, table_of({"one": (8, 1), "two": (8, 1)}))
    check_same(model, before, after)
    assert convolution_widths(after) == {"one": 8, "two": 8}
    # One cut restores the six channels of the model's output.
    assert (count(after, "strided_slice", "take") > 1) == cuts


def test_rounding_down_drops_the_least_important_channels_and_no_outputs():
    model = Headed().eval()
    with torch.no_grad():
        model.one.weight[[1, 4]] *= 1e-3
        model.one.bias[[1, 4]] = 0
    before, after, roundings = rounded(model, table_of({"one": (4, 1), "two": (4, 1)}), mode="down")
    assert convolution_widths(after) == {"one": 4, "two": 6}
    assert [(r.layers, r.width, r.new_width) for r in roundings] == [(("one",), 6, 4), (("two",), 6, 6)]
    assert "the model's output" in roundings[1].reason
    data = np.random.default_rng(0).standard_normal(SHAPE).astype("float32")
    np.testing.assert_allclose(run(after, data), run(before, data), atol=1e-2)


def test_given_scores_decide_which_channels_are_dropped():
    model = Headed().eval()
    _, after, _ = rounded(
        model, table_of({"one": (4, 1), "two": (1, 1)}), mode="down", scores={"one": np.arange(6)}
    )
    conv = next(n for n in post_order(after["main"].body) if isinstance(n, relay.Constant))
    kept = model.one.weight.detach().permute(2, 3, 1, 0).numpy()[..., 2:]
    np.testing.assert_array_equal(conv.data.numpy(), kept)


@pytest.mark.parametrize(("width", "new"), [(9, 8), (12, 16), (13, 16)])
def test_nearest_changes_fewer_channels_and_rounds_up_from_the_middle(width, new):
    model = nn.Sequential(nn.Conv2d(3, width, 1), nn.Conv2d(width, 4, 1)).eval()
    _, after, _ = rounded(model, table_of({"0": (8, 1), "1": (1, 1)}), mode="nearest")
    assert convolution_widths(after)["0"] == new


def test_max_growth_limits_rounding_and_a_shrunk_inner_length_is_tried():
    model = nn.Sequential(nn.Conv2d(3, 9, 1), nn.Conv2d(9, 4, 1)).eval()
    table = table_of({"0": (1, 1), "1": (1, 1)})
    splits = (Split(0, "conv", (0,), 0, (4, 4)),)
    row = Row(table.rows[0].task, Program("{}", Latency((1.0,)), splits, ()))
    table = TaskTable((row, table.rows[1]), "llvm", 2, True)
    results = []
    for limit in (None, 0.5, 0.1):
        _, after, roundings = rounded(model, table, max_growth=limit)
        results.append((convolution_widths(after)["0"], roundings[0].reason))
    assert results == [
        (16, "fits every program"),
        (12, "fits every program with one inner length changed"),
        (9, "no width within the limit fits"),
    ]


def test_layers_without_a_program_and_layers_used_twice_keep_their_widths():
    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b, self.c = nn.Conv2d(3, 6, 1), nn.Conv2d(6, 6, 1), nn.Conv2d(6, 6, 1)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.c(self.b(self.b(self.a(x))))

    model = Twice().eval()
    before, after, roundings = rounded(model, table_of({"a": (8, 1), "b": (8, 1)}))
    check_same(model, before, after)
    reasons = {r.layers[0]: (r.new_width, r.reason) for r in roundings}
    assert reasons["a"][0] == 8
    assert reasons["b"] == (6, "its layer is used more than once")
    assert reasons["c"] == (6, "the table has no program of c")


def test_variable_parameters_are_rounded_like_constants():
    torch.manual_seed(3)
    model = randomize_norms(RandomNet(5, [("residual", 4), ("concat", 3), ("squeeze", 3)], True))
    layers = [n for n, m in model.named_modules() if isinstance(m, nn.Conv2d | nn.Linear)]
    mod, params = import_torch(model, SHAPE)
    values = {name: value.numpy() for name, value in params.items()}
    table = table_of(dict.fromkeys(layers, (8, 1)))
    result = round_function(mod["main"], table, RoundingOptions(cut=False), parameters=values)
    data = np.random.default_rng(0).standard_normal(SHAPE).astype("float32")
    after = run(tvm.IRModule({"main": result.function}), data, {**values, **result.parameters})
    np.testing.assert_allclose(after, model(torch.tensor(data)).detach().numpy(), rtol=1e-3, atol=1e-4)
    assert result.parameters["stem.weight"].shape == (8, 3, 3, 3)
    # Padding cannot be cut off the model's output.
    assert next(r for r in result.roundings if r.layers == ("fc",)).new_width == 10


@pytest.mark.parametrize("inverse", [True, False])
def test_no_channel_is_divided_by_padding(inverse: bool):
    model = Headed(Divide(inverse)).eval()
    mod, params = import_torch(model, SHAPE)
    values = {name: value.numpy() for name, value in params.items()}
    table = table_of({"one": (8, 1), "two": (8, 1)})
    result = round_function(mod["main"], table, RoundingOptions(), parameters=values)
    data = np.random.default_rng(0).standard_normal(SHAPE).astype("float32")
    after = run(tvm.IRModule({"main": result.function}), data, {**values, **result.parameters})
    np.testing.assert_allclose(after, model(torch.tensor(data)).detach().numpy(), rtol=1e-3, atol=1e-4)
    assert result.parameters["one.weight"].shape == (8, 3, 3, 3)


@pytest.mark.parametrize("folding", [True, False])
def test_onnx_models_have_layer_names_and_are_rounded(tmp_path: Path, folding: bool):
    torch.manual_seed(4)
    model = randomize_norms(Branches(12))
    path = tmp_path / "model.onnx"
    mode = torch.onnx.TrainingMode.EVAL if folding else torch.onnx.TrainingMode.PRESERVE
    torch.onnx.export(
        model, (torch.zeros(SHAPE),), str(path), dynamo=False, training=mode, do_constant_folding=folding
    )
    relay_model = from_onnx(path)
    layers = {n for n, m in model.named_modules() if isinstance(m, nn.Conv2d | nn.Linear)}
    assert set(relay_model.layers) == layers
    rounding = RoundChannels(table_of(dict.fromkeys(layers, (16, 1))))
    after = rounding(relay_model.mod)
    check_same(model, relay_model.mod, after)
    assert all(width % 16 == 0 for width in convolution_widths(after).values())


def test_the_pass_composes_with_others_and_is_idempotent():
    model = Headed().eval()
    rounding = RoundChannels(table_of({"one": (8, 1), "two": (8, 1)}))
    assert (rounding.info.name, rounding.info.opt_level) == ("RoundChannels", 0)
    assert [str(name) for name in rounding.info.required] == ["InferType"]
    mod = from_torch(model, SHAPE).mod
    after = tvm.transform.Sequential([rounding, relay.transform.FuseOps()])(mod)
    assert after["main"].checked_type is not None
    twice = rounding(rounding(mod))
    assert not any(change.changed for change in rounding.roundings)
    check_same(model, mod, twice)


def test_invalid_arguments_are_refused():
    with pytest.raises(CPruneError, match=r"mode is 'sideways', expected one of up, down, nearest"):
        RoundChannels(table_of({}), mode="sideways")  # type: ignore[arg-type]
    with pytest.raises(CPruneError, match=r"max_growth is -1, expected 0 or more"):
        rounded(Headed().eval(), table_of({}), max_growth=-1)
    with pytest.raises(CPruneError, match=r"layer one has 2 scores, expected 6"):
        rounded(Headed().eval(), table_of({"one": (4, 1)}), mode="down", scores={"one": np.zeros(2)})
