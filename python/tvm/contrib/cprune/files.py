# SPDX-License-Identifier: Apache-2.0
"""Files that survive a killed process: lines appended durably, whole files replaced at once."""

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path


def append_lines(path: Path, lines: Sequence[str]) -> None:
    """Append ``lines`` and flush them to the disk."""
    if not lines:
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("ab") as file:
        file.write("".join(line + "\n" for line in lines).encode())
        file.flush()
        os.fsync(file.fileno())


def read_lines(path: Path) -> list[str]:
    """Return the whole lines of a file, and cut off what a killed process left of another one."""
    if not path.exists():
        return []
    data = path.read_bytes()
    whole = data[: data.rfind(b"\n") + 1]
    if len(whole) != len(data):
        os.truncate(path, len(whole))
    return whole.decode().splitlines()


def write_text(path: Path, text: str) -> None:
    """Write a file aside and rename it, so that it is never seen half-written."""
    with replaced(path) as aside:
        aside.write_text(text)


@contextmanager
def replaced(path: Path) -> Iterator[Path]:
    """Give a path to write to; what is there afterwards becomes ``path``, unless writing failed."""
    path.parent.mkdir(parents=True, exist_ok=True)
    aside = path.with_name(f"part-{path.name}")
    try:
        yield aside
        with aside.open("rb") as file:
            os.fsync(file.fileno())
        aside.replace(path)
    finally:
        aside.unlink(missing_ok=True)
