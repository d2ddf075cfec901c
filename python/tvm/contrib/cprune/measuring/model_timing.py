# SPDX-License-Identifier: Apache-2.0
"""How often compiled models are timed, and how long that may take."""

from collections.abc import Callable

from tvm.contrib.cprune.measuring.result import Costs

# Seconds for loading models and running each of them for the first time.
FIRST_RUN_TIMEOUT = 300.0
# Seconds of timed runs in one call. Slow models get fewer repeats than requested, but no fewer than this.
TIME_BUDGET, MIN_REPEATS = 60.0, 5
# How many times as long as in the first run the models may take.
SLOWDOWN_LIMIT = 5.0


def time_within_budget(run: Callable[[int, float], list[Costs]], repeats: int) -> list[Costs]:
    """Time models as often as a time budget allows.

    Parameters
    ----------
    run
        ``run(repeats, timeout)`` times every model ``repeats`` times within ``timeout`` seconds.
    repeats
        Maximum number of runs of each model.

    Returns
    -------
    For each model the seconds of its runs, of which all models have the same number.
    """
    first = run(1, FIRST_RUN_TIMEOUT)
    seconds = sum(costs[0] for costs in first)
    affordable = max(MIN_REPEATS, int(TIME_BUDGET / max(seconds, 1e-9)))
    repeats = min(repeats, affordable)
    return run(repeats, FIRST_RUN_TIMEOUT + SLOWDOWN_LIMIT * repeats * seconds)
