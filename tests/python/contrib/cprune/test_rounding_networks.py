# SPDX-License-Identifier: Apache-2.0
"""RoundChannels on whole networks, among them random ones."""

import numpy as np
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from networks import Branches, randomize_norms
from programs import table_of
from rounding_checks import SHAPE, check_same, convolution_widths, rounded, run
from torch import nn

import tvm
from tvm.contrib.cprune.importers.from_torch import import_torch
from tvm.contrib.cprune.transform.rounding.round_channels import round_function
from tvm.contrib.cprune.transform.rounding.widths import RoundingOptions


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
