# SPDX-License-Identifier: Apache-2.0
"""Object files of compiled functions, shared between builds.

TVM compiles all functions of a model as one LLVM module on one core, again for each candidate; a single
heavily unrolled program takes seconds. The cache stores each function as an object file named by its
structural hash. A candidate compiles only the functions that changed, on every core, and links. Functions
that TVM compiles to fold constants, such as those that pack weights, stay in memory.
"""

import zlib
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import tvm
from tvm.contrib.cprune.files import replaced
from tvm.contrib.cprune.messages import last_line
from tvm.contrib.cprune.targets.target import host_threads
from tvm.contrib.cprune.types import CPruneError, InfrastructureError

_BUILD = "target.build.llvm"
# Part of the name of functions that pack weights.
_PACKING = "auto_scheduler_layout_transform"
# Modules of constant folding to keep; a network has about one for each of its convolutions.
MAX_FOLDING = 256


class ObjectCache:
    """A folder of object files.

    Attributes
    ----------
    compiled, reused
        Number of functions compiled, and of functions taken from the folder.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.compiled = self.reused = 0
        self._folding: dict[tuple[int, str], tvm.runtime.Module] = {}
        self._failure: InfrastructureError | None = None

    @contextmanager
    def serve_builds(self, pack_weights: bool = True) -> Iterator[None]:
        """Make TVM's LLVM code generator use the cache. A library must be exported before it can run.

        Parameters
        ----------
        pack_weights
            Whether TVM packs weights into the layouts of auto_scheduler's programs. Otherwise packed weights
            have arbitrary values.

        Raises
        ------
        InfrastructureError
            If an object file cannot be written.
        """
        stock = tvm.get_global_func(_BUILD)
        self.folder.mkdir(parents=True, exist_ok=True)

        def build(mod: tvm.IRModule, target: tvm.target.Target) -> tvm.runtime.Module:
            if mod.attrs is None or "executor" not in mod.attrs:
                return self._for_folding(stock, mod, target, pack_weights)
            functions = [
                (var, func) for var, func in mod.functions.items() if isinstance(func, tvm.tir.PrimFunc)
            ]
            with ThreadPoolExecutor(host_threads()) as workers:
                parts = list(
                    workers.map(lambda item: self._object(stock, mod, item[0], item[1], target), functions)
                )
            # Object modules cannot import others, so they are attached to a module with one empty function.
            root = stock(_empty_module(mod), target)
            for part in parts:
                root.import_module(part)
            return root

        tvm.register_func(_BUILD, build, override=True)
        try:
            yield
        except (tvm.error.TVMError, CPruneError) as error:
            # The exception of the code generator passes through TVM, which does not keep its type.
            failure, self._failure = self._failure, None
            if failure is None:
                raise
            raise failure from error
        finally:
            tvm.register_func(_BUILD, stock, override=True)

    def _for_folding(
        self, stock: Any, mod: tvm.IRModule, target: tvm.target.Target, pack_weights: bool
    ) -> tvm.runtime.Module:
        """Return the module of a function that constant folding runs at once."""
        if not pack_weights:
            mod = tvm.IRModule(
                {var: _without_packing(func) for var, func in mod.functions.items()}, attrs=mod.attrs
            )
        key = (tvm.ir.structural_hash(mod), str(target))
        if key not in self._folding:
            if len(self._folding) == MAX_FOLDING:
                self._folding.clear()
            self._folding[key] = stock(mod, target)
        return self._folding[key]

    def _object(
        self, stock: Any, mod: tvm.IRModule, var: Any, func: tvm.tir.PrimFunc, target: tvm.target.Target
    ) -> tvm.runtime.Module:
        """Return a function's object file as a module; compile it first if the cache does not have it."""
        alone = tvm.IRModule({var: func}, attrs=mod.attrs)
        key = f"{tvm.ir.structural_hash(func) & (1 << 64) - 1:016x}-{zlib.crc32(str(target).encode()):08x}"
        path = self.folder / f"{key}.o"
        if path.exists():
            self.reused += 1
        else:
            self._save(stock(alone, target), path)
            self.compiled += 1
        load = tvm.get_global_func("runtime.ModuleLoadStaticLibrary")
        return load(str(path), [str(func.attrs["global_symbol"])])

    def _save(self, module: tvm.runtime.Module, path: Path) -> None:
        try:
            with replaced(path) as part:
                module.save(str(part))
        except (tvm.error.TVMError, OSError) as error:
            reason = last_line(error)
            self._failure = InfrastructureError(f"cannot write the object file {path}: {reason}")
            raise self._failure from error


def _without_packing(func: tvm.tir.PrimFunc) -> tvm.tir.PrimFunc:
    """Return a function that does nothing in place of one that packs a weight; return others unchanged."""
    if _PACKING not in str(func.attrs["global_symbol"]):
        return func
    return func.with_body(tvm.tir.Evaluate(tvm.tir.ret(0)))


def _empty_module(mod: tvm.IRModule) -> tvm.IRModule:
    """Return a module with one empty function and the attributes of ``mod``."""
    func = tvm.tir.PrimFunc([], tvm.tir.Evaluate(0)).with_attr(
        {"global_symbol": "cprune_empty", "calling_conv": 1, "tir.noalias": True}
    )
    return tvm.IRModule({"cprune_empty": func}, attrs=mod.attrs)
