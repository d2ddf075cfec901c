# SPDX-License-Identifier: Apache-2.0
"""Files that survive a killed process: durable appends and atomic replacement."""

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

# Prefix of files that are still being written; no file of the user has it.
_PARTIAL = ".cprune-part-"


def append_lines(path: Path, lines: Sequence[str]) -> None:
    """Append ``lines`` to a file and flush them to disk; missing folders are created."""
    if not lines:
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    with _file_named_in_errors(path), path.open("ab") as file:
        file.write("".join(line + "\n" for line in lines).encode())
        file.flush()
        os.fsync(file.fileno())


def recover_lines(path: Path) -> list[str]:
    """Return the lines of a file that ``append_lines`` wrote, none if it does not exist.

    An incomplete last line, which a killed process may have left, is removed from the file. Use it for the
    files of a run only; read those of users with ``Path.read_text``.
    """
    if not path.exists():
        return []
    data = path.read_bytes()
    complete = data[: data.rfind(b"\n") + 1]
    if len(complete) != len(data):
        os.truncate(path, len(complete))
    return complete.decode().splitlines()


def write_text(path: Path, text: str) -> None:
    """Write a text file atomically."""
    with replaced(path) as temporary:
        temporary.write_text(text)


def partial_path(path: Path) -> Path:
    """Return where a file is written before it gets its name: in the same folder, with the same suffix."""
    return path.with_name(f"{_PARTIAL}{path.name}")


@contextmanager
def replaced(path: Path) -> Iterator[Path]:
    """Replace a file atomically.

    Yields
    ------
    A temporary path in the same folder. The file written there is renamed to ``path`` on success and deleted
    if an exception is raised.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = partial_path(path)
    try:
        with _file_named_in_errors(path):
            yield temporary
            with temporary.open("rb") as file:
                os.fsync(file.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def remove_partial_files(folder: Path) -> None:
    """Delete what a killed process left half-written. Only the process that locks the folder may do so."""
    for path in folder.rglob(f"{_PARTIAL}*"):
        path.unlink()


@contextmanager
def _file_named_in_errors(path: Path) -> Iterator[None]:
    """Add ``path`` to an ``OSError`` without a file name, such as that of a write to a full disk."""
    try:
        yield
    except OSError as error:
        if error.filename is None:
            error.filename = str(path)
        raise
