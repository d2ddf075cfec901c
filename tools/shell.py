# SPDX-License-Identifier: Apache-2.0
"""Running commands, and the errors of the tools in this folder."""

import subprocess


class ToolError(Exception):
    """An error that the user can fix; the message says how."""


def run(command: list[str], failure: str) -> str:
    """Run a command and return its output.

    Raises
    ------
    ToolError
        If the command is missing or fails: ``failure`` and the last error message, on one line.
    """
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    except FileNotFoundError:
        raise ToolError(
            f"{failure}: {command[0]} is not installed; on Debian: apt-get install g++ binutils"
        ) from None
    if done.returncode:
        lines = (done.stderr or done.stdout).strip().splitlines() or ["no output"]
        errors = [line for line in lines if "error" in line.lower()] or lines
        raise ToolError(f"{failure}: {errors[-1].strip()}")
    return done.stdout
