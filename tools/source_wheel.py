# SPDX-License-Identifier: Apache-2.0
"""Pack a TVM that build_tvm.py compiled as a wheel for the Python that runs this.

    .venv-source/bin/python tools/source_wheel.py TVM BUILD --out .venv-source/wheels

TVM's own setup.py would copy its sources and 3rdparty/ into the package. This wheel contains the Python
package, libtvm.so, the licenses, and the Cython FFI if it compiles.
"""

import argparse
import shutil
import sys
import tempfile
from pathlib import Path

from shell import ToolError
from tvm_source import tvm_version
from wheel_file import info_folder, pack_wheel
from wheel_native import compile_cython_ffi

HEADERS = ("include", "3rdparty/dlpack/include", "3rdparty/dmlc-core/include")
# CPrune is installed as a package of its own. docs/building.md describes linking it into the checkout.
IGNORED = shutil.ignore_patterns("__pycache__", "*.so", "_cy3", "cprune")


def make_wheel(checkout: Path, build: Path, out: Path) -> Path:
    """Pack the wheel, delete older ones from ``out``, and return its path.

    Parameters
    ----------
    checkout
        TVM's sources.
    build
        The folder that contains ``libtvm.so``.
    out
        Folder for the wheel.
    """
    version = f"{tvm_version(checkout)}+cprune"
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        shutil.copytree(checkout / "python/tvm", root / "tvm", ignore=IGNORED)
        shutil.copy(build / "libtvm.so", root / "tvm")
        licenses = root / info_folder(version) / "licenses"
        shutil.copytree(checkout / "licenses", licenses / "third_party")
        shutil.copy(checkout / "LICENSE", licenses)
        problem = compile_cython_ffi(root / "tvm", [checkout / name for name in HEADERS])
        if problem:
            print(f"the Cython FFI did not compile, TVM will use the slower ctypes FFI: {problem}")
        wheel = pack_wheel(root, out, version, "Apache TVM with CPrune, built from source")
    for other in out.glob("apache_tvm-*.whl"):
        if other != wheel:
            other.unlink()
    return wheel


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("checkout", type=Path, metavar="TVM", help="the checkout of TVM")
    parser.add_argument("build", type=Path, metavar="BUILD", help="the folder that contains libtvm.so")
    parser.add_argument("--out", type=Path, required=True, help="folder for the wheel")
    options = parser.parse_args()
    try:
        print(make_wheel(options.checkout, options.build, options.out))
    except (ToolError, OSError, shutil.Error) as error:
        print(f"source_wheel: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
