# SPDX-License-Identifier: Apache-2.0
"""TVM's sources: what build_tvm.py checks before it builds them, and the CMake command for them."""

import re
import shutil
from dataclasses import dataclass
from pathlib import Path

from shell import ToolError, run

MODULE = Path(__file__).resolve().parents[1] / "cmake" / "modules" / "contrib" / "CPrune.cmake"
# The versions that can be built, and the newest LLVM that the C++ code of each supports (src/target/llvm).
NEWEST_LLVM = {"0.17": 18, "0.18": 19, "0.19": 20}
OLDEST_LLVM = 10
# What makes llvm-config list the static libraries.
STATIC_LLVM = "--ignore-libllvm --link-static"
# The submodules that are needed, each with a file to recognize it by.
SUBMODULES = {
    "3rdparty/dmlc-core": "include/dmlc/base.h",
    "3rdparty/dlpack": "include/dlpack/dlpack.h",
    "3rdparty/rang": "include/rang.hpp",
}
OPENCL_SUBMODULES = {"3rdparty/OpenCL-Headers": "CL/cl.h"}


@dataclass(frozen=True)
class Build:
    """A build of a checkout of TVM.

    Attributes
    ----------
    checkout
        TVM's sources.
    llvm
        Path of llvm-config; None builds without LLVM.
    opencl, vulkan
        Whether to build the runtime, and for Vulkan the code generator, of a GPU API.
    runtime_only
        Whether to build only the runtime and the RPC server, without the compiler.
    cross
        GNU triple of the machine to build for, such as ``aarch64-linux-gnu``; None builds for this one.
    static_llvm
        Whether to link LLVM's static libraries. Drivers such as PoCL and Mesa's load an LLVM of their own,
        and may crash if another one has exported the same symbols.
    """

    checkout: Path
    llvm: str | None = None
    opencl: bool = False
    vulkan: bool = False
    runtime_only: bool = False
    cross: str | None = None
    static_llvm: bool = False

    @property
    def folder(self) -> Path:
        """Return the build folder, which TVM's .gitignore covers."""
        kind = self.cross or ("runtime" if self.runtime_only else "")
        return self.checkout / "-".join(filter(None, ("build-cprune", kind)))

    @property
    def targets(self) -> tuple[str, ...]:
        """Return the CMake targets to build."""
        return ("tvm_runtime", "tvm_rpc") if self.runtime_only else ("tvm",)

    @property
    def products(self) -> tuple[Path, ...]:
        """Return the files that the targets produce."""
        names = ("libtvm_runtime.so", "tvm_rpc") if self.runtime_only else ("libtvm.so",)
        return tuple(self.folder / name for name in names)


def tvm_version(checkout: Path) -> str:
    """Return the version of a checkout.

    Raises
    ------
    ToolError
        If it is not a checkout of a version that can be built.
    """
    supported = f"v{next(iter(NEWEST_LLVM))}.0 to v{list(NEWEST_LLVM)[-1]}.0"
    try:
        text = (checkout / "python/tvm/_ffi/libinfo.py").read_text()
    except OSError:
        text = ""
    found = re.search(r'^__version__ = "([^"]+)"', text, re.MULTILINE)
    if not found:
        raise ToolError(
            f"{checkout} is not a checkout of TVM {supported}: python/tvm/_ffi/libinfo.py is missing there; "
            "to get one: git clone --branch v0.17.0 --recursive https://github.com/apache/tvm"
        )
    if _minor(found[1]) not in NEWEST_LLVM:
        raise ToolError(
            f"{checkout} is TVM {found[1]}, but CPrune can be built into {supported}: "
            f"git -C {checkout} checkout v0.17.0 && git -C {checkout} submodule update --init --recursive"
        )
    return found[1]


def check_sources(checkout: Path, opencl: bool) -> None:
    """Raise ``ToolError`` if a submodule is missing, or a config.cmake would replace our options."""
    needed = SUBMODULES | (OPENCL_SUBMODULES if opencl else {})
    missing = " ".join(name for name, file in needed.items() if not (checkout / name / file).exists())
    if missing:
        raise ToolError(f"{checkout} lacks submodules: git -C {checkout} submodule update --init {missing}")
    if (checkout / "config.cmake").exists():
        raise ToolError(
            f"{checkout / 'config.cmake'} would replace options of this build: move it to the build folder "
            "that it is for"
        )


def find_llvm(version: str, requested: str | None) -> str:
    """Return the path of the requested llvm-config, or of the newest one that a version of TVM compiles with.

    Raises
    ------
    ToolError
        If there is none, or the requested one is too new or has no headers.
    """
    newest = NEWEST_LLVM[_minor(version)]
    flaws = []
    names = [f"llvm-config-{number}" for number in range(newest, OLDEST_LLVM - 1, -1)]
    for name in [requested] if requested else [*names, "llvm-config"]:
        path = shutil.which(name)
        flaw = _llvm_flaw(path, newest) if path else f"{name} is not installed"
        if path and not flaw:
            return path
        flaws.append(flaw)
    needs = f"TVM {version} needs LLVM {OLDEST_LLVM} to {newest} with headers"
    problem = flaws[0] if requested else "no suitable llvm-config was found"
    raise ToolError(f"{problem}: {needs}; on Debian 12: apt-get install llvm-16-dev")


def _llvm_flaw(path: str, newest: int) -> str:
    """Return why TVM cannot be built with an llvm-config, or ""."""
    number = run([path, "--version"], f"cannot run {path}").strip()
    include = run([path, "--includedir"], f"cannot run {path}").strip()
    major = int(number.split(".")[0])
    if not OLDEST_LLVM <= major <= newest:
        return f"{path} is LLVM {number}"
    if not Path(include, "llvm/IR/Module.h").exists():
        return f"{path} has no headers in {include} (package llvm-{major}-dev)"
    return ""


def missing_static_library(llvm: str) -> str:
    """Return the name of a static library that an LLVM lacks, "" if it has all."""
    try:
        files = run([llvm, "--link-static", "--libfiles"], f"cannot run {llvm}").split()
    except ToolError:  # llvm-config fails if its own libraries are missing
        files = []
    if not files:
        return "static libraries"
    return next((Path(file).name for file in files if not Path(file).exists()), "")


def cmake_command(build: Build) -> list[str]:
    """Return the command that configures a build."""
    trace = not build.cross and (build.checkout / "3rdparty/libbacktrace/configure").exists()
    options: dict[str, object] = {
        "USE_LLVM": f"{build.llvm} {STATIC_LLVM}" if build.static_llvm else build.llvm or "OFF",
        "USE_OPENCL": _switch(build.opencl),
        "USE_VULKAN": _switch(build.vulkan),
        "USE_CPP_RPC": _switch(build.runtime_only),
        "USE_LIBBACKTRACE": "AUTO" if trace else "OFF",
        "USE_CCACHE": "ON",
    }
    if not build.runtime_only:
        options |= {"CMAKE_PROJECT_tvm_INCLUDE": MODULE, "USE_CPRUNE": "ON"}
    if build.static_llvm:
        # libtvm exports no symbols of static libraries.
        options |= {"CMAKE_SHARED_LINKER_FLAGS": "-Wl,--exclude-libs,ALL"}
    if build.cross:
        options |= {
            "CMAKE_SYSTEM_NAME": "Linux",
            "CMAKE_SYSTEM_PROCESSOR": build.cross.split("-")[0],
            "CMAKE_C_COMPILER": f"{build.cross}-gcc",
            "CMAKE_CXX_COMPILER": f"{build.cross}-g++",
        }
    definitions = [f"-D{name}={value}" for name, value in options.items()]
    return ["cmake", "-G", "Ninja", "-S", str(build.checkout), "-B", str(build.folder), *definitions]


def _minor(version: str) -> str:
    return ".".join(version.split(".")[:2])


def _switch(on: bool) -> str:
    return "ON" if on else "OFF"
