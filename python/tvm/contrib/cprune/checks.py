# SPDX-License-Identifier: Apache-2.0
"""Checks of settings, whose errors name the setting."""

from collections.abc import Callable, Iterable
from typing import Any

from tvm.contrib.cprune.types import CPruneError


class SettingError(CPruneError):
    """A setting is outside its valid range.

    Parameters
    ----------
    name
        Name of the field.
    value
        The value given.
    expected
        The valid values, such as "at least 1".
    """

    def __init__(self, name: str, value: Any, expected: str) -> None:
        super().__init__(f"{name} is {value!r}, expected {expected}")
        self.name, self.value, self.expected = name, value, expected


def check_fields(config: object, names: Iterable[str], valid: Callable[[Any], bool], expected: str) -> None:
    """Check the values of some fields.

    Raises
    ------
    SettingError
        For the first field whose value is not valid.
    """
    for name in names:
        value = getattr(config, name)
        if not valid(value):
            raise SettingError(name, value, expected)


def check_choice(config: object, name: str, choices: tuple[str, ...]) -> None:
    """Check that the value of a field is one of ``choices``; see ``check_fields``."""
    check_fields(config, [name], lambda value: value in choices, f"one of {', '.join(choices)}")
