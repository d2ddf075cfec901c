# SPDX-License-Identifier: Apache-2.0
"""A device that times a chain of convolutions by a formula, for tests of methods that predict latencies."""

import itertools
from collections.abc import Mapping

import numpy as np

from tvm.contrib.cprune.loop.journal import Journal

# Channel groups of a chain of convolutions with 3x3 kernels, and the pixels of their layers.
FULL = {"a": 64, "b": 64, "c": 128, "d": 128, "e": 256, "f": 256}
PIXELS = {"a": 1024, "b": 1024, "c": 256, "d": 256, "e": 64, "f": 64}


class Device:
    """Times the chain by its operations and the bytes of its weights, 1e11 and 2e9 per second.

    A layer alone reads its weights from memory. A whole model does so only if they exceed the cache of 1 MB.
    """

    def __init__(self, seed: int) -> None:
        self.generator = np.random.default_rng(seed)

    def parts(self, widths: Mapping[str, int]) -> dict[str, tuple[float, float]]:
        """Return the seconds of operations and of memory of each layer."""
        ends = zip(widths, itertools.pairwise([3, *widths.values()]), strict=True)
        weights = {root: 9 * width_in * width_out for root, (width_in, width_out) in ends}
        parts = {root: (count * PIXELS[root] / 1e11, count / 5e8) for root, count in weights.items()}
        return {**parts, "out": (5e-6, 10 * widths["f"] / 5e8)}

    def layers(self, widths: Mapping[str, int]) -> dict[str, float]:
        return {layer: sum(parts) for layer, parts in self.parts(widths).items()}

    def model(self, widths: Mapping[str, int]) -> float:
        """Return the latency of a model, with an error of up to 2 %."""
        operations, memory = np.sum(list(self.parts(widths).values()), axis=0)
        misses = 1 / (1 + (1e6 / (memory * 2e9)) ** 8)
        return float((operations + misses * memory) * self.generator.uniform(0.98, 1.02))

    def journal_staircases(self, journal: Journal) -> float:
        """Journal the unpruned model and the staircases of all groups, and return its latency."""
        unpruned = self.model(FULL)
        journal.append({"event": "baseline", "accuracy_val": 0.9, "latency_s": [unpruned]})
        for (root, full), users in zip(FULL.items(), itertools.pairwise([*FULL, "out"]), strict=True):
            widths = [*range(full, 0, -full // 8)]
            times = [self.layers({**FULL, root: width}) for width in widths]
            layers = {layer: [seconds[layer] for seconds in times] for layer in users}
            journal.append({"event": "staircase", "root": root, "widths": widths, "layers_s": layers})
        return unpruned
