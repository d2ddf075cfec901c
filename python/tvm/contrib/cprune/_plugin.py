# SPDX-License-Identifier: Apache-2.0
"""Access to CPrune's C++ functions, in libtvm (an in-tree build) or in the plug-in."""

import ctypes
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import tvm

LIBRARY = "libtvm_cprune.so"


def _load() -> str:
    """Load the plug-in unless libtvm has the functions. Return where they are."""
    if tvm.get_global_func("cprune.FindSubgraphs", allow_missing=True) is not None:
        return "in libtvm"
    folders = [os.environ.get("CPRUNE_LIBRARY_PATH"), *tvm.contrib.cprune.__path__]
    for folder in folders:
        if folder and Path(folder, LIBRARY).exists():
            ctypes.CDLL(str(Path(folder, LIBRARY)))
            return f"in {Path(folder, LIBRARY)}"
    raise ImportError(
        f"{LIBRARY} is not in {[folder for folder in folders if folder]}, and libtvm was built without "
        "USE_CPRUNE: install CPrune with `pip install .`, or set CPRUNE_LIBRARY_PATH to the library's folder"
    )


ORIGIN = _load()
_find_subgraphs = tvm.get_global_func("cprune.FindSubgraphs")
_collect_vars = tvm.get_global_func("cprune.CollectVars")
_axis_classes = tvm.get_global_func("cprune.AxisClasses")
_tile_factors = tvm.get_global_func("cprune.TileFactors")
_fit_lengths = tvm.get_global_func("cprune.FitLengths")
_fitting_width = tvm.get_global_func("cprune.FittingWidth")


def find_subgraphs(expr: Any, anchors: Sequence[str]) -> list[list[Any]]:
    """Return ``[call, anchor calls...]`` of each primitive function that ``expr`` calls, in post order."""
    return [list(calls) for calls in _find_subgraphs(expr, *anchors)]


def collect_vars(expr: Any) -> list[Any]:
    """Return the distinct variables of a Relay expression."""
    return list(_collect_vars(expr))


def axis_classes(operations: Sequence[Any]) -> list[int]:
    """Return the class of each axis of each TE operation in turn (see ``src/cprune/axis_classes.cc``)."""
    return [int(number) for number in _axis_classes(list(operations))]


def tile_factors(statement: Any) -> list[list[list[Any]]]:
    """Return the accesses of each anchor in a TIR statement, the store first.

    An access is ``[buffer, [[loop, (steps, stride, extent), kind], ...] for each dimension]``.
    """
    return [
        [
            [str(access[0]), *([[str(f[0]), tuple(f[1]), str(f[2])] for f in dim] for dim in access[1:])]
            for access in anchor
        ]
        for anchor in _tile_factors(statement)
    ]


def fit_lengths(extent: int, lengths: Sequence[int], limit: int, lanes: int) -> list[tuple[int, ...]]:
    """Return up to ``limit`` lists of inner lengths whose product divides ``extent``.

    Lists closest to ``lengths`` come first. If ``lengths`` fit, they are the only result. The innermost
    length is a vector: it divides the old one, or is shorter and fills whole registers of ``lanes`` numbers
    or fits one.
    """
    return [tuple(int(n) for n in fitted) for fitted in _fit_lengths(extent, limit, lanes, *lengths)]


def fitting_width(
    width: int, first: int, last: int, round_to: int, constraints: Sequence[tuple[int, int, int]]
) -> int:
    """Return the first width from ``first`` to ``last`` that meets all constraints, or 0.

    Parameters
    ----------
    width
        The current width.
    first, last
        Inclusive range, ascending or descending.
    round_to
        The result is a multiple of this.
    constraints
        ``(extent, scale, product)``: for a width of ``width + k``, ``extent + k * scale`` must be a positive
        multiple of ``product``.
    """
    numbers = (number for constraint in constraints for number in constraint)
    return int(_fitting_width(width, first, last, round_to, *numbers))
