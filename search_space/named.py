"""What an option names: one of the project's own values, or anybody's by its full dotted path. Not for files' words.

A dotted path is imported, which runs code. So it is followed where a person types it, as an option or an argument,
and never where a file of unknown origin says it.
"""

from __future__ import annotations

from collections.abc import Mapping
from importlib import import_module
from typing import Any

from search_space.errors import UnknownName, UserError


def is_dotted(name: str) -> bool:
    """Whether a name is written as a full dotted path, 'package.module:value'."""
    module, colon, value = name.partition(":")
    return bool(colon) and value.isidentifier() and all(part.isidentifier() for part in module.split("."))


def check_named(what: str, name: str, known: Mapping[str, str]) -> None:
    """Raise `UnknownName` for what is neither a known name nor written as a dotted path; nothing is imported."""
    if name not in known and not is_dotted(name):
        raise UnknownName(what, name, known, "Or the full dotted path of your own: package.module:value")


def load_named(what: str, name: str, known: Mapping[str, str]) -> Any:
    """The value that `name` stands for: `known` maps names to dotted paths; any other dotted path is followed as it is.

    what: the option, for messages. Raises `UnknownName`, or `UserError` for a path that leads nowhere.
    """
    check_named(what, name, known)
    module, _, value = known.get(name, name).partition(":")
    try:
        return getattr(import_module(module), value)
    except ModuleNotFoundError as error:
        if error.name is None or not f"{module}.".startswith(f"{error.name}."):
            raise  # a fault inside that module, not in its name
        raise UserError(f"{what}={name}: there is no module '{error.name}' on the Python path") from error
    except AttributeError as error:
        raise UserError(f"{what}={name}: the module '{module}' has no '{value}'") from error
