# SPDX-License-Identifier: Apache-2.0
"""The line of an exception's message that an error message quotes."""


def first_line(error: BaseException) -> str:
    """Return the first line of an exception's message, its class if it has no message."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0]


def last_line(error: BaseException) -> str:
    """Return the last line of an exception's message, where TVM writes the cause."""
    return (str(error).strip().splitlines() or [type(error).__name__])[-1]
