"""Files by address: local ones where they are, remote ones through a folder of bounded size.

An address is a path or a URL of any file system that fsspec knows (https://, hf://, s3://, ...). Processes may share
the folder. Not for what is in the files: that is `nas.data.shards.index`.
"""

from __future__ import annotations

import hashlib
import os
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from search_space.errors import BadFile, CannotWrite, UserError, one_line
from search_space.files import lock

PAUSES_S = (1.0, 5.0)  # before a download is tried again


def is_remote(address: str) -> bool:
    """Whether it is a URL, and no path."""
    return "://" in address


def read_whole(address: str) -> bytes:
    """A small file's content. Raises `BadFile`."""
    if not is_remote(address):
        try:
            return Path(address).read_bytes()
        except OSError as error:
            raise BadFile(f"cannot read '{address}': {error.strerror}") from error
    files, path = _file_system(address)
    try:
        return bytes(files.cat_file(path))
    except Exception as error:  # every file system has its own kinds
        raise _unreachable(address, error) from error


@dataclass(frozen=True)
class FileCache:
    """limit_bytes: what the folder may hold of remote files; those that were read longest ago go first."""

    folder: Path
    limit_bytes: int

    def open(self, address: str) -> BinaryIO:
        """The file, fetched if it must be. Raises `BadFile`, `CannotWrite`, and `UserError` for one above the limit."""
        if not is_remote(address):
            try:
                return Path(address).open("rb")
            except OSError as error:
                raise BadFile(f"cannot read '{address}': {error.strerror}") from error
        path = self._place(address)
        try:
            file: BinaryIO = path.open("rb")
        except FileNotFoundError:
            file = self._fetched(address, path)
        with suppress(FileNotFoundError):  # dropped meanwhile; what is open stays readable
            os.utime(path)
        return file

    def _place(self, address: str) -> Path:
        return self.folder / f"{hashlib.sha256(address.encode()).hexdigest()[:16]}-{address.rsplit('/', 1)[-1][-80:]}"

    def _fetched(self, address: str, path: Path) -> BinaryIO:
        """One download at a time in this folder, so that two processes never fetch the same and the limit holds."""
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            with (self.folder / ".lock").open("w") as guard:
                lock(guard)
                if not path.exists():
                    for left in self.folder.glob(".*.partial"):  # of a process that was killed
                        left.unlink()
                    aside = path.with_name(f".{path.name}.partial")
                    self._download(address, aside)
                    aside.replace(path)
                return path.open("rb")
        except OSError as error:
            raise CannotWrite(f"cannot keep '{address}' in data.cache={self.folder}: {error.strerror}") from error

    def _download(self, address: str, aside: Path) -> None:
        files, path = _file_system(address)
        for pause in (*PAUSES_S, None):
            aside.unlink(missing_ok=True)
            try:
                files.get_file(path, str(aside), callback=_making_room(self))
                self._make_room(0)  # where the size was not known before
                return
            except (UserError, CannotWrite):
                raise
            except Exception as error:  # every file system has its own kinds
                if pause is None or isinstance(error, FileNotFoundError):
                    raise _unreachable(address, error) from error
                time.sleep(pause)

    def _make_room(self, needed: int) -> None:
        """Drop files until so many more bytes keep the limit."""
        kept = sorted((p for p in self.folder.iterdir() if p.is_file()), key=lambda p: p.stat().st_mtime_ns)
        total = sum(p.stat().st_size for p in kept) + needed
        for path in kept:
            if total <= self.limit_bytes:
                return
            if not path.name.startswith("."):
                total -= path.stat().st_size
                path.unlink()
        if total > self.limit_bytes:
            raise UserError(f"data.cache_gb={self.limit_bytes / 1e9:g} is less than one shard of {total / 1e9:.3g} GB")


def _making_room(cache: FileCache) -> Any:
    from fsspec import Callback

    class MakingRoom(Callback):  # type: ignore[misc]
        def set_size(self, size: int | None) -> None:
            cache._make_room(size or 0)

    return MakingRoom()


def _file_system(address: str) -> tuple[Any, str]:
    from fsspec.core import url_to_fs

    try:
        files, path = url_to_fs(address)
    except (ImportError, ValueError) as error:
        raise UserError(
            f"cannot read '{address}': {one_line(error)}; https needs pip install -c constraints.txt -e '.[stream]', "
            "hf:// huggingface_hub, s3:// s3fs"
        ) from error
    return files, path


def _unreachable(address: str, error: Exception) -> BadFile:
    reason = "no such file" if isinstance(error, FileNotFoundError) else f"{type(error).__name__}: {one_line(error)}"
    return BadFile(f"cannot fetch '{address}': {reason}")
