# SPDX-License-Identifier: Apache-2.0
"""Run commands in this process, which saves starting Python and importing TVM and torch, or as processes."""

import contextlib
import io
import os
import subprocess
import sys
from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from unittest import mock

ROOT = Path(__file__).parents[4]
TUTORIAL = ROOT / "tutorials" / "frontend"

Done = subprocess.CompletedProcess[str]

# The smallest run of the tutorial that accepts candidates.
SMALLEST_RUN: dict[str, str | int | float] = {
    "--model": "lenet",
    "--train-epochs": 1,
    "--short-term-epochs": 1,
    "--fine-tune-epochs": 1,
    "--accuracy-requirement": 0.05,
    "--max-iterations": 2,
    "--final-trials": 0,
}


def as_arguments(options: Mapping[str, str | int | float]) -> list[str]:
    """Return options as a command line."""
    return [text for name, value in options.items() for text in (name, str(value))]


def run_cprune(*arguments: str, cwd: Path | None = None) -> Done:
    """Run ``python -m tvm.contrib.cprune`` in this process."""
    from tvm.contrib.cprune import __main__

    return run_in_process(__main__.main, str(__main__.__file__), *arguments, cwd=cwd)


def run_tutorial(*arguments: str, cwd: Path | None = None) -> Done:
    """Run ``tutorials/frontend/main.py`` in this process."""
    import main

    return run_in_process(main.main, str(main.__file__), *arguments, cwd=cwd)


def run_in_process(
    main: Callable[[list[str]], int], program: str, *arguments: str, cwd: Path | None = None
) -> Done:
    """Run the ``main`` function of a program, and return what a process would return.

    Its working directory and its changes to the environment last until it returns. Other global state is
    shared with the tests. Output of C++ is not captured.
    """
    stdout, stderr, before = io.StringIO(), io.StringIO(), Path.cwd()
    with (
        contextlib.redirect_stdout(stdout),
        contextlib.redirect_stderr(stderr),
        mock.patch.dict(os.environ, COLUMNS="80"),
        mock.patch.object(sys, "argv", [program, *arguments]),
    ):
        os.chdir(cwd or before)
        try:
            status = main(list(arguments))
        except SystemExit as error:
            status = _status(error)
        finally:
            os.chdir(before)
    return Done([program, *arguments], status, stdout.getvalue(), stderr.getvalue())


def _status(error: SystemExit) -> int:
    """Return the exit status of a ``SystemExit``, and print its message as Python does."""
    if isinstance(error.code, int | None):
        return error.code or 0
    print(error.code, file=sys.stderr)
    return 1


def run_python(
    *arguments: str | Path,
    cwd: Path | None = None,
    env: Mapping[str, str] | None = None,
    max_file_size: int | None = None,
    timeout: float = 600,
) -> Done:
    """Run Python as a process.

    Parameters
    ----------
    env
        Changes to this process's environment.
    max_file_size
        Size in bytes, a multiple of 512, beyond which a write to a file fails as on a full disk.
    """
    command = [sys.executable, *(str(argument) for argument in arguments)]
    if max_file_size is not None:
        command = ["sh", "-c", f'ulimit -f {max_file_size // 512} && exec "$@"', "sh", *command]
    environment = {**os.environ, **(env or {})}
    return subprocess.run(
        command, capture_output=True, text=True, check=False, cwd=cwd, env=environment, timeout=timeout
    )


def error_of(done: Done, statuses: Collection[int] = (1,)) -> str:
    """Return the error message of a command, which must have failed with one of ``statuses``.

    The message must be the only line on stderr, except for Python's warnings and the indented line of source
    after each warning.
    """
    lines = [line for line in done.stderr.splitlines() if line and not line.startswith("  ")]
    lines = [line for line in lines if "Warning: " not in line]
    assert done.returncode in statuses, (done.returncode, done.stderr)
    assert len(lines) == 1, done.stderr
    return lines[0]
