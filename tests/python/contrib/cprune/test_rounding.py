# SPDX-License-Identifier: Apache-2.0
"""RoundChannels yields widths that fit and equal outputs, whatever is between two layers."""

from pathlib import Path

import numpy as np
import pytest
import torch
from networks import Branches, randomize_norms
from programs import table_of
from rounding_checks import SHAPE, check_same, convolution_widths, rounded, run
from torch import nn

import tvm
from tvm import relay
from tvm.contrib.cprune import from_torch
from tvm.contrib.cprune.importers.from_onnx import from_onnx
from tvm.contrib.cprune.importers.from_torch import import_torch
from tvm.contrib.cprune.table import Row, TaskTable
from tvm.contrib.cprune.transform import RoundChannels
from tvm.contrib.cprune.transform.relay_graph import calls_of, operator_name, post_order
from tvm.contrib.cprune.transform.rounding.round_channels import round_function
from tvm.contrib.cprune.transform.rounding.widths import RoundingOptions
from tvm.contrib.cprune.types import CPruneError, Latency, Program, Split


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
