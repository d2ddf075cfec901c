# SPDX-License-Identifier: Apache-2.0
"""The axes of a compute DAG, numbered, and which of them run over an anchor's channels.

Axes are numbered through ``dag.ops`` in turn: a placeholder's dimensions, a compute operation's spatial and
then its reduction axes, as ``cprune.AxisClasses`` numbers them.
"""

from typing import Any

from tvm.tir import IntImm

from tvm import te
from tvm.contrib.cprune import _plugin
from tvm.contrib.cprune.types import Axis


def axes_of(dag: Any) -> tuple[Axis, ...]:
    """Return ``(operation, axis, extent)`` of every axis of a compute DAG, in the order of their numbers.

    The extent is 0 where it depends on other axes, as in an adaptive pooling.
    """
    axes: list[Axis] = []
    for op in dag.ops:
        if isinstance(op, te.PlaceholderOp):
            shape = op.output(0).shape
            axes += [(str(op.name), f"dim{i}", int(size)) for i, size in enumerate(shape)]
        else:
            every = [*op.axis, *op.reduce_axis]
            axes += [(str(op.name), str(axis.var.name), _extent(axis)) for axis in every]
    return tuple(axes)


def _extent(axis: Any) -> int:
    return int(axis.dom.extent) if isinstance(axis.dom.extent, IntImm | int) else 0


def channel_axes(dag: Any, anchor: Any) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Return the numbers of the axes over an anchor's output channels, and of those over its input channels.

    Parameters
    ----------
    dag
        The compute DAG of the anchor's fused function.
    anchor
        The Relay call of the convolution or dense layer in that function.

    Notes
    -----
    The output's last (NHWC, dense) or second (NCHW) dimension is the output channel's. A reduction axis of
    the anchor is an input channel's where its class reaches the "I" dimension of the weight. In a depthwise
    convolution the output channel's class reaches the data as well: one axis is both.
    """
    classes = _plugin.axis_classes(list(dag.ops))
    first, numbers = {}, 0
    for op in dag.ops:
        first[op] = numbers
        numbers += (
            len(op.output(0).shape)
            if isinstance(op, te.PlaceholderOp)
            else len(op.axis) + len(op.reduce_axis)
        )

    output = next(op for op in reversed(list(dag.ops)) if isinstance(op, te.ComputeOp))
    out_class = classes[first[output] + _channel_dim(anchor, len(output.axis))]
    reducing = [op for op in dag.ops if isinstance(op, te.ComputeOp) and op.reduce_axis and _reads_weight(op)]
    in_classes = set()
    for op in reducing:
        for tensor in op.input_tensors:
            dim = _input_dim(anchor, tensor)
            if dim is not None and isinstance(tensor.op, te.PlaceholderOp):
                in_classes.add(classes[first[tensor.op] + dim])
    if _is_depthwise(anchor):
        in_classes = {out_class}
    out = tuple(i for i, each in enumerate(classes) if each == out_class)
    return out, tuple(i for i, each in enumerate(classes) if each in in_classes)


def _reads_weight(op: te.ComputeOp) -> bool:
    return any(isinstance(tensor.op, te.PlaceholderOp) for tensor in op.input_tensors)


def _is_depthwise(anchor: Any) -> bool:
    if anchor.op.name != "nn.conv2d":
        return False
    groups = int(anchor.attrs.groups)
    return groups > 1 and int(anchor.args[0].checked_type.shape[-1]) == groups


def _channel_dim(anchor: Any, rank: int) -> int:
    if anchor.op.name == "nn.dense" or str(anchor.attrs.data_layout) == "NHWC":
        return rank - 1
    return 1


def _input_dim(anchor: Any, tensor: Any) -> int | None:
    """Return which dimension of ``tensor`` holds input channels, if its shape is that of the anchor's
    weight."""
    shape = [int(size) for size in anchor.args[1].checked_type.shape]
    if [int(size) for size in tensor.shape] != shape:
        return None
    if anchor.op.name == "nn.dense":
        return 1
    if anchor.op.name == "nn.conv2d":
        return str(anchor.attrs.kernel_layout).index("I")
    return 3  # Winograd's transformed weight: alpha, alpha, output channel, input channel
