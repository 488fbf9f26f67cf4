"""Files by address: local ones where they are, remote ones through a folder of bounded size.

An address is a path or a URL of any file system that fsspec knows (https://, hf://, s3://, ...). What the folder holds
is whole: a file that is not what its reader expects is fetched again, and one that was not fetched in whole is not
kept. Processes may share the folder. Not for what is in the files: that is `nas.data.shards.index`.
"""

from __future__ import annotations

import errno
import hashlib
import os
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from nas.data.addresses import file_name, is_remote, redacted, revealed
from search_space import bounds
from search_space.errors import BadFile, CannotWrite, UserError, one_line
from search_space.files import lock
from search_space.reading import read_bytes, require_file

FULL = {errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EFBIG}
Check = Callable[[BinaryIO], object]  # raises `BadFile` for a file that is not what its reader expects


def read_whole(address: str) -> bytes:
    """A small file's content. Raises `BadFile` or `UserError`, also for one of more than `bounds.INDEX_BYTES`."""
    if not is_remote(address):
        try:
            return read_bytes(Path(address), bounds.INDEX_BYTES)
        except OSError as error:
            raise BadFile(f"cannot read '{address}': {error.strerror}") from error

    def bounded(size: int) -> None:
        if size > bounds.INDEX_BYTES:
            raise UserError(f"'{address}' has more than {bounds.INDEX_BYTES / 2**20:g} MiB, the most of such a file")

    with tempfile.TemporaryDirectory() as folder:
        aside = Path(folder) / "fetched"
        _download(address, aside, bounded)
        return aside.read_bytes()


@dataclass(frozen=True)
class FileCache:
    """limit_bytes: what the folder may hold of remote files; those that were read longest ago go first."""

    folder: Path
    limit_bytes: int

    def open(self, address: str, check: Check | None = None, arrived: Check | None = None) -> BinaryIO:
        """The file, fetched if it must be. check: what fails it is refused; a remote file is fetched again before.

        arrived: a longer check, of what was fetched just now. Raises `BadFile`, `CannotWrite`, and `UserError` for one
        above the limit.
        """
        if not is_remote(address):
            try:
                require_file(Path(address))
                local = Path(address).open("rb")  # noqa: SIM115
            except OSError as error:
                raise BadFile(f"cannot read '{address}': {error.strerror}") from error
            try:
                if check is not None:
                    check(local)
                return local
            except BadFile:
                local.close()
                raise
        path = self._place(address)
        file = _kept(path, check) or self._fetched(address, path, check, arrived)
        with suppress(FileNotFoundError):  # dropped meanwhile; what is open stays readable
            os.utime(path)
        return file

    def drop(self, address: str) -> None:
        """Fetch a remote file anew when it is opened next. Raises `CannotWrite`."""
        try:
            self._place(address).unlink(missing_ok=True)
        except OSError as error:
            raise CannotWrite(f"cannot change data.cache={self.folder}: {error.strerror}") from error

    def _place(self, address: str) -> Path:
        return self.folder / f"{hashlib.sha256(address.encode()).hexdigest()[:16]}-{file_name(address)[-80:]}"

    def _fetched(self, address: str, path: Path, check: Check | None, arrived: Check | None) -> BinaryIO:
        """One download at a time in this folder, so that two processes never fetch the same and the limit holds."""
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            with (self.folder / ".lock").open("w") as guard:
                lock(guard)
                if file := _kept(path, check):
                    return file
                path.unlink(missing_ok=True)
                for left in self.folder.glob(".*.partial"):  # of a process that was killed
                    left.unlink()
                aside = path.with_name(f".{path.name}.partial")
                try:
                    _download(address, aside, self._make_room, check, arrived)
                    aside.replace(path)
                finally:
                    aside.unlink(missing_ok=True)
                return path.open("rb")
        except OSError as error:
            raise CannotWrite(f"cannot keep '{address}' in data.cache={self.folder}: {error.strerror}") from error

    def _make_room(self, needed: int) -> None:
        """Drop files until so many more bytes keep the limit."""
        kept = [path for path in self.folder.iterdir() if path.is_file() and not path.name.startswith(".")]
        kept.sort(key=lambda path: path.stat().st_mtime_ns)
        total = sum(path.stat().st_size for path in kept) + needed
        for path in kept:
            if total <= self.limit_bytes:
                return
            total -= path.stat().st_size
            path.unlink()
        if total > self.limit_bytes:
            raise UserError(f"data.cache_gb={self.limit_bytes / 1e9:g} is less than one shard of {total / 1e9:.3g} GB")


def _kept(path: Path, check: Check | None) -> BinaryIO | None:
    """The file in the folder, None where there is none or it is not what is expected."""
    try:
        file = path.open("rb")
    except FileNotFoundError:
        return None
    try:
        if check is not None:
            check(file)
    except BadFile:
        file.close()
        return None
    return file


# ------------------------------------------------------------------ from servers


class _TooSlow(Exception):
    pass


def _download(address: str, aside: Path, make_room: Callable[[int], None], *checks: Check | None) -> None:
    """Fetch a file. make_room: called with its size, and again as it grows beyond that; what it raises ends all."""
    files, path = _file_system(address)
    for pause in (*bounds.PAUSES_S, None):
        aside.unlink(missing_ok=True)
        try:
            watch = _watching(make_room)
            if address.startswith("hf://"):  # the hub's answer does not say it
                watch.set_size(files.info(path)["size"])
            files.get_file(path, str(aside), callback=watch)
            received = aside.stat().st_size
            make_room(received)  # where the size was not known before
            if watch.size is not None and received != watch.size:
                raise BadFile(f"cannot fetch '{address}': {received} bytes of {watch.size} came")
            with aside.open("rb") as file:
                for check in filter(None, checks):
                    check(file)
            return
        except Exception as error:  # every file system has its own kinds
            if isinstance(error, UserError) and not isinstance(error, BadFile):
                raise
            if isinstance(error, OSError) and error.errno in FULL:
                raise
            if pause is None or isinstance(error, FileNotFoundError):
                raise _unreachable(address, error) from error
            print(f"note: {_unreachable(address, error)}; trying again in {pause:g} s", file=sys.stderr, flush=True)
            time.sleep(pause)


def _watching(make_room: Callable[[int], None]) -> Any:
    from fsspec import Callback

    class Watching(Callback):  # type: ignore[misc]
        """size: as the server says it, None where it does not."""

        received, reserved, begun = 0, 0, time.monotonic()

        def set_size(self, size: int | None) -> None:
            if size is not None:
                self.size = size
                self._reserve(size)

        def relative_update(self, inc: int = 1) -> None:
            self.received += inc
            self._reserve(self.received)
            seconds = time.monotonic() - self.begun
            if seconds > bounds.SILENT_S and self.received < bounds.SLOWEST * seconds:
                raise _TooSlow(f"{self.received} bytes came in {seconds:.0f} s, fewer than {bounds.SLOWEST:,} a second")

        def _reserve(self, size: int) -> None:
            if size > self.reserved:
                self.reserved = size
                make_room(size)

    return Watching()


def _file_system(address: str) -> tuple[Any, str]:
    """Raises `UserError` for a kind of address that cannot be opened here."""
    from fsspec.core import url_to_fs

    try:
        whole = revealed(address)
        options: dict[str, Any] = {}
        if whole.startswith(("http://", "https://")):
            from aiohttp import ClientTimeout

            wait = ClientTimeout(bounds.ONE_FILE_S, sock_connect=bounds.CONNECT_S, sock_read=bounds.SILENT_S)
            # bytes as they are: a packed body could unpack to anything
            options = {
                "client_kwargs": {"timeout": wait, "auto_decompress": False},
                "headers": {"Accept-Encoding": "identity"},
            }
        elif whole.startswith(("s3://", "s3a://")):
            options = {"config_kwargs": {"connect_timeout": bounds.CONNECT_S, "read_timeout": bounds.SILENT_S}}
        elif whole.startswith("hf://"):
            options = {"block_size": 0}  # a file is one request; blocks would be one each, and held whole at any length
        files, path = url_to_fs(whole, **options)
    except KeyError as error:
        raise UserError(
            f"cannot open '{address}': its password or token is written nowhere; give the whole address again, "
            "with resume= too: data=NAME data.root=URL"
        ) from error
    except (ImportError, ValueError) as error:
        raise UserError(
            f"cannot read '{address}': {redacted(one_line(error))}; https needs pip install -c constraints.txt "
            "-e '.[stream]', s3:// '.[s3]', hf:// '.[hub]'"
        ) from error
    return files, path


def _unreachable(address: str, error: Exception) -> BadFile:
    if isinstance(error, FileNotFoundError):
        reason = "no such file"
        if error.__cause__ is not None:  # what there is none of, a repository for instance
            reason += f": {redacted(one_line(error))}"
    elif isinstance(error, BadFile):
        return error
    elif isinstance(error, _TooSlow):
        reason = str(error)
    elif isinstance(error, TimeoutError):
        reason = (
            f"no answer within {bounds.CONNECT_S:g} s, nothing for {bounds.SILENT_S:g} s, "
            f"or not all within {bounds.ONE_FILE_S / 3600:g} hours"
        )
    else:
        reason = f"{type(error).__name__}: {redacted(one_line(error))}"
    return BadFile(f"cannot fetch '{redacted(address)}': {reason}")
