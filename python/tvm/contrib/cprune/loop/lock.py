# SPDX-License-Identifier: Apache-2.0
"""A lock on a run folder that a killed process does not leave behind."""

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tvm.contrib.cprune.types import CPruneError


@contextmanager
def locked(folder: Path, name: str = "lock") -> Iterator[None]:
    """Create a folder if it does not exist, and keep other processes out of it.

    The operating system releases the lock when the process ends, however it ends.

    Raises
    ------
    CPruneError
        If another process holds the lock; the message names it.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / name).open("a+") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.seek(0)
            owner = file.read().strip() or "unknown"
            raise CPruneError(
                f"{folder} is in use by process {owner}: wait until it ends, or choose another folder"
            ) from None
        file.truncate(0)
        file.write(f"{os.getpid()}\n")
        file.flush()
        yield
