# SPDX-License-Identifier: Apache-2.0
"""Operator strategies of pinned targets, those with the key ``cprune``.

They are registered through TVM's own mechanism. Targets without the key keep TVM's strategies.
"""

from typing import Any

from tvm.relay.op import OpStrategy
from tvm.relay.op.strategy import generic
from tvm.relay.op.strategy.generic import is_depthwise_conv2d

import tvm
from tvm import auto_scheduler, te, topi
from tvm.contrib.cprune.targets.convolution import conv2d_nhwc
from tvm.contrib.cprune.targets.winograd import winograd_nhwc

KEY = "cprune"


def _without_key(target: tvm.target.Target) -> tvm.target.Target:
    config = dict(target.export())
    config["keys"] = [key for key in target.keys if key != KEY]
    return tvm.target.Target(config)


@generic.conv2d_strategy.register(KEY)
def _direct_conv2d(attrs: Any, inputs: Any, out_type: Any, target: Any) -> OpStrategy:
    """Select direct NHWC convolution on every target.

    TVM would select Winograd by the number of channels; here ``pin_algorithms`` does so, with an operator of
    its own. On Arm, TVM would select a matrix product whose loops fuse pixels and channels, so that no tile
    factor belongs to channels alone. Other layouts use the target's own strategy.
    """
    if attrs.data_layout != "NHWC":
        with _without_key(target) as plain:
            return generic.conv2d_strategy(attrs, inputs, out_type, plain)
    data, kernel = (list(tensor.shape) for tensor in inputs)
    if attrs.groups == 1:
        compute = generic.wrap_compute_conv2d(conv2d_nhwc, need_auto_scheduler_layout=True)
    elif is_depthwise_conv2d(data, "NHWC", kernel, attrs.kernel_layout, attrs.groups):
        compute = generic.wrap_compute_conv2d(topi.nn.depthwise_conv2d_nhwc, need_kernel_layout=True)
    else:
        compute = generic.wrap_compute_conv2d(topi.nn.group_conv2d_nhwc, has_groups=True)
    strategy = OpStrategy()
    strategy.add_implementation(compute, generic.naive_schedule, name="conv2d_nhwc.cprune")
    return strategy


@generic.conv2d_winograd_without_weight_transform_strategy.register(KEY)
def _winograd_conv2d(attrs: Any, inputs: Any, out_type: Any, target: Any) -> OpStrategy:
    """Select NHWC Winograd with any tile size on every target. TVM has it for x86 and one tile size."""

    def compute(
        data: te.Tensor, weight: te.Tensor, _: Any, padding: Any, __: Any, out_dtype: str, layout: str
    ) -> te.Tensor:
        return winograd_nhwc(data, weight, padding, out_dtype, int(attrs.tile_size), layout)

    strategy = OpStrategy()
    strategy.add_implementation(
        generic.wrap_compute_conv2d(compute, need_auto_scheduler_layout=True),
        generic.naive_schedule,
        name="conv2d_nhwc_winograd.cprune",
    )
    return strategy


def _dense(data: te.Tensor, weight: te.Tensor, _: Any, out_dtype: str, layout: str = "") -> te.Tensor:
    """Compute a dense layer whose axes are i, j and k.

    TOPI names them i0, i1 and k. auto_scheduler writes a weight's layout as extents followed by names, and
    cannot parse "1000i1512k", so that every program of TOPI's dense in TVM 0.17 fails to build.
    """
    rows, depth = data.shape
    columns = weight.shape[0]
    if layout:
        columns, depth = auto_scheduler.get_shape_from_rewritten_layout(layout, ["j", "k"])
        auto_scheduler.remove_index_check(weight)
    k = te.reduce_axis((0, depth), name="k")
    result = te.compute(
        (rows, columns),
        lambda i, j: te.sum(data[i, k].astype(out_dtype) * weight[j, k].astype(out_dtype), axis=k),
        name="T_dense",
        tag="dense",
        attrs={"layout_free_placeholders": [weight]},
    )
    return auto_scheduler.rewrite_compute_body(result, layout) if layout else result


@generic.dense_strategy.register(KEY)
def _named_dense(attrs: Any, inputs: Any, out_type: Any, target: Any) -> OpStrategy:
    strategy = OpStrategy()
    strategy.add_implementation(
        generic.wrap_compute_dense(_dense, need_auto_scheduler_layout=True),
        generic.naive_schedule,
        name="dense.cprune",
    )
    return strategy
