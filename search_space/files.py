"""Files are written whole or not at all: to a neighbour first, then renamed. Not for what is in them."""

from __future__ import annotations

import os
import platform
import re
import secrets
import shutil
import sys
from contextlib import suppress
from glob import escape
from pathlib import Path
from typing import IO, Any
from zlib import crc32

from search_space.errors import CannotWrite

_MACHINE = f"{crc32(platform.node().encode()):08x}"


LONGEST_NAME = (
    80  # characters of a name from a file; file systems take 255 bytes, and times and targets stand beside it
)


def plain_name(text: str) -> str:
    """A text that anybody may have written, such as a space's name, as a part of a file's name.

    Letters, digits, '.', '_', '+' and '-' stay, other runs become '_'; never empty, nor hidden, nor a path.
    """
    return re.sub(r"[^\w.+-]+|^\.+", "_", text, flags=re.ASCII)[:LONGEST_NAME] or "_"


def ensure_folder(path: Path) -> Path:
    """Make a folder and its parents unless it is there; returns it. Raises `CannotWrite`."""
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise CannotWrite(f"cannot make the folder '{path}': {error.strerror}") from error
    return path


def write_whole(path: Path, content: bytes | str) -> None:
    """Write a file atomically, whoever else writes it too.

    Raises `CannotWrite` when the disk refuses (full, read-only).
    """
    data = content.encode(errors="backslashreplace") if isinstance(content, str) else content  # paths may be any bytes
    aside = neighbour(path)
    try:
        with aside.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        aside.replace(path)
    except OSError as error:
        raise CannotWrite(f"cannot write '{path}': {error.strerror}") from error
    finally:
        with suppress(OSError):  # renamed, where all went well
            aside.unlink()


def neighbour(path: Path) -> Path:
    """A hidden name beside a file or folder, to make it there and rename it; what killed makers left is removed."""
    _sweep(path)
    return path.with_name(f".{path.name}.{_MACHINE}-{os.getpid()}-{secrets.token_hex(4)}.partial")


def _sweep(path: Path) -> None:
    """Remove what killed writers of this file left, those of this machine."""
    for left in path.parent.glob(f".{escape(path.name)}.{_MACHINE}-*.partial"):
        if (writer := re.search(r"-(\d{1,9})-[0-9a-f]+\.partial$", left.name)) and not _runs(int(writer[1])):
            with suppress(OSError):
                shutil.rmtree(left) if left.is_dir() else left.unlink()


def lock(file: IO[Any], wait: bool = True) -> None:
    """Hold a file, alone among processes, until it is closed or this process ends.

    Raises `OSError` where another process holds it and `wait` is false. On a system without locks it does nothing.
    """
    if sys.platform == "win32":
        import msvcrt

        msvcrt.locking(file.fileno(), msvcrt.LK_LOCK if wait else msvcrt.LK_NBLCK, 1)
        return
    try:
        import fcntl
    except ImportError:
        return
    fcntl.flock(file, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))


def _runs(process: int) -> bool:
    if sys.platform == "win32":
        return True  # there, a signal of 0 would end it
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except PermissionError:  # another user's
        pass
    return True
