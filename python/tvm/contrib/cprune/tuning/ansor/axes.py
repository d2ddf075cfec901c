# SPDX-License-Identifier: Apache-2.0
"""Numbered axes of a compute DAG, those that run over an anchor's channels, and its operations.

Axes are numbered consecutively over ``dag.ops``: the dimensions of a placeholder, or the spatial axes of a
compute operation followed by its reduction axes. ``cprune.AxisClasses`` uses the same numbers.
"""

from typing import Any

from tvm.tir import IntImm

from tvm import te
from tvm.contrib.cprune import _plugin
from tvm.contrib.cprune.types import Axis


def axes_of(dag: Any) -> tuple[Axis, ...]:
    """Return ``(operation, axis, extent)`` for every axis of a compute DAG, ordered by number.

    The extent is 0 if it depends on other axes, as in adaptive pooling.
    """
    axes: list[Axis] = []
    for op in dag.ops:
        if isinstance(op, te.PlaceholderOp):
            shape = op.output(0).shape
            axes += [(str(op.name), f"dim{i}", int(size)) for i, size in enumerate(shape)]
        else:
            iter_vars = [*op.axis, *op.reduce_axis]
            axes += [(str(op.name), str(axis.var.name), _extent(axis)) for axis in iter_vars]
    return tuple(axes)


def first_axes(dag: Any) -> list[tuple[Any, int]]:
    """Return each operation of a compute DAG with the number of its first axis."""
    pairs, number = [], 0
    for op in dag.ops:
        pairs.append((op, number))
        is_input = isinstance(op, te.PlaceholderOp)
        number += len(op.output(0).shape) if is_input else len(op.axis) + len(op.reduce_axis)
    return pairs


def _extent(axis: Any) -> int:
    return int(axis.dom.extent) if isinstance(axis.dom.extent, IntImm | int) else 0


def counted_flops(dag: Any) -> float:
    """Return a compute DAG's floating-point operations, 0 if TVM cannot count them (``flop_ct`` is -1)."""
    return max(float(dag.flop_ct), 0.0)


def channel_axes(dag: Any, anchor: Any) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Return the numbers of the axes over an anchor's output channels and over its input channels.

    Parameters
    ----------
    dag
        The compute DAG of the anchor's fused function.
    anchor
        The Relay call of the convolution or dense layer in that function.

    Notes
    -----
    The last (NHWC, dense) or second (NCHW) dimension of the output is the output channel. Axes of its class
    run over output channels. Axes of the class of the weight's "I" dimension run over input channels. In a
    depthwise convolution, one axis is both. A batched product of activations has no channels.
    """
    if anchor.op.name == "nn.batch_matmul":
        return (), ()
    classes = _plugin.axis_classes(list(dag.ops))
    first_axis = dict(first_axes(dag))
    compute_ops = [op for op in dag.ops if isinstance(op, te.ComputeOp)]
    output = compute_ops[-1]
    out_class = classes[first_axis[output] + _output_channel_dim(anchor, len(output.axis))]
    in_classes = set()
    for op in compute_ops:
        if not (op.reduce_axis and _reads_placeholder(op)):
            continue
        for tensor in op.input_tensors:
            dim = _input_channel_dim(anchor, tensor)
            if dim is not None and isinstance(tensor.op, te.PlaceholderOp):
                in_classes.add(classes[first_axis[tensor.op] + dim])
    if _is_depthwise(anchor):
        in_classes = {out_class}
    out_axes = tuple(number for number, axis_class in enumerate(classes) if axis_class == out_class)
    return out_axes, tuple(number for number, axis_class in enumerate(classes) if axis_class in in_classes)


def _reads_placeholder(op: te.ComputeOp) -> bool:
    return any(isinstance(tensor.op, te.PlaceholderOp) for tensor in op.input_tensors)


def _is_depthwise(anchor: Any) -> bool:
    if anchor.op.name != "nn.conv2d":
        return False
    groups = int(anchor.attrs.groups)
    return groups > 1 and int(anchor.args[0].checked_type.shape[-1]) == groups


def _output_channel_dim(anchor: Any, rank: int) -> int:
    if anchor.op.name == "nn.dense" or str(anchor.attrs.data_layout) == "NHWC":
        return rank - 1
    return 1


def _input_channel_dim(anchor: Any, tensor: Any) -> int | None:
    """Return the dimension of a weight that holds input channels, or None for any other tensor."""
    weight_shape = [int(size) for size in anchor.args[1].checked_type.shape]
    if [int(size) for size in tensor.shape] != weight_shape:
        return None
    if anchor.op.name == "nn.dense":
        return 1
    if anchor.op.name == "nn.conv2d":
        return str(anchor.attrs.kernel_layout).index("I")
    return 3  # Winograd's transformed weight: alpha, alpha, output channel, input channel
