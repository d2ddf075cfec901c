# SPDX-License-Identifier: Apache-2.0
"""Timing loops around TVM's time evaluator, for local and for remote devices."""

import math
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

import tvm
from tvm.contrib.cprune.measuring.result import Costs

# Maximum repeat multiplier for short programs.
MAX_REPEAT_FACTOR = 10
# Standard deviation of random weights.
WEIGHT_SCALE = 0.1


def time_program(
    module: Any, device: Any, args: Sequence[Any], repeats: int, min_seconds: float, prepare: str
) -> Costs:
    """Time a program after one warm-up run.

    Parameters
    ----------
    repeats
        Minimum number of timed runs.
    min_seconds
        Increase the number of runs until together they take this long, up to ``MAX_REPEAT_FACTOR`` times
        ``repeats``.
    prepare
        Name of a registered function to call before each run, or "".

    Returns
    -------
    The seconds of each run.
    """

    def evaluate(count: int) -> Costs:
        timer = module.time_evaluator(module.entry_name, device, number=1, repeat=count, f_preproc=prepare)
        return tuple(float(cost) for cost in timer(*args).results)

    if min_seconds:
        (cost,) = evaluate(1)
        needed = math.ceil(min_seconds / max(cost, 1e-9))
        repeats = min(MAX_REPEAT_FACTOR * repeats, max(repeats, needed))
    return evaluate(repeats)


def time_alternately(
    models: Sequence[Any], device: Any, input_name: str, data: np.ndarray, repeats: int
) -> list[Costs]:
    """Time graph executors in turn, one run at a time, so that drift affects all of them equally.

    Returns
    -------
    For each model the seconds of its ``repeats`` runs.
    """
    for model in models:
        model.set_input(input_name, tvm.nd.array(data, device))
        model.run()
        model.run()
    timers = [model.module.time_evaluator("run", device, number=1, repeat=1) for model in models]
    costs: list[list[float]] = [[] for _ in models]
    pairs = list(zip(timers, costs, strict=True))
    for number in range(repeats):
        # Every other time in reverse order: a steady drift then cancels between two runs of each model.
        for timer, model_costs in pairs if number % 2 == 0 else reversed(pairs):
            model_costs.append(float(timer().results[0]))
    return [tuple(model_costs) for model_costs in costs]


def fill_weights(model: Any, names: Iterable[str]) -> None:
    """Set weights of a graph executor to random values.

    Their standard deviation keeps the activations of most networks far from subnormal numbers, which slow
    down some processors.
    """
    shapes, _ = model.get_input_info()
    block = np.random.default_rng(0).normal(scale=WEIGHT_SCALE, size=1 << 16).astype("float32")
    for name in names:
        model.get_input(name).copyfrom(np.resize(block, [int(size) for size in shapes[name]]))


def all_outputs(model: Any, device: Any, input_name: str, data: np.ndarray) -> list[np.ndarray]:
    """Run a graph executor once and return its outputs."""
    model.set_input(input_name, tvm.nd.array(data, device))
    model.run()
    return [model.get_output(number).numpy() for number in range(model.get_num_outputs())]
