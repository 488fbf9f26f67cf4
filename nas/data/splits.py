"""Which images are for weights, which for validation, which for the test: never by a run's seed."""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from nas.data.dataset import DataSet, Split
from nas.data.folders import listed
from nas.data.order import by_class_in_turn, shard_after_shard
from nas.data.soundness import Findings
from nas.data.sources import EncodedSource, ImageSource, ShardedSource
from nas.run.result import InputFormat
from search_space.errors import UserError
from search_space.reading import shown

UNEVEN = 3  # times as many training images of one class as of another, from which it is said


def split_by_class(labels: NDArray[np.int64], share: float, seed: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Positions of (the rest, a held-out share), the share drawn from every class alike."""
    rng = np.random.default_rng(seed)
    held = np.zeros(len(labels), dtype=bool)
    for label in np.unique(labels):
        positions = rng.permutation(np.flatnonzero(labels == label))
        held[positions[: max(1, round(share * len(positions)))]] = True
    return np.flatnonzero(~held), np.flatnonzero(held)


def split_by_key(
    labels: NDArray[np.int64], keys: Sequence[str], share: float, seed: int, least: int = 1
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Positions of (the rest, a held-out share of every class), the keys with the smallest hashes.

    Which images are held out depends on their keys alone, not on names or order, and images of one key stay together.
    Of a class at least one is held out, and the share is kept as nearly as whole keys allow; `least` others are left
    where there are as many. labels: (n,).
    """
    numbers = {one: number for number, one in enumerate(dict.fromkeys(keys))}
    drawn = np.array([_drawn(one, seed) for one in numbers])
    key = np.array([numbers[one] for one in keys], dtype=np.int64)
    held = np.zeros(len(numbers), dtype=bool)
    for label in np.unique(labels):
        own, sizes = np.unique(key[labels == label], return_counts=True)
        order = np.argsort(drawn[own], kind="stable")
        own, sizes = own[order], sizes[order]
        target = max(1, min(round(share * sizes.sum()), sizes.sum() - least))
        count = sizes[held[own]].sum()
        for one, size in zip(own, sizes, strict=True):
            if count >= target:
                break
            if not held[one] and abs(count + size - target) < target - count:
                held[one] = True
                count += size
        if not count:
            held[own[np.argmin(sizes)]] = True
    return np.flatnonzero(~held[key]), np.flatnonzero(held[key])


def _drawn(key: str, seed: int) -> float:
    """From 0 to 1, the same for a key at all times."""
    return int.from_bytes(hashlib.sha256(f"{seed} {key}".encode()).digest()[:8]) / 2**64


def hold_out(
    split: Split, share: float, seed: int, keys: Sequence[str] | None = None, least: int = 1
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Positions of (the rest, a held-out share).

    keys: of every image of the source, see `split_by_key`; `least`, too. Without keys:
    whole shards, so that each is read for one of the two only, where both sides then have every class; otherwise a
    share of every class.
    """
    if keys is not None:
        return split_by_key(split.labels, [keys[index] for index in split.indices], share, seed, least)
    if isinstance(split.source, ShardedSource):
        order = _by_shard_in_turn(split, seed)
        held, rest = np.split(order, [max(1, round(share * len(order)))])
        if len(np.unique(split.labels[held])) == len(np.unique(split.labels[rest])) == len(np.unique(split.labels)):
            return np.sort(rest), np.sort(held)
    return split_by_class(split.labels, share, seed)


def _first(split: Split, limit: int) -> NDArray[np.int64]:
    """So many positions: of the fewest shards, or with the classes in their proportions."""
    if isinstance(split.source, ShardedSource):
        return np.sort(_by_shard_in_turn(split, seed=3)[:limit])
    return np.sort(by_class_in_turn(split.labels, seed=3)[:limit])


def _by_shard_in_turn(split: Split, seed: int) -> NDArray[np.int64]:
    assert isinstance(split.source, ShardedSource)
    return shard_after_shard(split.source.shard_of(split.indices), np.random.default_rng(seed))


def assemble(
    data: DataSet,
    trained: Split,
    test: Split | None,
    validation_share: float,
    limit: int | None,
    validation: Split | None = None,
    where: Mapping[str, str] | None = None,
    keys: Sequence[str] | None = None,
) -> DataSet:
    """Hold out validation and test, where the data has none; the split never depends on a run's seed.

    What the data has of its own may lack classes. where: for 'train', 'validation' and 'test', in words, where those
    images are. keys: see `hold_out`. `DataSet.found` says how the images are divided. Raises `UserError` for too few
    images.
    """
    if not 0.01 <= validation_share <= 0.9:
        raise UserError(f"data.validation_share={validation_share} is not between 0.01 and 0.9")
    own = {"validation": validation, "test": test}
    given = [split.labels for split in (trained, validation, test) if split is not None]
    counts = np.bincount(np.concatenate(given), minlength=data.num_classes)
    if test is None:
        rest, held = hold_out(trained, 0.2, 1, keys, least=2 if validation is None else 1)
        trained, test = trained.take(rest), trained.take(held)
    if limit is not None:
        if limit < 4 * data.num_classes:
            raise UserError(
                f"data.limit={limit} is too few for {data.num_classes} classes; use {4 * data.num_classes} or more"
            )
        if limit < len(trained):
            trained = trained.take(_first(trained, limit))
    if validation is None:
        rest, held = hold_out(trained, validation_share, 2, keys)
        trained, validation = trained.take(rest), trained.take(held)
    data = replace(data, train=trained, validation=validation, test=test)
    notes, splits = [], (data.train, data.validation, data.test)
    for name, split in zip(("train", "validation", "test"), splits, strict=True):
        if len(split) < 2:
            raise UserError(
                f"data '{data.name}' leaves {len(split)} images for {name}; it needs more images"
                f"{_tied(None, splits, keys)}"
            )
        lacking = [data.class_names[i] for i in sorted(set(range(data.num_classes)) - set(split.labels.tolist()))]
        if lacking and own.get(name) is None:
            number = data.class_names.index(lacking[0])
            raise UserError(
                f"data '{data.name}' has too few images of class {shown(lacking[0])}: none is left for {name}"
                f"{_tied(number, splits, keys)}"
            )
        if lacking:
            notes.append(f"the {name} images lack {len(lacking)} of {data.num_classes} classes: {listed(lacking)}")
    notes += _uneven(data)
    held_out = {name for name, split in own.items() if split is None}
    data = replace(data, drawn=frozenset(held_out))
    return replace(data, found=(_divided(data, counts, held_out, where or {}), *data.found, *notes))


def _uneven(data: DataSet) -> list[str]:
    """A sentence where some classes have many times the training images that others have."""
    counts = np.bincount(data.train.labels, minlength=data.num_classes)
    fewest, most = counts.argmin(), counts.argmax()
    if counts[most] < UNEVEN * counts[fewest]:
        return []
    return [
        f"classes are uneven: '{data.class_names[fewest]}' has {counts[fewest]} training images, "
        f"'{data.class_names[most]}' has {counts[most]}; train.balance=1 (recipe.balance=1 of nas.train) weighs "
        "them alike"
    ]


def _tied(label: int | None, splits: Sequence[Split], keys: Sequence[str] | None) -> str:
    """In words, how many images of a class (None: of all) there are, where some of them have to stay together."""
    if keys is None:
        return ""
    kept = [split.indices if label is None else split.indices[split.labels == label] for split in splits]
    own = [keys[index] for indices in kept for index in indices]
    if len(set(own)) == len(own):
        return ""
    return f"; its {len(own)} images are {len(set(own))} without copies and groups, which stay together"


def _divided(data: DataSet, counts: NDArray[np.int64], held_out: Collection[str], where: Mapping[str, str]) -> str:
    """In a sentence, how many images and classes there are and how they are divided. counts: (classes,) images."""
    total, fewest, most = int(counts.sum()), counts.min(), counts.max()
    each = f"{most}" if fewest == most else f"{fewest} to {most}"
    parts = []
    for name, split in (("train", data.train), ("validation", data.validation), ("test", data.test)):
        origin = "held out" if name in held_out else where.get(name)
        parts.append(f"{name} {len(split)}" + (f" ({origin})" if origin else ""))
    unused = total - len(data.train) - len(data.validation) - len(data.test)
    limited = f", and data.limit leaves out {unused}" if unused else ""
    return (
        f"data {data.name}: {total} images of {data.num_classes} classes ({listed(data.class_names)}), {each} each; "
        f"{', '.join(parts)}{limited}"
    )


def whole(source: ImageSource, labels: NDArray[np.int64]) -> Split:
    """Every image of a source, with its label. labels: (n,)."""
    return Split(source, np.arange(len(labels)), labels.astype(np.int64))


def no_images(name: str, inputs: InputFormat) -> DataSet:
    """What a network trained elsewhere wants to see, where there are no images to show it."""
    nothing = whole(EncodedSource(()), np.empty(0, np.int64))
    data = DataSet(name, inputs.class_names, nothing, nothing, nothing, inputs.mean, inputs.std)
    if (shown := inputs.preprocessing) is None:
        return data
    return replace(data, findings=Findings(ground=shown.ground)).varied(shown.training_flip, shown.training_crop)
