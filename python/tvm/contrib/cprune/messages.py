# SPDX-License-Identifier: Apache-2.0
"""The line of an exception's message that an error message quotes."""

import re

# Time and source file that TVM writes before a message. The file is a path of the machine that built TVM.
_ORIGIN = re.compile(r"\[\d\d:\d\d:\d\d\] \S+:\d+: ")


def first_line(error: BaseException) -> str:
    """Return the first line of an exception's message, or its class if there is none."""
    return _lines(error)[0]


def last_line(error: BaseException) -> str:
    """Return the last line of an exception's message, or its class if there is none.

    TVM puts its stack trace first.
    """
    return _lines(error)[-1]


def _lines(error: BaseException) -> list[str]:
    lines = [_ORIGIN.sub("", line.strip()) for line in str(error).splitlines() if line.strip()]
    return lines or [type(error).__name__]
