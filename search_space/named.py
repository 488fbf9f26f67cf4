"""What an option names: one of the project's own values, or anybody's by its full dotted path. Not for files' words.

A dotted path is imported, which runs code. So it is followed where a person types it, as an option or an argument,
and never where a file of unknown origin says it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from importlib import import_module
from inspect import signature
from typing import Any

from search_space.errors import UnknownName, UserError
from search_space.reading import OneOf


def is_dotted(name: str) -> bool:
    """Whether a name is written as a full dotted path, 'package.module:value'."""
    module, colon, value = name.partition(":")
    return bool(colon) and value.isidentifier() and all(part.isidentifier() for part in module.split("."))


HINT = "Or the full dotted path of your own: package.module:value"


class Named(OneOf):
    """One of the known names, or anybody's full dotted path; nothing is imported."""

    hint = HINT

    def __init__(self, known: Mapping[str, str]) -> None:
        super().__init__(known)
        self.holds = lambda value: isinstance(value, str) and (value in self.names or is_dotted(value))


def check_named(what: str, name: str, known: Mapping[str, str]) -> None:
    """Raise `UnknownName` for what is neither a known name nor written as a dotted path; nothing is imported."""
    if name not in known and not is_dotted(name):
        raise UnknownName(what, name, known, HINT)


def load_named(what: str, name: str, known: Mapping[str, str], role: Sequence[str] | int) -> Any:
    """The value that `name` stands for: `known` maps names to dotted paths; any other dotted path is followed as it is.

    what: the option, for messages. role: the attributes that the value must have, or, of a function, the number of
    arguments that it is called with.
    Raises `UnknownName`, or `UserError` for a path that leads nowhere or to something else.
    """
    check_named(what, name, known)
    module, _, value = known.get(name, name).partition(":")
    try:
        found = getattr(import_module(module), value)
    except ModuleNotFoundError as error:
        if error.name is None or not f"{module}.".startswith(f"{error.name}."):
            raise  # a fault inside that module, not in its name
        raise UserError(f"{what}={name}: there is no module '{error.name}' on the Python path") from error
    except AttributeError as error:
        missing = f"'{value}'" if value.isidentifier() else "value of that name"  # which may hold an address's password
        raise UserError(f"{what}={name}: the module '{module}' has no {missing}") from error
    if not isinstance(role, int):
        if lacking := [attribute for attribute in role if not hasattr(found, attribute)]:
            raise UserError(f"{what}={name} is no {what}: it has no '{lacking[0]}'; it needs {', '.join(role)}")
        return found
    try:
        signature(found).bind(*[None] * role)
    except (TypeError, ValueError) as error:
        raise UserError(f"{what}={name} is no {what}: it is no function of {role} arguments") from error
    return found
