# SPDX-License-Identifier: Apache-2.0
"""From a module that a frontend returned to a ``RelayModel``."""

from collections.abc import Mapping
from typing import Any

from tvm.relay import transform as relay_transform

import tvm
from tvm.contrib.cprune.transform.label_layers import LabelLayers, anchor_layers
from tvm.contrib.cprune.transform.prepare import prepare
from tvm.contrib.cprune.types import RelayModel


def label_layers(mod: tvm.IRModule) -> tvm.IRModule:
    """Return an imported module with types and with layer names in the spans of its anchors."""
    passes = [relay_transform.InferType(), LabelLayers(), relay_transform.InferType()]
    return tvm.transform.Sequential(passes)(mod)


# Operators with one layout for input and output.
_ONE_LAYOUT = (
    "image.resize2d",
    "nn.avg_pool2d",
    "nn.global_avg_pool2d",
    "nn.global_max_pool2d",
    "nn.max_pool2d",
)
# Convolutions that keep their layout.
_UNCHANGED = ("nn.conv2d_transpose", "nn.deformable_conv2d")


def _desired_layouts(layout: str) -> dict[str, list[str]]:
    """Return the layouts that ``ConvertLayout`` expects; it warns about each operator that lacks them."""
    layouts = {"nn.conv2d": [layout, "default"]}
    layouts |= {name: [layout] for name in _ONE_LAYOUT}
    return layouts | {name: ["NCHW", "default"] for name in _UNCHANGED}


def to_relay_model(
    mod: tvm.IRModule, params: Mapping[str, Any], input_shape: tuple[int, ...], layout: str
) -> RelayModel:
    """Convert the convolutions of an imported NCHW module to ``layout`` and fold its parameters."""
    if layout != "NCHW":
        with tvm.transform.PassContext(opt_level=3):
            # ConvertLayout does not pass a bias_add, but passes the equivalent add.
            convert = relay_transform.ConvertLayout(_desired_layouts(layout))
            passes = [relay_transform.InferType(), relay_transform.CanonicalizeOps(), convert]
            mod = tvm.transform.Sequential(passes)(mod)
    mod = prepare(mod, params)
    return RelayModel(mod, tuple(input_shape), anchor_layers(mod))
