# SPDX-License-Identifier: Apache-2.0
"""Packing TVM's Python package and libraries as a wheel."""

import hashlib
import platform
import sys
import zipfile
from base64 import urlsafe_b64encode
from collections.abc import Iterator
from pathlib import Path

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


def info_folder(version: str) -> str:
    """Return the name of the folder of a wheel's metadata."""
    return f"apache_tvm-{version}.dist-info"


def pack_wheel(root: Path, out: Path, version: str, summary: str) -> Path:
    """Zip ``root`` as a wheel for the running Python, written aside and renamed when complete.

    Parameters
    ----------
    root
        A folder that contains the package ``tvm/`` and, in the folder of metadata, its licenses.
    out
        Folder for the wheel; created if missing.
    version, summary
        Entries of the wheel's metadata.

    Returns
    -------
    Path of the wheel.
    """
    python = f"cp{sys.version_info.major}{sys.version_info.minor}"
    tag = f"{python}-{python}-linux_{platform.machine()}"
    _write_metadata(root / info_folder(version), version, summary, tag)
    out.mkdir(parents=True, exist_ok=True)
    target = out / f"apache_tvm-{version}-{tag}.whl"
    partial = target.with_suffix(".part")
    record, lines = f"{info_folder(version)}/RECORD", []
    with zipfile.ZipFile(partial, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive:
        for path, line in _record_lines(root):
            archive.write(path, path.relative_to(root))
            lines.append(line)
        archive.writestr(record, "".join(lines) + f"{record},,\n")
    partial.replace(target)
    return target


def _write_metadata(info: Path, version: str, summary: str, tag: str) -> None:
    """Write the wheel's METADATA and WHEEL files."""
    info.mkdir(exist_ok=True)
    requires = "".join(f"Requires-Dist: {name}\n" for name in REQUIRES)
    (info / "METADATA").write_text(
        f"Metadata-Version: 2.1\nName: apache-tvm\nVersion: {version}\n"
        f"Summary: {summary}\nLicense: Apache-2.0\nRequires-Python: >=3.8\n{requires}"
    )
    (info / "WHEEL").write_text(
        f"Wheel-Version: 1.0\nGenerator: tvm_wheel\nRoot-Is-Purelib: false\nTag: {tag}\n"
    )


def _record_lines(root: Path) -> Iterator[tuple[Path, str]]:
    """Yield every file below ``root`` with its line in the wheel's RECORD."""
    for path in sorted(p for p in root.rglob("*") if p.is_file()):
        digest = urlsafe_b64encode(hashlib.sha256(path.read_bytes()).digest()).rstrip(b"=").decode()
        yield path, f"{path.relative_to(root)},sha256={digest},{path.stat().st_size}\n"
