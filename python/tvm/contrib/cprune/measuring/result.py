# SPDX-License-Identifier: Apache-2.0
"""Values that worker processes return, and their conversion to TVM's measurement results."""

import time
from dataclasses import dataclass

from tvm import auto_scheduler

# Shape and data type of each argument of a program.
ArgSpecs = list[tuple[tuple[int, ...], str]]
# Seconds of each timed run.
Costs = tuple[float, ...]
# The cost that auto_scheduler assigns to failed programs.
MAX_COST = 1e10


@dataclass(frozen=True)
class Failure:
    """Why a program failed to build or run; ``error_no`` is one of TVM's ``MeasureErrorNo``."""

    error_no: int
    message: str


@dataclass(frozen=True)
class DeviceLost:
    """The device stopped responding. The program that it ran is not to blame and is tried elsewhere."""

    reason: str


def to_measure_result(outcome: Costs | Failure, build_seconds: float) -> auto_scheduler.MeasureResult:
    """Convert the outcome of building and timing a program to auto_scheduler's type."""
    if isinstance(outcome, Failure):
        costs, error = [MAX_COST], (outcome.error_no, outcome.message)
        return auto_scheduler.MeasureResult(costs, *error, build_seconds, time.time())
    all_seconds = build_seconds + sum(outcome)
    return auto_scheduler.MeasureResult(list(outcome), 0, None, all_seconds, time.time())
