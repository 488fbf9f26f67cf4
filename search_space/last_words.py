"""How every command ends: in one line on what is wrong, whatever leaves, fills up or is missing around it.

No reader that left, no full disk and no folder that is gone shows a traceback; bugs do. Not for what a command does.
"""

from __future__ import annotations

import errno
import io
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NoReturn, TextIO

from search_space.errors import Stopped, UserError, one_line

WRONG, STOPPED = 2, 130  # exit statuses of a user's mistake and of Ctrl-C


def say(error: BaseException) -> None:
    """'error: ...' on the error stream, on one line."""
    print(f"error: {' '.join(str(error).split())}", file=sys.stderr, flush=True)


def say_and_exit(error: UserError) -> NoReturn:
    """`say`, and end the process with the status that the error has."""
    say(error)
    sys.exit(STOPPED if isinstance(error, Stopped) else WRONG)


@contextmanager
def last_words(end: Callable[[UserError], NoReturn] = say_and_exit) -> Iterator[None]:
    """Around a whole command; `end` says an error and exits.

    A reader of the output that left, as `head` does, ends no work: what nobody reads is dropped. Output that a full
    disk refuses is said at the end, with the status of a mistake. Characters that the terminal cannot show are escapes.
    """
    with _streams_that_take_all():
        try:
            with in_words():
                _require_folder()
                yield
        except UserError as error:
            end(error)


@contextmanager
def in_words() -> Iterator[None]:
    """Within, what is no mistake of the program and nothing nearer to it has put into words is raised as `UserError`.

    A stop is `Stopped`.
    """
    try:
        yield
    except KeyboardInterrupt as error:
        raise Stopped("stopped") from error
    except MemoryError as error:
        raise UserError("there is not enough memory") from error
    except OSError as error:  # of a file, a folder or a connection
        raise UserError(_in_words(error)) from error
    except UnicodeEncodeError as error:
        if error.encoding != sys.getfilesystemencoding():
            raise
        raise UserError(
            f"a file's name cannot be written in {error.encoding}, which is set here; set PYTHONUTF8=1"
        ) from error


def status_of(work: Callable[[], None]) -> int:
    """The exit status of a whole command, which runs within `last_words`."""
    try:
        with last_words():
            work()
    except SystemExit as ended:
        return ended.code if isinstance(ended.code, int) else 0
    return 0


def _in_words(error: OSError) -> str:
    reason = error.strerror or one_line(error)
    return reason if error.filename is None else f"'{os.fsdecode(error.filename)}': {reason}"


def _require_folder() -> None:
    try:
        Path.cwd()
    except OSError as error:
        raise UserError("the folder that this was started in is gone; change to one that exists") from error


class _Raw(io.FileIO):
    """A stream that takes everything. lost: why something did not arrive where somebody waits for it."""

    lost: OSError | None = None

    def write(self, data: Any, /) -> int:
        try:
            return super().write(data)
        except OSError as error:
            if error.errno != errno.EPIPE:
                self.lost = error
            return memoryview(data).nbytes


@contextmanager
def _streams_that_take_all() -> Iterator[None]:
    """Within, the standard streams are such; not where a test or a notebook has put others in their place."""
    _open_closed_ones()
    before: dict[str, TextIO] = {}
    raws = []
    for name, number in (("stdout", 1), ("stderr", 2)):
        own: TextIO | None = getattr(sys, name)
        if own is getattr(sys, f"__{name}__"):
            encoding = "utf-8"
            if own is not None:
                before[name], encoding = own, own.encoding
                own.flush()
            raws.append(_Raw(number, "wb", closefd=False))
            lines = own is None or own.line_buffering
            new = io.TextIOWrapper(io.BufferedWriter(raws[-1]), encoding, "backslashreplace", line_buffering=lines)
            setattr(sys, name, new)
    ended: SystemExit | None = None
    try:
        yield
    except SystemExit as error:
        if error.code:
            raise
        ended = error
    finally:
        for name, own in before.items():
            getattr(sys, name).flush()
            setattr(sys, name, own)
    if lost := next((raw.lost for raw in raws if raw.lost), None):
        say_and_exit(UserError(f"the output could not be written: {lost.strerror}"))
    if ended is not None:
        raise ended


def _open_closed_ones() -> None:
    """So that no file gets the number of a standard stream, and with it what other libraries print."""
    while (number := os.open(os.devnull, os.O_RDWR)) <= 2:
        pass
    os.close(number)
