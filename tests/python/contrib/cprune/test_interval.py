# SPDX-License-Identifier: Apache-2.0
"""Intervals of an accuracy from a part of the validation split."""

from itertools import pairwise

import numpy as np
import pytest
from scipy import stats

from tvm.contrib.cprune.loop.interval import CONFIDENCE, Interval, wilson_interval

COUNTS = [(0, 10), (1, 10), (9, 10), (10, 10), (689, 1000), (920, 1000), (1000, 1000)]


@pytest.mark.parametrize(("correct", "count"), COUNTS)
def test_the_interval_of_an_unlimited_split_is_scipys(correct, count):
    interval = wilson_interval(correct, count)
    expected = stats.binomtest(correct, count).proportion_ci(CONFIDENCE, method="wilson")
    assert (interval.low, interval.high) == pytest.approx((expected.low, expected.high), abs=1e-12)
    assert 0 <= interval.low <= correct / count <= interval.high <= 1


@pytest.mark.parametrize(("correct", "count"), COUNTS)
def test_the_interval_narrows_as_the_part_approaches_the_split(correct, count):
    sizes = [None, 100 * count, 2 * count, count + 1, count]
    intervals = [wilson_interval(correct, count, size) for size in sizes]
    widths = [interval.high - interval.low for interval in intervals]
    assert all(wide > narrow for wide, narrow in pairwise(widths))
    assert intervals[-1] == Interval(correct / count, correct / count)


@pytest.mark.parametrize("size", [2000, 10_000])
@pytest.mark.parametrize("accuracy", [0.3, 0.69, 0.92, 0.97])
def test_an_accurate_candidate_is_ruled_out_in_less_than_1_percent_of_samples(accuracy, size):
    """Sum the hypergeometric probabilities of all samples whose interval is below the accuracy."""
    count = 1000
    right = round(accuracy * size)
    below = [c for c in range(count + 1) if wilson_interval(c, count, size).high < right / size]
    assert len(below) > 100
    assert stats.hypergeom(size, right, count).pmf(below).sum() < 1 - CONFIDENCE


def test_most_samples_contain_the_accuracy():
    counts = np.arange(1001)
    probability = stats.hypergeom(10_000, 9200, 1000).pmf(counts)
    intervals = [wilson_interval(int(c), 1000, 10_000) for c in counts]
    contains = np.array([interval.low <= 0.92 <= interval.high for interval in intervals])
    assert probability[contains].sum() == pytest.approx(CONFIDENCE, abs=0.004)


@pytest.mark.parametrize(
    ("interval", "text"),
    [(Interval(0.5, 0.5), "0.5000"), (Interval(0.5, 0.75), "between 0.5000 and 0.7500 (99% confidence)")],
)
def test_text_of_an_interval(interval, text):
    assert str(interval) == text
