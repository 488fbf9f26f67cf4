"""Images in webdataset's tar shards: on this disk, or streamed through a cache that is smaller than they are."""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from nas.data.named import Epochs, NamedDataSet, Peeked
from nas.data.settings import DataSettings, require
from search_space.errors import UserError

if TYPE_CHECKING:
    from nas.data.dataset import DataSet
    from nas.data.shards.cache import FileCache
    from nas.data.shards.index import ShardedImages, ShardIndex


@dataclass(frozen=True)
class WebDatasetSettings(DataSettings):
    """root: a folder or URL that `nas.pack` wrote, or a folder of shards alone.

    train, test: instead of root, patterns of shards such as URL/train-{000..999}.tar, several joined by '::'; without
    test a fifth of the images is held out. cache: the folder for remote shards and for the indices of those that have
    none (None: ~/.cache/quadranas). cache_gb: what it may hold; shards that were read longest ago go first.
    shuffle_shards: images are mixed within so many shards.
    """

    train: str | None = None
    test: str | None = None
    cache: str | None = None
    cache_gb: float = 10.0
    shuffle_shards: int = 8

    def __post_init__(self) -> None:
        super().__post_init__()
        require(0 < self.cache_gb < math.inf, "data.cache_gb", self.cache_gb, "above 0")
        require(self.shuffle_shards >= 1, "data.shuffle_shards", self.shuffle_shards, "1 or more")


def _peek(settings: WebDatasetSettings) -> Peeked:
    return Peeked(_find(settings)[0].class_names)


def _find(settings: WebDatasetSettings) -> tuple[ShardedImages, FileCache]:
    from nas.data.shards.cache import FileCache
    from nas.data.shards.index import find_shards

    home = Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache") / "quadranas"
    cache = FileCache(Path(settings.cache or home).expanduser(), round(settings.cache_gb * 1e9))
    return find_shards(settings.root, settings.train, settings.test, cache), cache


def _load(settings: WebDatasetSettings) -> DataSet:
    import numpy as np

    from nas.data.dataset import DataSet, Split
    from nas.data.shards.source import TarSource
    from nas.data.splits import assemble

    images, cache = _find(settings)
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


def _check_room(parts: Sequence[ShardIndex], cache: FileCache, window: int) -> None:
    """Raise `UserError` if the cache holds less than what is read at the same time."""
    from nas.data.shards.cache import is_remote

    remote = [int(size) for part in parts if is_remote(part.addresses[0]) for size in part.shard_bytes]
    # training and validation batches in turn; a window, the shard that leaves it and the one fetched ahead
    at_once = 2 * (window + 2) * int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
    needed = sum(sorted(remote, reverse=True)[:at_once])
    if needed > cache.limit_bytes:
        raise UserError(
            f"data.cache_gb={cache.limit_bytes / 1e9:g} is too small for the {min(at_once, len(remote))} shards that "
            f"are read in turn; set data.cache_gb={needed / 1e9:.2g} or more, or a smaller data.shuffle_shards"
        )


DATA_SET = NamedDataSet(
    WebDatasetSettings("webdataset", resolution=128, validation_share=0.1), Epochs(2, 4, 4), _peek, _load
)
