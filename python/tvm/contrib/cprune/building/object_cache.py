# SPDX-License-Identifier: Apache-2.0
"""Compiled functions, kept between the builds of models that share most of them.

TVM compiles all functions of a model as one LLVM module, on one core, anew for each candidate; a single
heavily unrolled program takes seconds. Here each function is an object file of its own, named by its
structural hash: a candidate compiles what changed, on every core, and links.
"""

import zlib
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import tvm
from tvm.contrib.cprune.targets.target import host_threads

_BUILD = "target.build.llvm"


class ObjectCache:
    """A folder of object files.

    Attributes
    ----------
    compiled, reused
        How many functions were compiled, and how many were here already.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.compiled = self.reused = 0

    @contextmanager
    def serve_builds(self) -> Iterator[None]:
        """Let TVM's LLVM code generation take its functions from here. Their library must be exported to
        run."""
        stock = tvm.get_global_func(_BUILD)
        self.folder.mkdir(parents=True, exist_ok=True)

        def build(mod: tvm.IRModule, target: tvm.target.Target) -> tvm.runtime.Module:
            if mod.attrs is None or "executor" not in mod.attrs:
                return stock(mod, target)  # TVM folds a constant, and runs what it builds at once
            functions = [each for each in mod.functions.items() if isinstance(each[1], tvm.tir.PrimFunc)]
            with ThreadPoolExecutor(host_threads()) as workers:
                parts = list(
                    workers.map(lambda each: self._object(stock, mod, each[0], each[1], target), functions)
                )
            # The objects hang on a module that TVM can import others into: one of nothing but a no-op.
            root = stock(_nothing(mod), target)
            for part in parts:
                root.import_module(part)
            return root

        tvm.register_func(_BUILD, build, override=True)
        try:
            yield
        finally:
            tvm.register_func(_BUILD, stock, override=True)

    def _object(
        self, stock: Any, mod: tvm.IRModule, var: Any, func: tvm.tir.PrimFunc, target: tvm.target.Target
    ) -> tvm.runtime.Module:
        """Return a function's object file as a module, compiled unless it is here."""
        alone = tvm.IRModule({var: func}, attrs=mod.attrs)
        key = f"{tvm.ir.structural_hash(func) & (1 << 64) - 1:016x}-{zlib.crc32(str(target).encode()):08x}"
        path = self.folder / f"{key}.o"
        if path.exists():
            self.reused += 1
        else:
            aside = self.folder / f"part-{key}.o"
            stock(alone, target).save(str(aside))
            aside.replace(path)
            self.compiled += 1
        load = tvm.get_global_func("runtime.ModuleLoadStaticLibrary")
        return load(str(path), [str(func.attrs["global_symbol"])])


def _nothing(mod: tvm.IRModule) -> tvm.IRModule:
    """Return a module with one function that does nothing, with the attributes of ``mod``."""
    func = tvm.tir.PrimFunc([], tvm.tir.Evaluate(0)).with_attr(
        {"global_symbol": "cprune_nothing", "calling_conv": 1, "tir.noalias": True}
    )
    return tvm.IRModule({"cprune_nothing": func}, attrs=mod.attrs)
