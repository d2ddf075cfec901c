# SPDX-License-Identifier: Apache-2.0
"""A model as C and objects, without TVM's runtime: for devices that have none, and for emulators."""

from pathlib import Path

from tvm.relay.backend import Executor, Runtime

import tvm
from tvm.contrib.cprune.building.build import build
from tvm.contrib.cprune.table import TaskTable
from tvm.contrib.cprune.types import CPruneError, RelayModel


def export_c(model: RelayModel, table: TaskTable, folder: Path) -> list[Path]:
    """Compile a model with TVM's ahead-of-time executor and its C interface.

    Parameters
    ----------
    table
        For a CPU target of LLVM.
    folder
        Takes the sources and objects that together define ``tvmgen_default_run``.

    Returns
    -------
    Those files.

    Raises
    ------
    CPruneError
        If a task did not run with its program, or holds vectors of a function that C has for scalars alone,
        such as exp.
    """
    # Weights stay arguments of the functions, which are then those that extraction saw.
    executor = Executor("aot", {"interface-api": "c", "unpacked-api": True, "link-params": False})
    try:
        library = build(model, table, executor=executor, runtime=Runtime("crt"), host="c")
    except tvm.error.TVMError as error:
        reason = str(error).strip().splitlines()[-1]
        if "unknown intrinsic" not in reason:
            raise
        raise CPruneError(f"TVM cannot compile the model ahead of time for C: {reason}") from error
    folder.mkdir(parents=True, exist_ok=True)
    return _save(library.lib, folder, [])


def _save(module: tvm.runtime.Module, folder: Path, found: list[Path]) -> list[Path]:
    if module.type_key == "llvm":
        path = folder / f"model{len(found)}.o"
        module.save(str(path))
    else:
        path = folder / f"model{len(found)}.c"
        # Some of TVM's sources end with a stray semicolon.
        path.write_text(module.get_source().rstrip(";\n") + "\n")
    found.append(path)
    for each in module.imported_modules:
        _save(each, folder, found)
    return found
