# SPDX-License-Identifier: Apache-2.0
"""Stand-ins for a checkout of TVM and for installed programs, for tests of tools/build_tvm.py."""

from pathlib import Path

SUBMODULE_FILES = (
    "3rdparty/dmlc-core/include/dmlc/base.h",
    "3rdparty/dlpack/include/dlpack/dlpack.h",
    "3rdparty/rang/include/rang.hpp",
)


def write(path: Path, text: str = "") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return path


def make_checkout(folder: Path, version: str = "0.17.0") -> Path:
    """Write the files of TVM's checkout that build_tvm.py looks at, and return the folder."""
    write(folder / "python/tvm/_ffi/libinfo.py", f'import os\n\n__version__ = "{version}"\n')
    for name in SUBMODULE_FILES:
        write(folder / name)
    return folder


def make_program(folder: Path, name: str, script: str = "") -> Path:
    """Write a shell script that can be executed."""
    path = write(folder / name, f"#!/bin/sh\n{script}\n")
    path.chmod(0o755)
    return path


def make_llvm(folder: Path, name: str, version: str, headers: bool = True) -> Path:
    """Write a stand-in for llvm-config, with or without LLVM's headers, and return its path."""
    include = folder / f"include-{version}"
    if headers:
        write(include / "llvm/IR/Module.h")
    answer = f'case "$1" in --version) echo {version};; --includedir) echo {include};; esac'
    return make_program(folder, name, answer)
