# SPDX-License-Identifier: Apache-2.0
"""A library of tuned programs, which later searches start from.

A library is a folder of task tables (see ``table.py``), one for each TVM version, target and number of
threads. Its programs are donors: they are transplanted to the tasks of a new network and measured there.
"""

import fcntl
import math
import os
import re
import zlib
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import tvm
from tvm.contrib.cprune.table import FORMAT, Row, TaskTable
from tvm.contrib.cprune.targets.target import parse_target, vector_lanes
from tvm.contrib.cprune.types import CPruneError, Task

# Value of --library and of the environment variable CPRUNE_LIBRARY that turns the library off.
NONE = "none"
# Tables that the package contains, by the number of float32 lanes of an x86 processor.
_STARTERS = Path(__file__).parent / "starters"
STARTER_FILES = {8: "avx2.json", 16: "avx512.json"}


def library_folder(setting: str = "") -> Path | None:
    """Return the folder of the library, None if it is turned off or the user has no home directory.

    Parameters
    ----------
    setting
        A folder or "none". By default, the value of ``CPRUNE_LIBRARY`` or else ``cprune/programs`` in the
        user's cache directory.
    """
    chosen = setting or os.environ.get("CPRUNE_LIBRARY", "")
    if chosen == NONE:
        return None
    if chosen:
        return Path(chosen)
    try:
        return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "cprune" / "programs"
    except RuntimeError:  # as in a container whose user is not in /etc/passwd
        return None


class ProgramLibrary:
    """Programs of earlier searches in one context.

    Parameters
    ----------
    folder
        The folder of the library; it need not exist. None is an empty library that stores nothing.
    target, threads, cold_weights
        Conditions of the measurements; see ``TaskTable``.
    """

    def __init__(self, folder: Path | None, target: str, threads: int, cold_weights: bool) -> None:
        self._path = None
        self._context = (target, threads, cold_weights)
        if folder is not None:
            self._path = folder / file_name(TaskTable((), *self._context))

    def rows(self) -> tuple[Row, ...]:
        """Return the programs of the user's library and those that the package contains.

        Raises
        ------
        CPruneError
            If the file of the library is damaged.
        """
        if self._path is None:
            return ()
        return (*self._own(self._path).rows, *_starters(self._context[0]))

    def add(self, rows: Iterable[Row]) -> None:
        """Add programs to the library, which keeps the fastest one of each task.

        Raises
        ------
        CPruneError
            If the file of the library is damaged.
        OSError
            If the folder cannot be written.
        """
        if self._path is None:
            return
        with _exclusive(self._path.parent):
            merge(self._own(self._path), rows).save(self._path)

    def _own(self, path: Path) -> TaskTable:
        return load_table(path) if path.exists() else TaskTable((), *self._context)


def file_name(table: TaskTable) -> str:
    """Return the name of the library's file for the context of a table."""
    context = f"{FORMAT} {tvm.__version__} {table.target} {table.threads} {table.cold_weights}"
    weights = "cold" if table.cold_weights else "warm"
    kind = re.match(r"\w*", table.target).group()  # type: ignore[union-attr]  # matches every string
    return f"{kind}-{table.threads}-threads-{weights}-{zlib.crc32(context.encode()):08x}.json"


def load_table(path: Path) -> TaskTable:
    """Read a table of a library.

    Raises
    ------
    CPruneError
        If the file is missing or damaged, or of another version of TVM; the message contains the remedy.
    """
    try:
        return TaskTable.load(path)
    except CPruneError as error:
        raise CPruneError(
            f"{error} (in the program library: delete the file, or use --library none)"
        ) from None


def merge(table: TaskTable, rows: Iterable[Row]) -> TaskTable:
    """Return a table with the fastest program of each task of ``table`` and ``rows``."""
    best = {row.task.workload_key: row for row in table.rows}
    for row in rows:
        known = best.setdefault(row.task.workload_key, row)
        faster = row if row.program.latency.median < known.program.latency.median else known
        best[row.task.workload_key] = replace(faster, trials=max(row.trials, known.trials))
    return TaskTable(tuple(best.values()), table.target, table.threads, table.cold_weights)


def table_files(folder: Path) -> list[Path]:
    """Return the tables of a library, without files that a killed process left half-written."""
    return sorted(folder.glob("[!.]*.json"))


def import_tables(folder: Path, paths: Iterable[Path]) -> dict[str, int]:
    """Merge tables into a library. All of them are read before the first one is stored.

    Returns
    -------
    The number of programs in each file that was written.

    Raises
    ------
    CPruneError
        If a file is no task table, or of another version of TVM.
    """
    counts = {}
    for table in [TaskTable.load(path) for path in paths]:
        library = ProgramLibrary(folder, table.target, table.threads, table.cold_weights)
        library.add(table.rows)
        name = file_name(table)
        counts[name] = len(load_table(folder / name).rows)
    return counts


def nearest(task: Task, rows: Iterable[Row]) -> list[Row]:
    """Return the rows of the same tuner, the nearest in shape to a task first."""
    return sorted(
        (row for row in rows if row.task.tuner == task.tuner), key=lambda row: distance(task, row.task)
    )


def distance(a: Task, b: Task) -> float:
    """Return how far apart two tasks are in shape.

    This is the sum of the logarithms of the extents' ratios in the operation that differs most, plus one for
    each input or operation that only one of the tasks has, such as a residual. The shapes of the inputs
    follow from those of the operations, but for a bias that is written as a vector or as an image. Tasks
    whose largest operations differ are infinitely far apart.
    """
    one, other = _extents(a), _extents(b)
    if _largest(one) != _largest(other):
        return math.inf
    ratios = (_log_ratio(one[op], other[op]) for op in one.keys() & other.keys())
    return len(one.keys() ^ other.keys()) + max(ratios, default=0.0)


def _extents(task: Task) -> dict[str, dict[str, int]]:
    """Return the extents of the axes of each operation; those of inputs are left out."""
    extents: dict[str, dict[str, int]] = {}
    for op, axis, extent in task.axes:
        own = extents.setdefault(op, {})
        if not axis.startswith("dim"):
            own[axis] = extent
    return extents


def _largest(extents: Mapping[str, Mapping[str, int]]) -> str:
    """Return the operation with the most iterations, "" if there is none."""
    return max(extents, key=lambda op: math.prod(extents[op].values()), default="")


def _log_ratio(one: Mapping[str, int], other: Mapping[str, int]) -> float:
    """Return the sum of the logarithms of the ratios of extents; unknown ones count as 1."""
    axes = one.keys() | other.keys()
    return sum(abs(math.log2((one.get(axis) or 1) / (other.get(axis) or 1))) for axis in axes)


def work(task: Task) -> float:
    """Return a task's floating-point operations, or its largest number of elements if it has none."""
    if task.flops:
        return task.flops
    elements: dict[str, int] = {}
    for op, _, extent in task.axes:
        elements[op] = elements.get(op, 1) * max(extent, 1)
    return float(max(elements.values(), default=1))


def _starters(target: str) -> tuple[Row, ...]:
    """Return the programs of the package for a target, none if there are none."""
    parsed = parse_target(target)
    triple = str(parsed.attrs.get("mtriple") or "x86_64") if parsed.kind.name == "llvm" else ""
    name = STARTER_FILES.get(vector_lanes(target)) if triple.startswith("x86_64") else None
    path = _STARTERS / name if name else None
    return TaskTable.load(path, same_version=False).rows if path and path.exists() else ()


@contextmanager
def _exclusive(folder: Path) -> Iterator[None]:
    """Keep other processes from changing a library until the ``with`` statement ends."""
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield
