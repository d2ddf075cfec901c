# SPDX-License-Identifier: Apache-2.0
"""Ahead-of-time export to C sources and object files that need no TVM runtime."""

from collections.abc import Iterator
from pathlib import Path

from tvm.relay.backend import Executor, Runtime

import tvm
from tvm.contrib.cprune.building.build import build
from tvm.contrib.cprune.table import TaskTable
from tvm.contrib.cprune.types import CandidateError, CPruneError, RelayModel


def export_c(model: RelayModel, table: TaskTable, folder: Path) -> list[Path]:
    """Compile a model with TVM's ahead-of-time executor and its C interface.

    Parameters
    ----------
    table
        The model's tuned programs, for a CPU target of LLVM.
    folder
        Folder for the files.

    Returns
    -------
    The C sources and object files, which together define ``tvmgen_default_run``.

    Raises
    ------
    CPruneError
        If a task's program was not used, or if a program applies to vectors a function that C provides only
        for scalars, such as ``exp``.
    """
    # Linked parameters would change the functions, which would no longer match the extracted tasks.
    executor = Executor("aot", {"interface-api": "c", "unpacked-api": True, "link-params": False})
    try:
        library = build(model, table, executor=executor, runtime=Runtime("crt"), host="c")
    except CandidateError as error:
        if "unknown intrinsic" not in str(error):
            raise
        raise CPruneError(f"the model cannot be compiled ahead of time for C: {error}") from error
    folder.mkdir(parents=True, exist_ok=True)
    return [_save(module, folder / f"model{i}") for i, module in enumerate(_modules(library.lib))]


def _modules(module: tvm.runtime.Module) -> Iterator[tvm.runtime.Module]:
    """Yield a module and everything that it imports, in pre-order."""
    yield module
    for imported in module.imported_modules:
        yield from _modules(imported)


def _save(module: tvm.runtime.Module, stem: Path) -> Path:
    """Write one module as an object file or a C source and return its path."""
    if module.type_key == "llvm":
        path = stem.with_suffix(".o")
        module.save(str(path))
    else:
        path = stem.with_suffix(".c")
        # TVM ends some of its sources with a stray semicolon.
        path.write_text(module.get_source().rstrip(";\n") + "\n")
    return path
