"""Which images are for weights, which for validation, which for the test: never by a run's seed."""

from __future__ import annotations

from collections.abc import Collection, Mapping
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


def split_by_class(labels: NDArray[np.int64], share: float, seed: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Positions of (the rest, a held-out share), the share drawn from every class alike."""
    rng = np.random.default_rng(seed)
    held = np.zeros(len(labels), dtype=bool)
    for label in np.unique(labels):
        positions = rng.permutation(np.flatnonzero(labels == label))
        held[positions[: max(1, round(share * len(positions)))]] = True
    return np.flatnonzero(~held), np.flatnonzero(held)


def hold_out(split: Split, share: float, seed: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Positions of (the rest, a held-out share).

    Whole shards, so that each is read for one of the two only, where both sides then have every class; otherwise a
    share of every class.
    """
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
) -> DataSet:
    """Hold out validation and test, where the data has none; the split never depends on a run's seed.

    What the data has of its own may lack classes. where: for 'train', 'validation' and 'test', in words, where those
    images are. `DataSet.found` says how the images are divided. Raises `UserError` for too few images.
    """
    if not 0.01 <= validation_share <= 0.9:
        raise UserError(f"data.validation_share={validation_share} is not between 0.01 and 0.9")
    own = {"validation": validation, "test": test}
    total = len(trained) + sum(len(split) for split in own.values() if split is not None)
    if test is None:
        rest, held = hold_out(trained, 0.2, seed=1)
        trained, test = trained.take(rest), trained.take(held)
    if limit is not None:
        if limit < 4 * data.num_classes:
            raise UserError(
                f"data.limit={limit} is too few for {data.num_classes} classes; use {4 * data.num_classes} or more"
            )
        if limit < len(trained):
            trained = trained.take(_first(trained, limit))
    if validation is None:
        rest, held = hold_out(trained, validation_share, seed=2)
        trained, validation = trained.take(rest), trained.take(held)
    data = replace(data, train=trained, validation=validation, test=test)
    notes = []
    for name, split in (("train", data.train), ("validation", data.validation), ("test", data.test)):
        if len(split) < 2:
            raise UserError(f"data '{data.name}' leaves {len(split)} images for {name}; it needs more images")
        lacking = [data.class_names[i] for i in sorted(set(range(data.num_classes)) - set(split.labels.tolist()))]
        if lacking and own.get(name) is None:
            raise UserError(f"data '{data.name}' has too few images of class '{lacking[0]}': none is left for {name}")
        if lacking:
            notes.append(f"the {name} images lack {len(lacking)} of {data.num_classes} classes: {listed(lacking)}")
    held_out = {name for name, split in own.items() if split is None}
    return replace(data, found=(_divided(data, total, held_out, where or {}), *data.found, *notes))


def _divided(data: DataSet, total: int, held_out: Collection[str], where: Mapping[str, str]) -> str:
    """In a sentence, how many images and classes there are and how they are divided."""
    parts = []
    for name, split in (("train", data.train), ("validation", data.validation), ("test", data.test)):
        origin = "held out" if name in held_out else where.get(name)
        parts.append(f"{name} {len(split)}" + (f" ({origin})" if origin else ""))
    unused = total - len(data.train) - len(data.validation) - len(data.test)
    limited = f", and data.limit leaves out {unused}" if unused else ""
    return (
        f"data {data.name}: {total} images of {data.num_classes} classes ({listed(data.class_names)}); "
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
