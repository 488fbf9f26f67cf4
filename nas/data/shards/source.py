"""Images read from tar shards, on this disk or in a cache. Not for where they lie: that is `nas.data.shards.index`."""

from __future__ import annotations

import os
from contextlib import suppress
from typing import BinaryIO

import numpy as np
from numpy.typing import NDArray

from nas.data.shards.cache import FileCache, is_remote
from nas.data.shards.index import ShardIndex, member_name, wrong_size
from nas.data.sources import decode
from search_space.errors import UserError


class TarSource:
    """Images of indexed shards, each read by its position. window: see `nas.data.sources.ShardedSource`."""

    def __init__(self, index: ShardIndex, cache: FileCache, window: int) -> None:
        self.index, self.cache, self.window = index, cache, window

    def __len__(self) -> int:
        return len(self.index)

    def shard_of(self, indices: NDArray[np.int64]) -> NDArray[np.int32]:
        """The number of each image's shard, (n,)."""
        return self.index.shard[indices]

    def prepare(self, shard: int) -> None:
        """Fetch it if it is remote; what fails is reported when it is read."""
        address = self.index.addresses[shard]
        if is_remote(address):
            with suppress(UserError):
                self.cache.open(address).close()

    def encoded(self, index: int) -> bytes:
        """The bytes of an image's file. Raises `BadFile`, also for a shard that is not what was indexed."""
        with self._open(index) as file:
            return self._content(file, index)

    def read(self, index: int) -> NDArray[np.uint8]:
        """(H, W, 3) uint8. Raises `BadFile` naming shard and member."""
        with self._open(index) as file:
            offset, address = int(self.index.offset[index]), self.index.addresses[self.index.shard[index]]
            return decode(self._content(file, index), lambda: f"'{member_name(file, offset)}' of shard '{address}'")

    def _open(self, index: int) -> BinaryIO:
        return self.cache.open(self.index.addresses[self.index.shard[index]])

    def _content(self, file: BinaryIO, index: int) -> bytes:
        number = self.index.shard[index]
        found, expected = os.fstat(file.fileno()).st_size, self.index.shard_bytes[number]
        if found != expected:
            address = self.index.addresses[number]
            raise wrong_size(address, found, int(expected), self.cache if is_remote(address) else None)
        return os.pread(file.fileno(), int(self.index.size[index]), int(self.index.offset[index]))
