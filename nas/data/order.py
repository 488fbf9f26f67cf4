"""Which images come in which batch of an epoch, in each of several processes.

A function of (seed, epoch) alone, so that an epoch can be entered at any batch. Images in shards are met almost one
shard after another, and every process has shards of its own; all processes have equally many batches.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from nas.data.sources import ImageSource, ShardedSource
from nas.run.distributed import Place
from search_space.errors import UserError


def steps_of(images: int, batch_size: int) -> int:
    """Training batches in one epoch: the last partial one is dropped, unless it is the only one."""
    return max(1, images // batch_size)


def batches_of(
    source: ImageSource,
    indices: NDArray[np.int64],
    labels: NDArray[np.int64],
    batch_size: int,
    draws: tuple[int, int] | None,
    place: Place,
) -> list[NDArray[np.int64]]:
    """The part of every batch that this process has, as positions in `indices` and `labels` (n,).

    draws: (seed, epoch) of a training order; None: every image once, in an order whose every beginning holds the
    classes in their proportions, or for shards as they were packed. BatchNorm's statistics, and an accuracy on the
    first few batches, are then of all classes, though folders come class by class. Without a last partial batch
    (unless it is the only one) for training, otherwise in batches of nearly equal size, since a last batch of one
    image has no batch statistics. Raises `UserError` where processes cannot have equal parts.
    """
    n = len(indices)
    count = steps_of(n, batch_size) if draws else -(-n // batch_size)
    used = min(n, count * batch_size) if draws else n
    smallest = used // count
    if smallest < place.ranks or (draws and (used % count or smallest % place.ranks)):
        raise UserError(
            f"batches of {smallest} images cannot be divided among {place.ranks} processes; "
            "make train.batch_size (recipe.batch_size) a multiple of them"
        )
    rng = np.random.default_rng(draws) if draws else None
    if not isinstance(source, ShardedSource):
        order = rng.permutation(n) if rng else by_class_in_turn(labels, seed=4)
        return [np.array_split(batch, place.ranks)[place.rank] for batch in np.array_split(order[:used], count)]
    shards = source.shard_of(indices)
    order = shard_after_shard(shards, rng) if rng else np.arange(n)
    mine = np.array_split(order[:used], place.ranks)[place.rank]
    if rng:  # none moves by more than the window
        window = source.window * n / len(np.unique(shards))
        mine = mine[np.argsort(np.arange(len(mine)) + rng.uniform(0, window, len(mine)))]
    return np.array_split(mine, count)


def by_class_in_turn(labels: NDArray[np.int64], seed: int) -> NDArray[np.int64]:
    """All positions in an order whose every beginning holds the classes in their proportions."""
    rng = np.random.default_rng(seed)
    place = np.empty(len(labels))
    for label in np.unique(labels):
        positions = rng.permutation(np.flatnonzero(labels == label))
        place[positions] = (np.arange(len(positions)) + 0.5) / len(positions)
    return np.argsort(place, kind="stable")


def shard_after_shard(shards: NDArray[np.int32], rng: np.random.Generator) -> NDArray[np.int64]:
    """Positions of images, all of one shard and then all of the next; shards and the images in them at random."""
    turn = rng.permutation(int(shards.max()) + 1)[shards]
    return np.lexsort((rng.random(len(shards)), turn))


def shards_to_come(source: ImageSource, batches: Sequence[NDArray[np.int64]]) -> deque[tuple[int, int]]:
    """(number of the batch, shard) where each shard is first needed, in that order; empty without shards."""
    if not isinstance(source, ShardedSource) or not batches:
        return deque()
    shards, first = np.unique(source.shard_of(np.concatenate(batches)), return_index=True)
    batch = np.repeat(np.arange(len(batches)), [len(indices) for indices in batches])
    return deque((int(batch[first[i]]), int(shards[i])) for i in np.argsort(first))
