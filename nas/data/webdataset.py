"""Images in webdataset's tar shards: on this disk, or streamed through a cache that is smaller than they are."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from nas.data.folders import NOTHING_PASSED
from nas.data.named import Epochs, NamedDataSet, Peeked
from nas.data.settings import ImageFileSettings
from search_space.errors import UserError
from search_space.reading import PATH, Above, AtMost, Between

if TYPE_CHECKING:
    from nas.data.dataset import DataSet
    from nas.data.shards.cache import FileCache
    from nas.data.shards.index import ShardedImages, ShardIndex


@dataclass(frozen=True)
class WebDatasetSettings(ImageFileSettings):
    """root: a folder or URL that `nas.pack` wrote, or a folder of shards alone."""

    train: Annotated[str | None, "instead of root, patterns such as URL/train-{000..999}.tar, several joined by ::"] = (
        None
    )
    test: Annotated[str | None, "the same (null: a fifth of the images is held out)"] = None
    cache: Annotated[
        str | None,
        PATH,
        "where remote shards, and the indices of those that have none, are kept (null: ~/.cache/quadranas)",
    ] = None
    cache_gb: Annotated[
        float, Above(0), AtMost(1e6), "and how much of them, in GB; those that were read longest ago are removed first"
    ] = 10.0
    shuffle_shards: Annotated[int, Between(1, 1_000_000), "images are mixed within so many shards"] = 8


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

    from nas.data.addresses import is_remote
    from nas.data.dataset import DataSet, Split
    from nas.data.reduced import KeptImages, Purpose
    from nas.data.shards.source import TarSource
    from nas.data.soundness import Findings, look_through, sound
    from nas.data.splits import assemble

    images, cache = _find(settings)
    splits = images.splits
    _check_room(list(splits.values()), cache, settings.shuffle_shards)
    others = sum(int(index.others.sum()) for index in splits.values())
    passed = f"passed over: {others} files that are neither an image nor its label" if others else NOTHING_PASSED
    kept = KeptImages()

    def split_of(index: ShardIndex) -> Split:
        source = TarSource(index, cache, settings.shuffle_shards, settings.ground, kept)
        return Split(source, np.arange(len(index)), index.label)

    parts = {name: split_of(index) for name, index in splits.items()}
    trained = parts["train"]
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
    purpose = Purpose(settings.resolution, data.as_asked(settings).crop)

    def look(split: Split, fully: bool) -> Findings:
        assert isinstance(split.source, TarSource)
        source, positions = split.source, split.indices.tolist()
        remote = is_remote(source.index.addresses[0])
        # every image was decoded when it was packed: remote ones need not be fetched now, and many local ones need not
        # be read now if the digest of each is compared at every read
        if images.packed and (remote or (not fully and source.index.sealed)):
            return Findings(ground=settings.ground)
        if not remote:
            return look_through(source, positions, purpose, fully, settings.ground)
        return source.remembered(
            positions, lambda: look_through(source, positions, purpose, True, settings.ground), settings.ground
        )

    def assembled(parts: Sequence[Split | None]) -> DataSet:
        trained, validation, test = parts
        assert trained is not None
        divided = assemble(data, trained, test, settings.validation_share, settings.limit, validation)
        counts, *notes = divided.found
        return replace(divided, found=(f"{counts}; {passed}", *notes))

    given = [parts.get(name) for name in ("train", "validation", "test")]
    return sound(given, settings.damaged, look, assembled)


def _check_room(parts: Sequence[ShardIndex], cache: FileCache, window: int) -> None:
    """Raise `UserError` if the cache holds less than what is read at the same time."""
    from nas.data.addresses import is_remote

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
