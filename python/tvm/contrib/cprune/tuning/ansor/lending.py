# SPDX-License-Identifier: Apache-2.0
"""Moving good programs between the tasks of one search, before their own trials are spent.

A network has the same convolution at several widths, and with and without a residual. A program that is fast
for one of them is a better start for the others than a random one.
"""

from collections.abc import Sequence
from typing import Any

from tvm.contrib.cprune.measuring.records import RecordLog, faster
from tvm.contrib.cprune.tuning.ansor.allocation import AnsorSearch
from tvm.contrib.cprune.tuning.ansor.transplant import transplant
from tvm.contrib.cprune.types import TransplantError

# Programs lent to a task before each of its batches.
MAX_LENT = 3
# A program is lent if the task would run in less than this fraction of its latency at the lender's speed.
MIN_GAIN = 0.95


def lend(borrower: AnsorSearch, searches: Sequence[AnsorSearch], log: RecordLog, limit: int) -> list[Any]:
    """Return the fastest programs of other tasks that promise to be faster than a task's own, moved to it.

    They count as trials of the task. Each program is lent once.

    Returns
    -------
    ``MeasureInput`` of at most ``limit`` programs, the most promising first.
    """
    limit = min(limit, MAX_LENT)
    inputs: list[Any] = []
    lenders = [search for search in searches if search is not borrower and search.speed > 0]
    for lender in sorted(lenders, key=lambda search: search.speed, reverse=True):
        if len(inputs) >= limit:
            break
        if borrower.task.flops / lender.speed > MIN_GAIN * borrower.best:
            break
        key = lender.task.workload_key
        best = faster(lender.known.best(key), log.best(key))
        if best is None or best.line in borrower.lent:
            continue
        borrower.lent.add(best.line)
        try:
            inputs += transplant(best.line, lender.task, borrower.task, 1)
        except TransplantError:
            continue
    return inputs
