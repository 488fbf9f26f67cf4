"""Files are written whole or not at all: to a neighbour first, then renamed."""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path

from search_space.errors import CannotWrite


def write_whole(path: Path, content: bytes | str) -> None:
    """Write a file atomically. Raises `CannotWrite` when the disk refuses (full, read-only)."""
    data = content.encode() if isinstance(content, str) else content
    aside = path.with_name(f".{path.name}.partial")
    try:
        with aside.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        aside.replace(path)
    except OSError as error:
        with suppress(OSError):
            aside.unlink(missing_ok=True)
        raise CannotWrite(f"cannot write '{path}': {error.strerror}") from error
