# SPDX-License-Identifier: Apache-2.0
"""Finds CPrune's C++ functions: in libtvm (an in-tree build) or in the plug-in, which is then loaded once."""

import ctypes
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import tvm

LIBRARY = "libtvm_cprune.so"


def _load() -> str:
    """Load the plug-in where it is needed; return where the functions come from."""
    if tvm.get_global_func("cprune.FindSubgraphs", allow_missing=True) is not None:
        return "in libtvm"
    folders = [os.environ.get("CPRUNE_LIBRARY_PATH"), *tvm.contrib.cprune.__path__]
    for folder in folders:
        if folder and Path(folder, LIBRARY).exists():
            ctypes.CDLL(str(Path(folder, LIBRARY)))
            return f"in {Path(folder, LIBRARY)}"
    raise ImportError(
        f"{LIBRARY} is in none of {[f for f in folders if f]}, and this libtvm was built without USE_CPRUNE: "
        "install CPrune with `pip install .`, or name the folder of the library in CPRUNE_LIBRARY_PATH"
    )


ORIGIN = _load()
_find_subgraphs = tvm.get_global_func("cprune.FindSubgraphs")
_collect_vars = tvm.get_global_func("cprune.CollectVars")
_axis_classes = tvm.get_global_func("cprune.AxisClasses")
_tile_factors = tvm.get_global_func("cprune.TileFactors")
_fit_lengths = tvm.get_global_func("cprune.FitLengths")
_fitting_width = tvm.get_global_func("cprune.FittingWidth")


def find_subgraphs(expr: Any, anchors: Sequence[str]) -> list[list[Any]]:
    """Return ``[call, anchor calls...]`` of every primitive function's call below ``expr``, in post order."""
    return [list(each) for each in _find_subgraphs(expr, *anchors)]


def collect_vars(expr: Any) -> list[Any]:
    """Return the variables below a Relay expression, each once."""
    return list(_collect_vars(expr))


def axis_classes(operations: Sequence[Any]) -> list[int]:
    """Return a class number for each axis of each TE operation in turn (see
    ``src/cprune/program_structure.cc``)."""
    return [int(each) for each in _axis_classes(list(operations))]


def tile_factors(statement: Any) -> list[list[list[Any]]]:
    """Return the accesses of every anchor in a TIR statement, the store first, each as
    ``[buffer, [[loop, (steps, stride, extent), kind], ...] for each dimension]``."""
    return [
        [
            [str(access[0]), *([[str(f[0]), tuple(f[1]), str(f[2])] for f in dim] for dim in access[1:])]
            for access in anchor
        ]
        for anchor in _tile_factors(statement)
    ]


def fit_lengths(extent: int, lengths: Sequence[int], limit: int, lanes: int) -> list[tuple[int, ...]]:
    """Return at most ``limit`` lists of inner lengths that divide ``extent``, those closest to ``lengths``
    first.

    Where ``lengths`` fit they are the only result. The innermost is a vector's: it divides the old one, or is
    shorter and has room in one register of ``lanes`` numbers.
    """
    return [tuple(int(n) for n in each) for each in _fit_lengths(extent, limit, lanes, *lengths)]


def fitting_width(
    width: int, first: int, last: int, round_to: int, constraints: Sequence[tuple[int, int, int]]
) -> int:
    """Return the first width from ``first`` to ``last``, up or down, at which every constraint holds, or 0.

    Parameters
    ----------
    width
        The present width.
    round_to
        What the result is a multiple of.
    constraints
        ``(extent, scale, product)``: with ``k`` channels more, ``extent + k * scale`` must be a positive
        multiple of ``product``.
    """
    numbers = (number for each in constraints for number in each)
    return int(_fitting_width(width, first, last, round_to, *numbers))
