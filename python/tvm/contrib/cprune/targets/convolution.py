# SPDX-License-Identifier: Apache-2.0
"""Direct convolution in NHWC for auto_scheduler, without a stage for padding where there is none.

TOPI's convolution (python/tvm/topi/nn/conv2d.py) always reads from a padded copy of its input. Without
padding, as in 1x1 convolutions, auto_scheduler does not always remove this copy.
"""

from collections.abc import Sequence
from typing import Any

from tvm import auto_scheduler, te, topi

Pair = int | Sequence[int]


def conv2d_nhwc(
    data: te.Tensor,
    weight: te.Tensor,
    strides: Pair,
    padding: Any,
    dilation: Pair,
    out_dtype: str,
    layout: str = "",
) -> te.Tensor:
    """Compute a convolution.

    Parameters
    ----------
    data
        Input of shape ``(N, H, W, I)``.
    weight
        Kernel of shape ``(KH, KW, I, O)``, or in the layout of an auto_scheduler program.
    strides, dilation
        One number, or one for each of the height and the width.
    padding
        As in ``relay.nn.conv2d``: one number, two for height and width, or four.
    layout
        auto_scheduler's layout of the weight, "" if the weight is not packed.

    Returns
    -------
    The output of shape ``(N, OH, OW, O)``.
    """
    if any(int(size) for size in ([padding] if isinstance(padding, int) else padding)):
        return topi.nn.conv2d_nhwc(data, weight, strides, padding, dilation, out_dtype, layout)
    (stride_y, stride_x), (dilation_y, dilation_x) = _pair(strides), _pair(dilation)
    sizes = weight.shape
    if layout:
        sizes = auto_scheduler.get_shape_from_rewritten_layout(layout, ["ry", "rx", "rc", "ff"])
        auto_scheduler.remove_index_check(weight)
    kernel_y, kernel_x, _, outputs = (int(size) for size in sizes)
    batch, height, width, inputs = (int(size) for size in data.shape)
    ry, rx = te.reduce_axis((0, kernel_y), name="ry"), te.reduce_axis((0, kernel_x), name="rx")
    rc = te.reduce_axis((0, inputs), name="rc")
    rows = (height - dilation_y * (kernel_y - 1) - 1) // stride_y + 1
    columns = (width - dilation_x * (kernel_x - 1) - 1) // stride_x + 1
    result = te.compute(
        (batch, rows, columns, outputs),
        lambda nn, yy, xx, ff: te.sum(
            data[nn, yy * stride_y + ry * dilation_y, xx * stride_x + rx * dilation_x, rc].astype(out_dtype)
            * weight[ry, rx, rc, ff].astype(out_dtype),
            axis=[ry, rx, rc],
        ),
        name="conv2d_nhwc",
        tag="conv2d_nhwc",
        attrs={"layout_free_placeholders": [weight]},
    )
    return auto_scheduler.rewrite_compute_body(result, layout) if layout else result


def _pair(value: Pair) -> tuple[int, int]:
    if isinstance(value, int):
        return value, value
    first, second = value
    return int(first), int(second)
