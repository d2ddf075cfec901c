# SPDX-License-Identifier: Apache-2.0
"""Lowered functions, shared between builds.

Lowering a schedule (``tvm::LowerSchedule``, src/driver/driver_api.cc) runs about thirty passes over a
function, most of them after its loops are unrolled. They take most of a build, although a candidate differs
from the last model in a few functions. A pass before the others replaces a known function by an empty one; a
pass after them puts the lowered function in its place.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import tvm

# Candidates that are rejected one after the other share functions with the model before them.
KEPT_BUILDS = 8
_KEY, _REUSED = "cprune.lowering_key", "cprune.reused"


@dataclass
class _Function:
    """A function before and after lowering, without a name, and the number of the last build that used it."""

    scheduled: tvm.tir.PrimFunc
    lowered: tvm.tir.PrimFunc
    used: int


class LoweredFunctions:
    """The lowered functions of the last builds.

    Attributes
    ----------
    lowered, reused
        Number of functions that were lowered, and of functions that an earlier build had lowered.
    """

    def __init__(self) -> None:
        self.lowered = self.reused = 0
        self._functions: dict[str, _Function] = {}
        self._scheduled: dict[str, tvm.tir.PrimFunc] = {}
        self._build = 0

    @contextmanager
    def serve_build(self) -> Iterator[list[list[object]]]:
        """Yield passes for the setting ``tir.add_lower_pass`` of one build.

        Functions that ``KEPT_BUILDS`` builds did not use are dropped.
        """
        self._build += 1
        try:
            yield [[0, _pass(self._before)], [3, _pass(self._after)]]
        finally:
            self._scheduled.clear()
            oldest = self._build - KEPT_BUILDS
            self._functions = {key: f for key, f in self._functions.items() if f.used > oldest}

    def _before(self, func: tvm.tir.PrimFunc) -> tvm.tir.PrimFunc:
        """Replace the body of a function that an earlier build lowered by an empty one."""
        nameless = func.without_attr("global_symbol")
        key = f"{tvm.ir.structural_hash(nameless):x}"
        known = self._functions.get(key)
        if known is None:
            self._scheduled[key] = nameless
            return func.with_attr(_KEY, key)
        # Functions with equal hashes can differ.
        if not tvm.ir.structural_equal(known.scheduled, nameless):
            return func
        return func.with_body(tvm.tir.Evaluate(0)).with_attr({_KEY: key, _REUSED: True})

    def _after(self, func: tvm.tir.PrimFunc) -> tvm.tir.PrimFunc:
        """Store a function that was lowered, or return it in place of an empty one."""
        if func.attrs is None or _KEY not in func.attrs:
            return func
        key, name = str(func.attrs[_KEY]), func.attrs["global_symbol"]
        if _REUSED in func.attrs:
            self.reused += 1
            known = self._functions[key]
            known.used = self._build
            return known.lowered.with_attr("global_symbol", name)
        self.lowered += 1
        func = func.without_attr(_KEY)
        self._functions[key] = _Function(self._scheduled.pop(key), func, self._build)
        return func


def _pass(change: Callable[[tvm.tir.PrimFunc], tvm.tir.PrimFunc]) -> tvm.tir.transform.PrimFuncPass:
    return tvm.tir.transform.prim_func_pass(lambda func, *_: change(func), opt_level=0)
