# SPDX-License-Identifier: Apache-2.0
"""The C++ functions behind ``_plugin`` agree with plain Python and check their arguments."""

import gc
import itertools
import math

import psutil
import pytest
from hypothesis import given
from hypothesis import strategies as st

import tvm
from tvm import relay, te
from tvm.contrib.cprune import _plugin


def naive_fitting(width, first, last, round_to, constraints):
    for new in range(first, last + 1) if first <= last else range(first, last - 1, -1):
        extents = [(extent + (new - width) * scale, product) for extent, scale, product in constraints]
        if new > 0 and new % round_to == 0 and all(e > 0 and e % product == 0 for e, product in extents):
            return new
    return 0


numbers = st.integers(1, 64)


@given(
    numbers,
    st.integers(0, 80),
    st.integers(0, 80),
    st.integers(1, 8),
    st.lists(st.tuples(st.integers(1, 256), st.integers(1, 4), numbers), max_size=4),
)
def test_fitting_width_is_the_first_width_that_fits(width, first, last, round_to, constraints):
    new = _plugin.fitting_width(width, first, last, round_to, constraints)
    assert new == naive_fitting(width, first, last, round_to, constraints)


@given(
    st.integers(1, 96),
    st.lists(st.integers(1, 16), min_size=1, max_size=3),
    st.integers(1, 6),
    st.sampled_from([1, 4, 8, 16]),
)
def test_fit_lengths_divide_the_extent_and_the_closest_come_first(extent, lengths, limit, lanes):
    fitted = _plugin.fit_lengths(extent, lengths, limit, lanes)
    assert 1 <= len(fitted) <= limit
    assert len(set(fitted)) == len(fitted)
    assert all(extent % math.prod(new) == 0 and len(new) == len(lengths) for new in fitted)
    if extent % math.prod(lengths) == 0:
        assert fitted == [tuple(lengths)]
    else:
        shorter = range(1, lengths[-1] + 1)
        whole = {n for n in shorter if lanes > 1 and n % lanes == 0}
        vectors = [n for n in shorter if lengths[-1] % n == 0 or n in whole or n <= lanes]
        candidates = itertools.product(*(range(1, 2 * n + 1) for n in lengths[:-1]), vectors)
        legal = [new for new in candidates if extent % math.prod(new) == 0]
        assert len(fitted) == min(limit, len(legal))
        closest = min(distance(lengths, new, lanes) for new in legal)
        assert distance(lengths, fitted[0], lanes) == pytest.approx(closest)


def distance(old, new, lanes):
    steps = [abs(math.log2(b / a)) for a, b in zip(old, new, strict=True)]
    before, after = (-(-lengths[-1] // lanes) * lanes / lengths[-1] for lengths in (old, new))
    unused = 4 * max(0.0, math.log2(after / before))
    return sum(steps[:-1]) + 4 * steps[-1] + abs(math.log2(math.prod(new) / math.prod(old))) + unused


def test_vectors_of_other_targets_than_cpus_divide_the_old_ones():
    # OpenCL has vectors of 2, 3, 4, 8 and 16 elements only.
    assert {lengths[-1] for lengths in _plugin.fit_lengths(60, (1, 2, 8), 20, 1)} == {1, 2, 4}


@pytest.mark.parametrize(
    ("extent", "lengths", "expected"),
    [(48, (1, 1, 64), (1, 1, 48)), (96, (1, 1, 64), (1, 1, 48)), (176, (4, 1, 64), (1, 1, 16))],
)
def test_fitted_vectors_are_whole(extent, lengths, expected):
    assert _plugin.fit_lengths(extent, lengths, 3, 16)[0] == expected


def test_axes_over_the_same_channels_of_a_convolution_share_a_class():
    data = te.placeholder((1, 10, 10, 16), name="data")
    weight = te.placeholder((3, 3, 16, 32), name="weight")
    ry, rx, rc = te.reduce_axis((0, 3)), te.reduce_axis((0, 3)), te.reduce_axis((0, 16))
    conv = te.compute(
        (1, 8, 8, 32),
        lambda n, y, x, f: te.sum(data[n, y + ry, x + rx, rc] * weight[ry, rx, rc, f], [ry, rx, rc]),
    )
    relu = te.compute(conv.shape, lambda *i: te.max(conv[i], 0.0))
    classes = _plugin.axis_classes([data.op, weight.op, conv.op, relu.op])
    d, w, c, r = classes[0:4], classes[4:8], classes[8:15], classes[15:19]
    assert c[6] == d[3] == w[2]  # Input channels.
    assert c[3] == w[3] == r[3]  # Output channels.
    assert c[0] == d[0] == r[0]
    # An index such as y + ry does not link the rows of the data to y or ry.
    assert len({c[1], c[2], c[4], c[5], d[1], d[2], w[0], w[1]}) == 6


def test_subgraphs_are_listed_in_post_order_with_their_anchors():
    x, w = relay.var("x", shape=(1, 4)), relay.var("w", shape=(4, 4))
    p, q = relay.var("p", shape=(1, 4)), relay.var("q", shape=(4, 4))
    dense = relay.Function([p, q], relay.nn.relu(relay.nn.dense(p, q)))
    y = relay.Call(dense, [x, w])
    r = relay.var("r", shape=(1, 4))
    z = relay.Call(relay.Function([r], relay.tanh(r)), [y])
    first, second = _plugin.find_subgraphs(z, ["nn.dense"])
    assert [first[0], second[0]] == [y, z]
    assert [call.op.name for call in first[1:]] == ["nn.dense"]
    assert second[1:] == []
    assert {v.name_hint for v in _plugin.collect_vars(relay.nn.dense(x, w))} == {"x", "w"}


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: _plugin.fitting_width(0, 8, 1, 1, []), "width and round_to must be at least 1"),
        (lambda: _plugin.fit_lengths(8, [0], 1, 1), "must be at least 1"),
        (lambda: _plugin.axis_classes([relay.var("x")]), "cannot read relay.Var"),
        (lambda: _plugin.find_subgraphs(relay.const(1), []), "cprune.FindSubgraphs"),
        (lambda: _plugin._axis_classes(1), "runtime.ArraySize"),
    ],
)
def test_invalid_arguments_raise_an_exception_with_the_cause(call, message):
    with pytest.raises(tvm.TVMError, match="(?s)" + message):
        call()


def test_the_plug_in_releases_its_references():
    before = psutil.Process().memory_info().rss
    for _ in range(200):
        _plugin.collect_vars(relay.add(relay.var("x", shape=(1,)), relay.var("y", shape=(1,))))
    gc.collect()
    assert psutil.Process().memory_info().rss - before < 1 << 20
