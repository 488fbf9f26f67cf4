"""Images read from tar shards, on this disk or in a cache. Not for where they lie: that is `nas.data.shards.index`."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, replace
from typing import BinaryIO

import numpy as np
from numpy.typing import NDArray

from nas.data.addresses import is_remote
from nas.data.reduced import KeptImages, Purpose
from nas.data.shards.cache import FileCache
from nas.data.shards.index import ShardIndex, member_name, wrong_size
from nas.data.soundness import Damaged, Findings
from nas.data.sources import Decoder, Seen
from search_space.errors import UserError
from search_space.files import ensure_folder, write_whole


class TarSource:
    """Images of indexed shards, each read by its position.

    window: see `nas.data.sources.ShardedSource`; ground, kept: see `nas.data.sources.EncodedSource`.
    """

    def __init__(
        self,
        index: ShardIndex,
        cache: FileCache,
        window: int,
        ground: str = "white",
        kept: KeptImages | None = None,
    ) -> None:
        self.index, self.cache, self.window = index, cache, window
        self.decoder = Decoder(ground, kept)

    def __len__(self) -> int:
        return len(self.index)

    @property
    def fingerprint(self) -> str:
        """A hash of how long the shards are, what lies where in them and, where that is known, of its bytes."""
        index, digest = self.index, hashlib.sha256()
        for values in (index.shard_bytes, index.shard, index.offset, index.size, index.label):
            digest.update(values.tobytes())
        if index.digest.any():
            digest.update(index.digest.tobytes())
        return digest.hexdigest()

    def shard_of(self, indices: NDArray[np.int64]) -> NDArray[np.int32]:
        """The number of each image's shard, (n,)."""
        return self.index.shard[indices]

    def prepare(self, shard: int) -> None:
        """Fetch it if it is remote; what fails is reported when it is read."""
        if self._is_remote(shard):
            with suppress(UserError):
                self._opened(shard).close()

    def encoded(self, index: int) -> bytes:
        """The bytes of an image's file. Raises `BadFile`, also for a shard that is not what was indexed."""
        with self._member(index) as (content, _):
            return content

    def read(self, index: int) -> NDArray[np.uint8]:
        """(H, W, 3) uint8. Raises `BadFile` naming shard and member."""
        return self.read_for(index, None)

    def read_for(self, index: int, purpose: Purpose | None) -> NDArray[np.uint8]:
        """(H, W, 3) uint8, no smaller than the purpose needs. Raises as `read` does."""
        with self._member(index) as (content, name):
            return self.decoder.decode(content, name, purpose, self._key(index))

    def look(self, index: int, purpose: Purpose | None, fully: bool) -> Seen:
        """What it is, without a sketch. Raises as `read` does."""
        with self._member(index) as (content, name):
            return replace(self.decoder.look(content, name, purpose, self._key(index), fully), sketch=None)

    def remembered(self, positions: Sequence[int], look: Callable[[], Findings], ground: str) -> Findings:
        """What was found in remote shards when they were first looked at; they are fetched for it once."""
        of = f"{self.index.addresses} {self.index.shard_bytes.tolist()} {list(positions)}"
        kept = self.cache.folder / "index" / f"{hashlib.sha256(of.encode()).hexdigest()[:32]}.json"
        with suppress(OSError, ValueError, TypeError, KeyError):  # what cannot be read is found again
            values = json.loads(kept.read_text())
            damaged = tuple(Damaged(**one) for one in values["damaged"])
            return Findings(len(positions), damaged, int(values["transparent"]), ground, int(values["frames"]))
        found = look()
        ensure_folder(kept.parent)
        write_whole(kept, json.dumps(asdict(found)).encode())
        return found

    def _key(self, index: int) -> tuple[str, int]:
        return self.index.addresses[self.index.shard[index]], int(self.index.offset[index])

    @contextmanager
    def _member(self, index: int) -> Iterator[tuple[bytes, Callable[[], str]]]:
        """An image's bytes, and how it is called. Those of a remote shard that are others are fetched again first."""
        shard, offset = int(self.index.shard[index]), int(self.index.offset[index])
        for last in (not self._is_remote(shard), True):
            with self._opened(shard) as file:
                content = os.pread(file.fileno(), int(self.index.size[index]), offset)
                if self.index.holds(index, content):
                    yield content, lambda: f"'{member_name(file, offset)}' of shard '{self._key(index)[0]}'"
                    return
                if last:
                    raise self.index.wrong_bytes(index, file)
            self.cache.drop(self.index.addresses[shard])

    def _is_remote(self, shard: int) -> bool:
        return is_remote(self.index.addresses[shard])

    def _opened(self, shard: int) -> BinaryIO:
        """Raises `BadFile` unless it is as long as its index says, a remote one after it was fetched again."""
        address, expected = self.index.addresses[shard], int(self.index.shard_bytes[shard])

        def check(file: BinaryIO) -> None:
            if (found := os.fstat(file.fileno()).st_size) != expected:
                raise wrong_size(address, found, expected, self.cache if self._is_remote(shard) else None)

        return self.cache.open(address, check, lambda file: self.index.require_whole(shard, file))
