"""Checksums beside files: SHA256SUMS, as `sha256sum -c` and every reader of this project know it.

Whoever finishes a folder of results writes it last (`save_sums`). Where it lies beside a file and names it, the file is
what was written, or refused; where it does not, nothing is known and the file is taken as it is.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Collection
from pathlib import Path

from search_space.bounds import TEXT_BYTES
from search_space.errors import BadFile, CannotWrite
from search_space.files import write_whole

NAME = "SHA256SUMS"
_LINE = re.compile(r"([0-9a-f]{64}) [ *]([^\\]+)")
_CHUNK = 2**20


def sum_of(path: Path) -> str:
    """The SHA-256 of a file's content, in hexadecimal digits. Raises `OSError`."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(_CHUNK):
            digest.update(chunk)
    return digest.hexdigest()


def save_sums(folder: Path, but: Collection[str] = ()) -> None:
    """Write those of the files right in a folder, hidden ones and `but` left out. Raises `CannotWrite`."""
    names = sorted(path.name for path in folder.iterdir() if path.is_file() and not path.name.startswith("."))
    try:
        lines = [f"{sum_of(folder / n)}  {n}\n" for n in names if n not in (NAME, *but) and _is_plain(n)]
    except OSError as error:
        raise CannotWrite(f"cannot read '{folder}' back: {error.strerror}") from error
    write_whole(folder / NAME, "".join(lines))


def renew_sum(path: Path) -> None:
    """Note a file that was written again, where its folder has sums. Raises `OSError`, `CannotWrite`."""
    known = _sums(path.parent)
    if known is not None:
        known[path.name] = sum_of(path)
        write_whole(path.parent / NAME, "".join(f"{known[name]}  {name}\n" for name in sorted(known)))


def require_sum(path: Path, content: bytes | None = None) -> None:
    """Raise `BadFile` unless a file is what was written, as far as its folder says; content: where it is read already.

    A file that is not there or cannot be read is left to its reader.
    """
    known = _sums(path.parent)
    if known is None or path.name not in known:
        return
    try:
        found = sum_of(path) if content is None else hashlib.sha256(content).hexdigest()
    except OSError:
        return
    if found != known[path.name]:
        raise BadFile(
            f"'{path}' is not what was written, by {NAME} beside it: it is damaged, or was changed since; restore it, "
            f"or where the change is yours, remove its line from {NAME}"
        )


def _is_plain(name: str) -> bool:
    return name.isprintable() and "\\" not in name


def _sums(folder: Path) -> dict[str, str] | None:
    """By name; lines of another kind, such as the user's own, are passed over."""
    try:
        with (folder / NAME).open("rb") as file:
            text = file.read(TEXT_BYTES).decode(errors="replace")
    except OSError:
        return None
    lines = (_LINE.fullmatch(line) for line in text.split("\n"))
    return {line[2]: line[1] for line in lines if line}
