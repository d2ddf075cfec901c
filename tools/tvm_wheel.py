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
from base64 import urlsafe_b64encode
from collections.abc import Iterator
from pathlib import Path

from wheel_native import WheelError, add_cuda_stubs, compile_cython_ffi, run

SOURCE = "bitblas==0.1.0.post1"
SOURCE_SHA256 = "5beaf38899671dc35da63ff31b8d7bea4d98a2c929a102fe40d2f3004cec391b"
TVM = "bitblas/3rdparty/tvm/"
VERSION = "0.17.dev0+cprune"
# TVM's "core" requirements (python/gen_requirements.py) and xgboost, which both tuners' cost models use.
# NumPy is bounded because TVM's Python code predates NumPy 2.
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


def check_machine() -> None:
    """Raise ``WheelError`` unless this machine can run libtvm.so and has a compiler."""
    if sys.platform != "linux" or platform.machine() != "x86_64":
        raise WheelError(
            f"this is {sys.platform} {platform.machine()}, but the prebuilt libtvm.so is for linux x86_64: "
            "build TVM v0.13 to v0.19 from source and install the plug-in (docs/building.md)"
        )
    for tool in ("g++", "nm"):
        if shutil.which(tool) is None:
            raise WheelError(f"{tool} is not installed; on Debian: apt-get install g++ binutils")


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
    """Raise ``WheelError`` unless a file is the pinned BitBLAS wheel."""
    try:
        with wheel.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise WheelError(f"cannot read {wheel}: {error.strerror}") from None
    if digest != SOURCE_SHA256:
        raise WheelError(
            f"{wheel.name} has SHA-256 {digest}, expected {SOURCE_SHA256}: delete the file and try again"
        )


def unpack(wheel: Path, root: Path) -> None:
    """Extract TVM's Python package, libtvm.so and licenses into ``root``, laid out as in a wheel."""
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
        raise WheelError(f"{wheel.name} does not contain {TVM}build/libtvm.so")


def write_metadata(root: Path, tag: str) -> None:
    """Write the wheel's METADATA and WHEEL files."""
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
    """Yield every file below ``root`` with its line in the wheel's RECORD."""
    for path in sorted(p for p in root.rglob("*") if p.is_file()):
        digest = urlsafe_b64encode(hashlib.sha256(path.read_bytes()).digest()).rstrip(b"=").decode()
        yield path, f"{path.relative_to(root)},sha256={digest},{path.stat().st_size}\n"


def pack(root: Path, target: Path) -> None:
    """Zip ``root`` into the wheel ``target``, written aside and renamed when complete."""
    partial = target.with_suffix(".part")
    record, lines = f"apache_tvm-{VERSION}.dist-info/RECORD", []
    with zipfile.ZipFile(partial, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive:
        for path, line in record_lines(root):
            archive.write(path, path.relative_to(root))
            lines.append(line)
        archive.writestr(record, "".join(lines) + f"{record},,\n")
    partial.replace(target)


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
            print(f"tvm_wheel: the Cython FFI did not compile, TVM will use the slower ctypes FFI: {problem}")
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
    parser.add_argument("--source", type=Path, help=f"the wheel of {SOURCE}, if already downloaded")
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
