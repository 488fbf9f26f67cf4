"""The errors that a user can cause and correct. Not for bugs: those keep their traceback."""

from collections.abc import Iterable
from difflib import get_close_matches


class UserError(ValueError):
    """What was asked cannot be done; the message is one line: asked, exists, what to do."""


LONGEST_LINE = 500  # characters of another library's message


def one_line(error: BaseException) -> str:
    """The first line of another library's message, not too long, or the error's name where it has none."""
    lines = str(error).strip().splitlines()
    line = lines[0] if lines else type(error).__name__
    return line if len(line) <= LONGEST_LINE else f"{line[: LONGEST_LINE - 4]} ..."


class UnknownName(UserError):
    """A name that is not among the known ones."""

    def __init__(self, what: str, asked: str, known: Iterable[str], hint: str = "") -> None:
        known = sorted(known)
        near = get_close_matches(asked.lower(), known, n=1, cutoff=0.5)
        guess = f" Did you mean '{near[0]}'?" if near else ""
        listed = f" Known: {', '.join(known)}." if len(known) <= 20 else ""
        hint = f" {hint}" if hint else ""
        super().__init__(f"unknown {what} '{asked}'.{guess}{listed}{hint}")


class Stopped(UserError):
    """The user pressed Ctrl-C; the message says what is left of the work."""


class CannotWrite(UserError):
    """The disk refuses: full, read-only, or not there."""


class BadFile(UserError):
    """A file that is missing, truncated or not what it should be."""
