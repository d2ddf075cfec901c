# SPDX-License-Identifier: Apache-2.0
"""The rule of every supported operator."""

from tvm.contrib.cprune.transform.rounding import elementwise_rules as elementwise
from tvm.contrib.cprune.transform.rounding import shape_rules as shapes
from tvm.contrib.cprune.transform.rounding.padding import ARITHMETIC, SCALAR_FUNCTIONS, UNBOUNDED
from tvm.contrib.cprune.transform.rounding.rule import Rule

_REDUCTIONS = ("max", "mean", "min", "sum")
_SPATIAL = (
    "image.resize2d",
    "nn.adaptive_avg_pool2d",
    "nn.adaptive_max_pool2d",
    "nn.avg_pool2d",
    "nn.global_avg_pool2d",
    "nn.global_max_pool2d",
    "nn.max_pool2d",
    "nn.upsampling",
)
RULES: dict[str, Rule] = {
    **{
        name: elementwise.scalar_function(function, name not in UNBOUNDED)
        for name, function in SCALAR_FUNCTIONS.items()
    },
    **dict.fromkeys(ARITHMETIC, elementwise.binary),
    **dict.fromkeys(_REDUCTIONS, shapes.reduce),
    **dict.fromkeys(_SPATIAL, shapes.spatial),
    "clip": elementwise.clip,
    "concatenate": shapes.concatenate,
    "copy": elementwise.identity,
    "expand_dims": shapes.expand_dims,
    "layout_transform": shapes.layout_transform,
    "nn.batch_flatten": shapes.reshape,
    "nn.batch_norm": elementwise.batch_norm,
    "nn.bias_add": elementwise.bias_add,
    "nn.dropout": elementwise.identity,
    "nn.leaky_relu": elementwise.leaky_relu,
    "nn.pad": shapes.pad,
    "nn.prelu": elementwise.prelu,
    "reshape": shapes.reshape,
    "squeeze": shapes.squeeze,
    "transpose": shapes.transpose,
}
