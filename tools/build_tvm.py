# SPDX-License-Identifier: Apache-2.0
"""Build TVM from source with CPrune inside libtvm, and install both into a virtual environment.

    python3 tools/build_tvm.py ~/tvm                    # then: make test VENV=.venv-source
    python3 tools/build_tvm.py ~/tvm --llvm llvm-config-16 --opencl
    python3 tools/build_tvm.py ~/tvm --runtime-only --cross aarch64-linux-gnu --opencl

The checkout is TVM v0.17.0 to v0.19.0 with its submodules; no file of it is edited. The build is in its
folder build-cprune and continues where it was interrupted. Nothing is downloaded except the Python packages
that `make install` installs, too. After a change in src/cprune, run the same command again.
"""

import argparse
import importlib.util
import os
import shutil
import subprocess
import sys
from pathlib import Path

from shell import ToolError, run
from tvm_source import (
    Build,
    check_sources,
    cmake_command,
    find_llvm,
    missing_static_library,
    tvm_version,
)

ROOT = Path(__file__).resolve().parents[1]
DEBIAN_PACKAGES = {"cmake": "cmake", "ninja": "ninja-build", "ccache": "ccache", "make": "make", "g++": "g++"}
# What LLVM's static libraries need on Debian, with LLVM's number in place of N.
STATIC_PACKAGES = "llvm-N-dev libpolly-N-dev libzstd-dev libxml2-dev zlib1g-dev"
GIB = 1 << 30
# What the compiler needs for TVM's largest source files.
MEMORY_PER_JOB = 1 * GIB


def plan_build(options: argparse.Namespace) -> Build:
    """Return the build that the command line describes, or raise ``ToolError``."""
    checkout = options.checkout.expanduser().resolve()
    if options.cross and not options.runtime_only:
        raise ToolError(
            f"--cross {options.cross} needs --runtime-only: the compiler runs on this machine, and only the "
            "runtime on the other one"
        )
    if options.llvm and options.runtime_only:
        raise ToolError("--runtime-only builds no compiler, which --llvm is for: leave one of them out")
    version = tvm_version(checkout)
    check_sources(checkout, options.opencl)
    check_tools(options.cross)
    llvm = None if options.runtime_only else find_llvm(version, options.llvm)
    static = llvm is not None and has_static_libraries(llvm)
    apis = (options.opencl, options.vulkan)
    return Build(checkout, llvm, *apis, options.runtime_only, options.cross, static)


def has_static_libraries(llvm: str) -> bool:
    """Return whether LLVM can be linked statically, and print what follows if it cannot."""
    missing = missing_static_library(llvm)
    if missing:
        print(
            f"{llvm} has no {missing}, so TVM is linked to the shared LLVM: OpenCL and Vulkan drivers that "
            f"use LLVM may crash; on Debian: apt-get install {STATIC_PACKAGES}"
        )
    return not missing


def check_tools(cross: str | None) -> None:
    """Raise ``ToolError`` if a program that the build needs is missing."""
    packages = dict(DEBIAN_PACKAGES)
    if cross:
        packages[f"{cross}-g++"] = f"g++-{cross}"
    missing = {tool: package for tool, package in packages.items() if shutil.which(tool) is None}
    if importlib.util.find_spec("ensurepip") is None:
        missing["Python's ensurepip"] = "python3-venv"
    if missing:
        install = f"on Debian: apt-get install {' '.join(missing.values())}"
        raise ToolError(f"not installed: {', '.join(missing)}; {install}")


def available_memory(root: Path = Path("/")) -> int:
    """Return the bytes of memory that are available, which a container may limit.

    ``root`` contains ``proc/meminfo`` and, in a container, ``sys/fs/cgroup/memory.max``.
    """
    available = _entry(root / "proc/meminfo", "MemAvailable:") * 1024
    group = root / "sys/fs/cgroup"
    if not (group / "memory.max").exists():
        return available
    limit = (group / "memory.max").read_text().strip()
    if limit == "max":
        return available
    # memory.current would count the page cache, too, which is given back when needed.
    return min(available, int(limit) - _entry(group / "memory.stat", "anon"))


def _entry(file: Path, name: str) -> int:
    """Return the number after a name at the start of a line."""
    return next(int(line.split()[1]) for line in file.read_text().splitlines() if line.split()[0] == name)


def count_jobs(memory: int, cores: int) -> int:
    """Return how many compilers may run at once.

    Raises
    ------
    ToolError
        If the memory in bytes is not enough for one.
    """
    jobs = min(cores, memory // MEMORY_PER_JOB)
    if jobs < 1:
        raise ToolError(
            f"{memory / GIB:.1f} GiB of memory are available, but TVM's largest files need "
            f"{MEMORY_PER_JOB / GIB:.1f} GiB: close other programs or raise the container's limit"
        )
    return jobs


def configure(build: Build) -> None:
    """Configure a build, or raise ``ToolError`` with the first error of CMake."""
    done = subprocess.run(cmake_command(build), capture_output=True, text=True, check=False)
    if done.returncode:
        packages = [STATIC_PACKAGES] if build.static_llvm else []
        packages += ["libvulkan-dev spirv-tools spirv-headers"] if build.vulkan else []
        needs = f"; on Debian: apt-get install {' '.join(packages)}" if packages else ""
        raise ToolError(f"CMake could not configure {build.folder}: {cmake_error(done.stderr)}{needs}")


def cmake_error(output: str) -> str:
    """Return the first error in CMake's output on one line."""
    lines = output[max(0, output.find("CMake Error")) :].splitlines()
    first = next((n for n, line in enumerate(lines[1:], 1) if line.strip() and line[0] != " "), len(lines))
    return " ".join(" ".join(lines[:first]).split()) or "no message"


def compile_tvm(build: Build, jobs: int) -> None:
    """Compile what has changed since the last call, and show the build's output."""
    command = ["cmake", "--build", str(build.folder), "--parallel", str(jobs), "--target", *build.targets]
    if subprocess.run(command, check=False).returncode:
        raise ToolError(
            "TVM did not compile, see the first error above (a compiler that was killed ran out of memory); "
            "run the same command to continue"
        )


def install(build: Build, venv: str) -> None:
    """Install TVM and CPrune with all of the packages of ``make install`` into a virtual environment."""
    make = ["make", "--no-print-directory", "-C", str(ROOT), f"VENV={venv}", f"PYTHON={sys.executable}"]
    folder = ROOT / venv
    if subprocess.run([*make, f"{venv}/stamps/venv"], check=False).returncode:
        raise ToolError(f"cannot create the virtual environment {venv}, see above")
    python, script = str(folder / "bin/python"), str(ROOT / "tools/source_wheel.py")
    pack = [python, script, str(build.checkout), str(build.folder), "--out", str(folder / "wheels")]
    print(run(pack, "cannot pack TVM as a wheel").strip())
    if subprocess.run([*make, "install"], check=False).returncode:
        raise ToolError(f"cannot install into {venv}, see above")


def parse(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("checkout", type=Path, metavar="CHECKOUT", help="TVM's sources: v0.17.0 to v0.19.0 with submodules")
    add("--llvm", metavar="CONFIG", help="llvm-config to build with (the newest one that this TVM supports)")
    add("--opencl", action="store_true", help="add the OpenCL runtime; the driver is found at run time")
    add("--vulkan", action="store_true", help="add Vulkan; needs libvulkan-dev, spirv-tools, spirv-headers")
    add("--runtime-only", action="store_true", help="build libtvm_runtime.so and tvm_rpc for a device")
    add("--cross", metavar="TRIPLE", help="GNU triple of the device's machine, with --runtime-only")
    add("--venv", metavar="DIR", default=".venv-source", help="virtual environment, in CPrune (%(default)s)")
    return parser.parse_args(arguments)


def main(arguments: list[str] | None = None) -> int:
    options = parse(arguments)
    try:
        build = plan_build(options)
        jobs = count_jobs(available_memory(), len(os.sched_getaffinity(0)))
        print(f"building {' and '.join(build.targets)} in {build.folder}, jobs: {jobs}", flush=True)
        configure(build)
        compile_tvm(build, jobs)
        if build.runtime_only:
            print("\n".join(str(path) for path in build.products))
        else:
            install(build, options.venv)
            print(f"to use it: make test VENV={options.venv}")
    except (ToolError, OSError) as error:
        print(f"build_tvm: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("build_tvm: interrupted; run the same command to continue", file=sys.stderr)
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
