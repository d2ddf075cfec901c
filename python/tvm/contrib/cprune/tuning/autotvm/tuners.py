# SPDX-License-Identifier: Apache-2.0
"""AutoTVM's tuners by strategy, and the random generators that they draw from."""

import math
import random
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
from tvm.autotvm.tuner import GATuner, GridSearchTuner, RandomTuner, XGBTuner

from tvm import autotvm
from tvm.contrib.cprune.config import TuneConfig
from tvm.contrib.cprune.targets.target import host_threads

# The genetic algorithm keeps the best three configurations of a population.
MIN_POPULATION = 3
# Loss and features of the cost models. For features of the loops (itervar), TVM lowers every program.
_COST_MODELS = {
    "xgb": ("reg", "itervar"),
    "xgb-rank": ("rank-binary", "itervar"),
    "xgb-knob": ("reg", "knob"),
}


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Return a context in which Python's and NumPy's global random generators are seeded.

    AutoTVM's tuners draw from both. At the end of the context, the generators continue where they were.
    """
    python, numpy = random.getstate(), np.random.get_state()
    random.seed(seed)
    np.random.seed(seed % (1 << 32))
    try:
        yield
    finally:
        random.setstate(python)
        np.random.set_state(numpy)


def make_tuner(tvm_task: autotvm.task.Task, config: TuneConfig) -> Any:
    """Return the tuner of an AutoTVM task for the configured strategy."""
    if config.strategy == "ga":
        return GATuner(tvm_task, pop_size=max(MIN_POPULATION, min(config.trials, 50)))
    if config.strategy == "random":
        return RandomTuner(tvm_task)
    if config.strategy == "gridsearch":
        return StridedGridTuner(tvm_task)
    loss, features = _COST_MODELS[config.strategy]
    return XGBTuner(tvm_task, config.batch, features, loss, num_threads=host_threads())


class StridedGridTuner(GridSearchTuner):
    """Grid search in even strides, which visits each configuration once.

    TVM's grid search visits configurations in order. With a realistic number of trials, it only reaches those
    whose inner lengths are all 1.
    """

    def __init__(self, task: Any) -> None:
        super().__init__(task)
        self._next_index = 0
        # Multiples of the golden ratio, modulo the range, are spread evenly for any number of trials. The
        # stride must be coprime to the range to visit every configuration.
        self._stride = max(1, round(self.range_length * (math.sqrt(5) - 1) / 2))
        while math.gcd(self._stride, self.range_length) > 1:
            self._stride += 1

    def next_batch(self, batch_size: int) -> list[Any]:
        """Return the next configurations, at most ``batch_size``."""
        configs: list[Any] = []
        while len(configs) < batch_size and self.has_next():
            if self.space.is_index_valid(self._next_index):
                self.visited.append(self._next_index)
                configs.append(self.space.get(self._next_index))
            self._next_index = (self._next_index + self._stride) % self.range_length
        return configs
