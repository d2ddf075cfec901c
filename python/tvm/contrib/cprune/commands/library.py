# SPDX-License-Identifier: Apache-2.0
"""List, export or import the tuned programs that first searches start from.

    python -m tvm.contrib.cprune library list
    python -m tvm.contrib.cprune library export FOLDER
    python -m tvm.contrib.cprune library import FOLDER/*.json runs/mine/table.json

A library has one JSON file, a task table, for each TVM version, target and number of threads. Every first
search adds its fastest programs. The task table of a run or of the command `tune` can be imported, too.
"""

import argparse
from collections.abc import Collection, Iterable
from pathlib import Path

from tvm.contrib.cprune.files import write_text
from tvm.contrib.cprune.program_library import NONE, import_tables, library_folder, table_files
from tvm.contrib.cprune.table import TaskTable
from tvm.contrib.cprune.types import CPruneError


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of this command to its parser."""
    parser.description, parser.formatter_class = __doc__, argparse.RawDescriptionHelpFormatter
    parser.add_argument("-h", "--help", action="help", help="show this help message and exit")
    actions = parser.add_subparsers(dest="action", metavar="action", required=True)
    show = actions.add_parser("list", help="show the number of programs for each target")
    export = actions.add_parser("export", help="write all tables to a folder")
    export.add_argument("folder", type=Path, help="folder for the tables; it must be new or empty")
    add = actions.add_parser("import", help="add the programs of task tables")
    add.add_argument("tables", type=Path, nargs="+", metavar="TABLE", help="task table, a JSON file")
    for action in (show, export, add):
        action.add_argument(
            "--library",
            default="",
            metavar="DIR",
            help="folder of the library (default: CPRUNE_LIBRARY, or cprune/programs in the cache directory)",
        )


def run(options: argparse.Namespace) -> None:
    """Run the command.

    Raises
    ------
    CPruneError
        If the library is turned off, a table to import cannot be used, or the folder of an export is not
        empty.
    """
    folder = library_folder(options.library)
    if folder is None:
        raise CPruneError(
            f"the library is {NONE!r}, or there is no home directory: name a folder with --library"
        )
    if options.action == "import":
        for name, count in import_tables(folder, options.tables).items():
            print(f"{folder / name}: {_programs(count)}")
        return
    paths = table_files(folder)
    tables = _load(paths)
    if options.action == "export":
        _export(tables, options.folder)
    for path, table in tables.items():
        conditions = f"{table.threads} threads, {'cold' if table.cold_weights else 'warm'} weights"
        print(f"{path.name}: {_programs(len(table.rows))}, {conditions}, {table.target}")
    if not tables:
        print(f"{folder} has no programs")
    if options.action == "export" and len(tables) < len(paths):
        raise CPruneError(f"{len(paths) - len(tables)} of {len(paths)} files were not exported: see above")


def _load(paths: Iterable[Path]) -> dict[Path, TaskTable]:
    """Return the tables that can be read; print why others cannot."""
    tables = {}
    for path in paths:
        try:
            tables[path] = TaskTable.load(path, same_version=False)
        except CPruneError as error:
            print(f"left out: {error}")
    return tables


def _programs(count: int) -> str:
    return f"{count} program" if count == 1 else f"{count} programs"


def _export(tables: Collection[Path], folder: Path) -> None:
    """Write tables to a new or empty folder."""
    if not tables:
        raise CPruneError("the library has no programs to export")
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise CPruneError(f"{folder} is not an empty folder: choose another one")
    for path in tables:
        write_text(folder / path.name, path.read_text())
