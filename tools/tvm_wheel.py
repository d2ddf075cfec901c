# SPDX-License-Identifier: Apache-2.0
"""Build an installable wheel of Apache TVM 0.17 with Relay, AutoTVM and auto_scheduler.

    python tools/tvm_wheel.py --out build/wheels

PyPI's own ``apache-tvm`` no longer contains Relay, but the BitBLAS wheel bundles a complete TVM 0.17.dev0
(Apache-2.0). This tool extracts only TVM's Python package, ``libtvm.so`` and the licenses. It adds stubs of
the CUDA libraries that ``libtvm.so`` is linked to, so that it loads on a machine without a GPU, and compiles
TVM's Cython FFI for the running interpreter where possible.
"""

import argparse
import hashlib
import platform
import shutil
import sys
import tempfile
import zipfile
from pathlib import Path

from shell import ToolError, run
from wheel_file import info_folder, pack_wheel
from wheel_native import add_cuda_stubs, compile_cython_ffi

SOURCE = "bitblas==0.1.0.post1"
SOURCE_SHA256 = "5beaf38899671dc35da63ff31b8d7bea4d98a2c929a102fe40d2f3004cec391b"
TVM = "bitblas/3rdparty/tvm/"
VERSION = "0.17.dev0+cprune"


def check_machine() -> None:
    """Raise ``ToolError`` unless this machine can run libtvm.so and has a compiler."""
    if sys.platform != "linux" or platform.machine() != "x86_64":
        raise ToolError(
            f"this is {sys.platform} {platform.machine()}, but the prebuilt libtvm.so is for linux x86_64: "
            "build TVM v0.13 to v0.19 from source and install the plug-in (docs/building.md)"
        )
    for tool in ("g++", "nm"):
        if shutil.which(tool) is None:
            raise ToolError(f"{tool} is not installed; on Debian: apt-get install g++ binutils")


def download(folder: Path) -> Path:
    """Download the pinned BitBLAS wheel into a folder and return its path."""
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--only-binary=:all:"]
    run(
        [*command, "--dest", str(folder), SOURCE],
        f"cannot download {SOURCE} (check the network connection and pip's index)",
    )
    (wheel,) = folder.glob("*.whl")
    return wheel


def check_hash(wheel: Path) -> None:
    """Raise ``ToolError`` unless a file is the pinned BitBLAS wheel."""
    try:
        with wheel.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise ToolError(f"cannot read {wheel}: {error.strerror}") from None
    if digest != SOURCE_SHA256:
        raise ToolError(
            f"{wheel.name} has SHA-256 {digest}, expected {SOURCE_SHA256}: delete the file and try again"
        )


def unpack(wheel: Path, root: Path) -> None:
    """Extract TVM's Python package, libtvm.so and licenses into ``root``, laid out as in a wheel."""
    info = f"{info_folder(VERSION)}/"
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
        raise ToolError(f"{wheel.name} does not contain {TVM}build/libtvm.so")


def make_wheel(out: Path, source: Path | None) -> Path:
    """Build the wheel and return its path.

    Parameters
    ----------
    out
        Folder for the wheel.
    source
        The BitBLAS wheel; None downloads it.
    """
    check_machine()
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder, "wheel")
        root.mkdir()
        wheel = source or download(Path(folder))
        check_hash(wheel)
        unpack(wheel, root)
        add_cuda_stubs(root / "tvm")
        problem = compile_cython_ffi(root / "tvm")
        if problem:
            print(f"tvm_wheel: the Cython FFI did not compile, TVM will use the slower ctypes FFI: {problem}")
        return pack_wheel(root, out, VERSION, f"Apache TVM 0.17 with Relay, repacked from {SOURCE}")


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--out", type=Path, default=Path("build/wheels"), help="folder for the wheel (%(default)s)"
    )
    parser.add_argument("--source", type=Path, help=f"the wheel of {SOURCE}, if already downloaded")
    options = parser.parse_args()
    try:
        print(make_wheel(options.out, options.source))
    except ToolError as error:
        print(f"tvm_wheel: {error}", file=sys.stderr)
        return 1
    except OSError as error:
        print(f"tvm_wheel: cannot write the wheel: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
