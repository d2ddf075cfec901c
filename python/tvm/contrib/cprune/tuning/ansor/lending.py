# SPDX-License-Identifier: Apache-2.0
"""Moving good programs between the tasks of one search, before their own trials are spent.

A network has the same convolution at several widths, and with and without a residual. A program that is fast
for one of them is a better start for the others than a random one.
"""

import tempfile
from collections.abc import Sequence
from typing import Any

from tvm.auto_scheduler import _ffi_api as ffi

from tvm import auto_scheduler
from tvm.contrib.cprune.measuring.measurer import Measurer
from tvm.contrib.cprune.measuring.records import Measured, RecordLog, training_data
from tvm.contrib.cprune.tuning.ansor.allocation import AnsorSearch
from tvm.contrib.cprune.tuning.ansor.transplant import transplant
from tvm.contrib.cprune.types import TransplantError

# Programs lent to a task before each of its batches.
MAX_LENT = 3
# A program is lent if the task would run in less than this fraction of its latency at the lender's speed.
MIN_GAIN = 0.95


def lend(
    borrower: AnsorSearch,
    searches: Sequence[AnsorSearch],
    measurer: Measurer,
    log: RecordLog,
    limit: int,
) -> int:
    """Measure on a task the fastest programs of other tasks that promise to be faster than its own.

    They count as trials of the task. Its policy mutates them in the next round, and its cost model learns
    from them.

    Returns
    -------
    The number of programs measured, at most ``limit``.
    """
    inputs = _inputs(borrower, searches, log, min(limit, MAX_LENT))
    records = measurer.measure_new(inputs, log)
    if records:
        borrower.add(records)
        _teach(borrower, records)
    return len(records)


def _inputs(borrower: AnsorSearch, searches: Sequence[AnsorSearch], log: RecordLog, limit: int) -> list[Any]:
    """Return ``MeasureInput`` of the programs to lend."""
    inputs: list[Any] = []
    lenders = [search for search in searches if search is not borrower and search.speed > 0]
    for lender in sorted(lenders, key=lambda search: search.speed, reverse=True):
        if len(inputs) >= limit:
            break
        if borrower.task.flops / lender.speed > MIN_GAIN * borrower.best:
            break
        best = log.best(lender.task.workload_key)
        if best is None or best.line in borrower.lent:
            continue
        borrower.lent.add(best.line)
        try:
            inputs += transplant(best.line, lender.task, borrower.task, 1)
        except TransplantError:
            continue
    return inputs


def _teach(search: AnsorSearch, records: Sequence[Measured]) -> None:
    """Tell a task's policy and cost model about programs that they did not generate."""
    with tempfile.NamedTemporaryFile("w", suffix=".json") as file:
        file.writelines(f"{record.line}\n" for record in records)
        file.flush()
        ffi.SearchPolicyRunCallbacks(search.policy, [auto_scheduler.PreloadMeasuredStates(file.name)])
    inputs, results = training_data(search.task, records)
    # The model trains on them when it is updated after the next batch.
    search.model.inputs.extend(inputs)
    search.model.results.extend(results)
