# SPDX-License-Identifier: Apache-2.0
"""Winograd convolution F(m x m, 3 x 3) in NHWC with transformed weights, for auto_scheduler.

TOPI's definition (topi/nn/conv2d.py, ``conv2d_winograd_nhwc_without_weight_transform``) has a tile size of
4. It pads rows by the number of tiles in a row, and does not compile for images much taller than wide. The
operations here have TOPI's names.
"""

from typing import Any

from tvm.topi.nn import pad
from tvm.topi.nn.utils import get_pad_tuple
from tvm.topi.nn.winograd_util import winograd_transform_matrices
from tvm.topi.utils import get_const_tuple

from tvm import auto_scheduler, te

KERNEL = 3
# Tile sizes to choose from.
TILES = (2, 4, 6)
# Attribute of an operation: axes that auto_scheduler unrolls.
UNROLLED = "auto_scheduler_simplify_const_tensor_indices"
# Floating-point operations that a processor does in the time that one byte of weights from memory adds to
# the product's, or in which it writes and reads one byte of transformed data in its second-level cache.
OPERATIONS_PER_BYTE, OPERATIONS_PER_CACHED_BYTE = 4.0, 2.0


def best_tile(rows: int, columns: int, inputs: int, outputs: int) -> int:
    """Return the tile size with the least estimated time for one image.

    Parameters
    ----------
    rows, columns
        Size of the output.
    inputs, outputs
        Numbers of channels.

    Notes
    -----
    A large tile needs fewer multiplications for the product. But its transforms take more operations, its
    weights more bytes, and a larger part of the last tiles lies outside the image.
    """

    def cost(tile: int) -> float:
        alpha, tiles = tile + KERNEL - 1, -(-rows // tile) * -(-columns // tile)
        points = alpha**2
        product = 2.0 * points * tiles * inputs * outputs
        transforms = 2.0 * tiles * (2 * alpha * points * inputs + alpha * tile * (alpha + tile) * outputs)
        weights, transformed = 4.0 * points * inputs * outputs, 4.0 * points * tiles * (inputs + outputs)
        moved = OPERATIONS_PER_BYTE * weights + OPERATIONS_PER_CACHED_BYTE * transformed
        return product + transforms + moved

    return min(TILES, key=cost)


def winograd_nhwc(
    data: te.Tensor,
    weight: te.Tensor,
    padding: Any,
    out_dtype: str,
    tile: int,
    layout: str = "",
) -> te.Tensor:
    """Compute a convolution with a kernel of 3x3 and a stride of 1.

    Parameters
    ----------
    data
        Shape ``(N, H, W, CI)``.
    weight
        Transformed weight of shape ``(m + 2, m + 2, CO, CI)``, or what auto_scheduler rewrote it to.
    padding
        Padding of rows and columns, as ``get_pad_tuple`` accepts it.
    tile
        Tile size m: rows and columns of the output that a tile computes.
    layout
        Layout of a weight that auto_scheduler has rewritten.

    Returns
    -------
    te.Tensor
        Shape ``(N, H', W', CO)``.
    """
    batch, height, width, _ = get_const_tuple(data.shape)
    top, left, bottom, right = get_pad_tuple(padding, (KERNEL, KERNEL))
    rows, columns = height + top + bottom - KERNEL + 1, width + left + right - KERNEL + 1
    tile_rows, tile_columns = -(-rows // tile), -(-columns // tile)
    bottom, right = bottom + tile_rows * tile - rows, right + tile_columns * tile - columns
    padded = pad(data, (0, top, left, 0), (0, bottom, right, 0), name="data_pad")
    inverse_matrix, data_matrix, _ = winograd_transform_matrices(tile, KERNEL, out_dtype)
    input_tile = _tiles(padded, tile, tile_rows, tile_columns)
    data_pack = _transform(input_tile, data_matrix, "data_pack")
    inverse = _transform(_product(data_pack, weight, layout), inverse_matrix, "inverse")
    return te.compute(
        (batch, rows, columns, get_const_tuple(inverse.shape)[3]),
        lambda n, h, w, co: inverse[
            h % tile, w % tile, (n * tile_rows + h // tile) * tile_columns + w // tile, co
        ],
        name="conv2d_winograd",
    )


def _tiles(padded: te.Tensor, tile: int, tile_rows: int, tile_columns: int) -> te.Tensor:
    """Return the overlapping tiles of padded images; shape ``(m + 2, m + 2, tiles, CI)``."""
    batch, _, _, inputs = get_const_tuple(padded.shape)
    alpha = tile + KERNEL - 1
    return te.compute(
        (alpha, alpha, batch * tile_rows * tile_columns, inputs),
        lambda eps, nu, p, ci: padded[
            p // (tile_rows * tile_columns),
            p // tile_columns % tile_rows * tile + eps,
            p % tile_columns * tile + nu,
            ci,
        ],
        name="input_tile",
    )


def _product(data_pack: te.Tensor, weight: te.Tensor, layout: str) -> te.Tensor:
    """Multiply the transformed tiles by the transformed weight, for each of the points of a tile."""
    alpha, _, tiles, inputs = get_const_tuple(data_pack.shape)
    shape = get_const_tuple(weight.shape)
    if layout:
        shape = auto_scheduler.get_shape_from_rewritten_layout(layout, ["eps", "nu", "co", "ci"])
        auto_scheduler.remove_index_check(weight)
    ci = te.reduce_axis((0, inputs), name="ci")
    product = te.compute(
        (alpha, alpha, tiles, get_const_tuple(shape)[2]),
        lambda eps, nu, p, co: te.sum(data_pack[eps, nu, p, ci] * weight[eps, nu, co, ci], axis=[ci]),
        name="bgemm",
        attrs={"layout_free_placeholders": [weight]},
    )
    return auto_scheduler.rewrite_compute_body(product, layout) if layout else product


def _transform(source: te.Tensor, matrix: te.Tensor, name: str) -> te.Tensor:
    """Multiply each tile from both sides, ``matrix.T @ tile @ matrix``, by one product after the other.

    auto_scheduler unrolls the loops over a tile, so that the elements of the matrix become constants.
    """
    alpha, columns, tiles, channels = get_const_tuple(source.shape)
    size = get_const_tuple(matrix.shape)[1]
    row, column = te.reduce_axis((0, alpha), "row"), te.reduce_axis((0, alpha), "column")
    left = te.compute(
        (size, columns, tiles, channels),
        lambda i, j, p, channel: te.sum(source[row, j, p, channel] * matrix[row, i], axis=[row]),
        name=f"{name}_left",
        attrs={UNROLLED: ["i", "j", "row"]},
    )
    return te.compute(
        (size, size, tiles, channels),
        lambda i, j, p, channel: te.sum(left[i, column, p, channel] * matrix[column, j], axis=[column]),
        name=name,
        attrs={UNROLLED: ["i", "j", "column"]},
    )
