# SPDX-License-Identifier: Apache-2.0
"""Command-line options derived from the fields of a dataclass, their types, defaults and documentation."""

import argparse
import inspect
import re
from collections.abc import Mapping
from dataclasses import MISSING, Field, dataclass, field, fields
from pathlib import Path
from types import NoneType
from typing import (
    TYPE_CHECKING,
    Any,
    Generic,
    Literal,
    NoReturn,
    TypeVar,
    get_args,
    get_origin,
    get_type_hints,
)

from tvm.contrib.cprune.checks import SettingError
from tvm.contrib.cprune.types import CPruneError

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

Config = TypeVar("Config", bound="DataclassInstance")
# Placeholders for values in the help text. Others are named after their option.
_METAVARS = {int: "N", float: "X", Path: "PATH"}


class ArgumentParser(argparse.ArgumentParser):
    """A parser that reports an invalid command line in one line, without the usage."""

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"{self.prog}: {message} (see --help)\n")


@dataclass(frozen=True)
class Options(Generic[Config]):
    """The command-line options for some fields of a dataclass.

    Attributes
    ----------
    config
        The dataclass. The section "Attributes" of its docstring holds the help of the options.
    names
        Fields that can be set on the command line; empty means all.
    flags
        Option strings by field, where they differ from the field's name.
    defaults
        Default values by field, where they differ from the dataclass's.
    computed
        Descriptions of default values that depend on other options, by field. The parser sets these options
        to None; the caller replaces None before it calls ``build``.
    """

    config: type[Config]
    names: tuple[str, ...] = ()
    flags: Mapping[str, str] = field(default_factory=dict)
    defaults: Mapping[str, Any] = field(default_factory=dict)
    computed: Mapping[str, str] = field(default_factory=dict)

    @property
    def fields(self) -> tuple[Field[Any], ...]:
        """The fields that can be set on the command line, in the order of ``names``."""
        every = {item.name: item for item in fields(self.config)}
        return tuple(every[name] for name in self.names or every)

    def flag(self, name: str) -> str:
        """Return the option string of a field, such as ``--max-seconds``."""
        return self.flags.get(name, "--" + name.replace("_", "-"))

    def destination(self, name: str) -> str:
        """Return the attribute of the parsed options that holds a field's value."""
        return self.flag(name).removeprefix("--").replace("-", "_")

    def add_to(self, parser: argparse._ActionsContainer, **changes: dict[str, Any]) -> None:
        """Add the options to a parser or to a group of its options.

        Parameters
        ----------
        changes
            Arguments of ``add_argument`` that replace the derived ones, by field.
        """
        docs, hints = attribute_docs(self.config), get_type_hints(self.config)
        for item in self.fields:
            default = self._default(item)
            arguments = {**_arguments(hints[item.name]), "default": default, **changes.get(item.name, {})}
            if default is MISSING:
                arguments.update(default=None, required=True)
            action = parser.add_argument(self.flag(item.name), **arguments)
            # Set here because before Python 3.13 BooleanOptionalAction appends the default itself.
            action.help = self._help(item.name, docs[item.name], default)

    def build(self, options: argparse.Namespace, **others: Any) -> Config:
        """Return the dataclass with the values of parsed options.

        Parameters
        ----------
        others
            Values of fields that are not options.

        Raises
        ------
        CPruneError
            If a value is invalid; the message names the option.
        """
        values = {item.name: getattr(options, self.destination(item.name)) for item in self.fields}
        try:
            return self.config(**values, **others)
        except SettingError as error:
            if error.name not in values:
                raise
            message = f"{self.flag(error.name)} is {error.value!r}, expected {error.expected}"
            raise CPruneError(message) from None

    def _default(self, item: Field[Any]) -> Any:
        """Return the default value of an option, or ``MISSING`` if it is required."""
        if item.name in self.computed:
            return None
        return self.defaults.get(item.name, item.default)

    def _help(self, name: str, text: str, default: Any) -> str:
        shown = self.computed.get(name, "" if default in (MISSING, None) else str(default))
        # argparse formats the help with the operator %.
        return f"{text} (default: {shown})".replace("%", "%%") if shown else text.replace("%", "%%")


def attribute_docs(config: type) -> dict[str, str]:
    """Return the documentation of a class's attributes from its NumPy docstring, one line per attribute."""
    _, _, section = (inspect.getdoc(config) or "").partition("Attributes\n----------\n")
    entries = re.findall(r"^(\w+)\n((?: +.*\n?)+)", section, re.MULTILINE)
    return {name: " ".join(text.split()) for name, text in entries}


def _arguments(hint: Any) -> dict[str, Any]:
    """Return the arguments of ``add_argument`` that parse values of a type."""
    if NoneType in get_args(hint):
        hint = next(kind for kind in get_args(hint) if kind is not NoneType)
    if hint is bool:
        return {"action": argparse.BooleanOptionalAction}
    if get_origin(hint) is Literal:
        return {"choices": get_args(hint)}
    return {"type": hint, "metavar": _METAVARS.get(hint)}
