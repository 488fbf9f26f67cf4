"""Images in webdataset's tar shards: on this disk, or streamed through a cache that is smaller than they are."""

from __future__ import annotations

import os
from contextlib import suppress
from typing import BinaryIO

import numpy as np
from numpy.typing import NDArray

from nas.data.dataset import DataSet, Split
from nas.data.shards.cache import FileCache, is_remote
from nas.data.shards.index import ShardIndex, cache_of, find_shards, member_name, wrong_size
from nas.data.sources import decode
from nas.data.splits import assemble
from nas.run.settings import DataSettings
from search_space.errors import UserError


class TarSource:
    """Images of indexed shards, each read by its position. window: see `nas.data.sources.ShardedSource`."""

    def __init__(self, index: ShardIndex, cache: FileCache, window: int) -> None:
        self.index, self.cache, self.window = index, cache, window

    def __len__(self) -> int:
        return len(self.index)

    def shard_of(self, indices: NDArray[np.int64]) -> NDArray[np.int32]:
        return self.index.shard[indices]

    def prepare(self, shard: int) -> None:
        """Fetch it if it is remote; what fails is told when it is read."""
        address = self.index.addresses[shard]
        if is_remote(address):
            with suppress(UserError):
                self.cache.open(address).close()

    def encoded(self, index: int) -> bytes:
        """Raises `BadFile`, also for a shard that is not what was indexed."""
        with self._open(index) as file:
            return self._content(file, index)

    def read(self, index: int) -> NDArray[np.uint8]:
        """(H, W, 3). Raises `BadFile` naming shard and member."""
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


def load_webdataset(settings: DataSettings) -> DataSet:
    """Shards of data.root, or of the patterns data.train and data.test. Raises `BadFile` or `UserError`."""
    images, cache = find_shards(settings), cache_of(settings)
    parts = [index for index in (images.train, images.test) if index is not None]
    _check_room(parts, cache, settings.shuffle_shards)
    trained, *tests = (
        Split(TarSource(index, cache, settings.shuffle_shards), np.arange(len(index)), index.label) for index in parts
    )
    data = DataSet(
        images.name,
        images.class_names,
        trained,
        trained,
        trained,
        images.mean,
        images.std,
        images.flip,
        images.crop,
    )
    return assemble(data, trained, tests[0] if tests else None, settings.validation_share, settings.limit)


def _check_room(parts: list[ShardIndex], cache: FileCache, window: int) -> None:
    """Raises `UserError` if the cache holds less than what is read at the same time."""
    remote = [int(size) for part in parts if is_remote(part.addresses[0]) for size in part.shard_bytes]
    # training and validation batches in turn; a window, the shard that leaves it and the one fetched ahead
    at_once = 2 * (window + 2) * int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
    needed = sum(sorted(remote, reverse=True)[:at_once])
    if needed > cache.limit_bytes:
        raise UserError(
            f"data.cache_gb={cache.limit_bytes / 1e9:g} is too small for the {min(at_once, len(remote))} shards that "
            f"are read in turn; set data.cache_gb={needed / 1e9:.2g} or more, or a smaller data.shuffle_shards"
        )
