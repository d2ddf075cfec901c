# SPDX-License-Identifier: Apache-2.0
"""What a sample of the validation split says about the accuracy on the whole split."""

import math
import statistics
from dataclasses import dataclass

# Probability that an interval contains the accuracy.
CONFIDENCE = 0.99


@dataclass(frozen=True)
class Interval:
    """The accuracies, in [0, 1], that an evaluation leaves possible; one if it read the whole split."""

    low: float
    high: float

    def __str__(self) -> str:
        if self.low == self.high:
            return f"{self.high:.4f}"
        return f"between {self.low:.4f} and {self.high:.4f} ({CONFIDENCE:.0%} confidence)"


def wilson_interval(correct: int, count: int, size: int | None = None) -> Interval:
    """Return Wilson's score interval of the accuracy on a split from a random sample of its images.

    The interval contains each accuracy p from which correct / count deviates by at most z standard errors
    (Wilson, JASA 1927). The sample is drawn without replacement: the squared standard error is
    p * (1 - p) / count * (size - count) / (size - 1), the variance of the hypergeometric distribution.

    Parameters
    ----------
    correct, count
        Number of correctly classified images in the sample, and number of all images in it.
    size
        Number of images in the split. None means unknown, and gives the wider interval of a sample from an
        unlimited number of images.
    """
    share = correct / count
    if count == size:
        return Interval(share, share)
    z = statistics.NormalDist().inv_cdf((1 + CONFIDENCE) / 2)
    spread = z**2 / count * (1 if size is None else (size - count) / (size - 1))
    center, half = share + spread / 2, math.sqrt(spread * (share * (1 - share) + spread / 4))
    low, high = (center - half) / (1 + spread), (center + half) / (1 + spread)
    # Rounding must not exclude the share itself.
    return Interval(max(0.0, min(low, share)), min(1.0, max(high, share)))
