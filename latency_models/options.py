"""Options of the commands written `python -m latency_models.NAME key=value ...`, checked at the door."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from search_space.errors import UnknownName, UserError
from search_space.last_words import status_of


@dataclass(frozen=True)
class Options:
    """Values by name as they were written. Every getter raises `UserError` naming the option."""

    values: Mapping[str, str]

    def given(self, name: str) -> bool:
        """Whether the option was written."""
        return name in self.values

    def text(self, name: str, default: str | None = None) -> str:
        """The value; without a default the option must be given."""
        value = self.values.get(name, default)
        if value is None:
            raise UserError(f"missing {name}=")
        return value

    def names(self, name: str, default: Sequence[str]) -> tuple[str, ...]:
        """Values with commas between."""
        return tuple(self.values[name].split(",")) if name in self.values else tuple(default)

    def choice(self, name: str, known: Sequence[str]) -> str:
        """One of `known`, the first by default."""
        value = self.values.get(name, known[0])
        if value not in known:
            raise UnknownName(name, value, known)
        return value

    def integer(self, name: str, default: int, least: int = 1) -> int:
        """An integer of at least `least`."""
        text = self.values.get(name, str(default))
        if not text.isascii() or not text.isdecimal() or int(text) < least:
            raise UserError(f"{name}={text} is not an integer >= {least}")
        return int(text)

    def number(self, name: str, default: float | None = None) -> float:
        """A finite number above 0."""
        text = self.text(name, None if default is None else str(default))
        try:
            value = float(text)
        except ValueError:
            raise UserError(f"{name}={text} is not a number") from None
        if not math.isfinite(value) or value <= 0:
            raise UserError(f"{name}={text} is not a finite number above 0")
        return value


def run(task: Callable[[Options], str], known: Mapping[str, str], usage: str, arguments: Sequence[str]) -> int:
    """Read the options, print what `task` returns, and give the exit status.

    0 done, 2 a user's error, in one line on stderr, 130 stopped. known: option -> what it means; `--help` prints them.
    """

    def answer() -> None:
        if {"-h", "--help"} & set(arguments):
            width = max(map(len, known)) + 2
            print("\n".join([usage, "", *(f"  {name + '=':{width}}{meaning}" for name, meaning in known.items())]))
        else:
            print(task(_read(arguments, known, usage)), flush=True)

    return status_of(answer)


def _read(arguments: Sequence[str], known: Mapping[str, str], usage: str) -> Options:
    values: dict[str, str] = {}
    for argument in arguments:
        name, equals, value = argument.partition("=")
        if name not in known:
            raise UnknownName("option", name, known, usage)
        if not equals or not value:
            raise UserError(f"option '{name}' has no value; {usage}")
        if name in values:
            raise UserError(f"option '{name}' is given twice")
        values[name] = value
    return Options(values)
