# SPDX-License-Identifier: Apache-2.0
"""Direct convolution without a copy of its input where there is no padding."""

import numpy as np
import pytest
import torch
from torch.nn import functional

import tvm
from tvm import te
from tvm.contrib.cprune.targets.convolution import conv2d_nhwc

# Kernel, strides, padding and dilation.
UNPADDED = [
    ((1, 1), (1, 1), 0, (1, 1)),
    ((1, 1), 2, (0, 0), 1),
    ((3, 3), (1, 1), (0, 0, 0, 0), (1, 1)),
    ((3, 2), (2, 1), (0, 0), (1, 1)),
    ((2, 3), (1, 2), (0, 0), (2, 3)),
]
PADDED = [((3, 3), (1, 1), 1, (1, 1)), ((1, 1), (2, 2), (1, 0), (1, 1)), ((3, 3), 1, (0, 1, 2, 0), 1)]


def convolve(kernel, strides, padding, dilation):
    """Return the output of random data in TVM and in PyTorch, and the names of TVM's operations."""
    random = np.random.default_rng(0)
    data = random.standard_normal((2, 9, 11, 5)).astype("float32")
    weight = random.standard_normal((*kernel, 5, 7)).astype("float32")
    source, kernels = te.placeholder(data.shape, name="data"), te.placeholder(weight.shape, name="weight")
    output = conv2d_nhwc(source, kernels, strides, padding, dilation, "float32")
    function = te.create_prim_func([source, kernels, output])
    result = tvm.nd.empty([int(size) for size in output.shape])
    tvm.build(function, target="llvm")(tvm.nd.array(data), tvm.nd.array(weight), result)
    sides = {1: lambda p: p * 4, 2: lambda p: (*p, *p), 4: lambda p: p}
    given = (padding,) if isinstance(padding, int) else padding
    top, left, bottom, right = sides[len(given)](given)
    padded = functional.pad(torch.tensor(data).permute(0, 3, 1, 2), (left, right, top, bottom))
    expected = functional.conv2d(
        padded, torch.tensor(weight).permute(3, 2, 0, 1), stride=strides, dilation=dilation
    ).permute(0, 2, 3, 1)
    names, pending = set(), [output.op]
    while pending:
        op = pending.pop()
        names.add(op.name)
        pending += [tensor.op for tensor in op.input_tensors]
    return result.numpy(), expected.numpy(), names


@pytest.mark.parametrize("settings", UNPADDED, ids=str)
def test_no_padding_needs_no_copy(settings):
    actual, expected, names = convolve(*settings)
    np.testing.assert_allclose(actual, expected, rtol=1e-4, atol=1e-4)
    assert names == {"data", "weight", "conv2d_nhwc"}


@pytest.mark.parametrize("settings", PADDED, ids=str)
def test_padding_is_topis(settings):
    actual, expected, names = convolve(*settings)
    np.testing.assert_allclose(actual, expected, rtol=1e-4, atol=1e-4)
    assert "pad_temp" in names
