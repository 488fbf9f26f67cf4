"""Labelled images for search and training: three splits that share no image, and their batches.

`train` is for weights, `validation` for gates and re-ranking, `test` for the reported accuracy alone.
Images stay uint8 until a batch is asked for; every batch is a function of (seed, epoch, index), so a
run can be repeated. Not for transforming labels (mixup lives in `nas.training.mixing`).
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from itertools import islice
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from nas.data.order import batches_of, shards_to_come, steps_of
from nas.data.record import Identities, Record, Recorded
from nas.data.reduced import CENTRE_SHARE, Purpose
from nas.data.settings import CROPS, EARLIER_CROPS, Colour, DataSettings
from nas.data.soundness import Findings
from nas.data.sources import FileSource, Fingerprinted, ImageSource, NamedSource, ShardedSource
from nas.run.distributed import Place
from nas.run.result import InputFormat, Preprocessing
from search_space.errors import UnknownName


def preparing_threads(place: Place) -> int:
    """How many threads decode and augment: one beside a CPU that trains; for a GPU this process' share of the cores."""
    if place.device.type == "cpu":
        return 1
    return max(1, min(16, (os.cpu_count() or 1) // int(os.environ.get("LOCAL_WORLD_SIZE", "1"))))


@dataclass(frozen=True)
class Split:
    """Some images of a source. indices, labels: (n,) int64."""

    source: ImageSource
    indices: NDArray[np.int64]
    labels: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.indices)

    def take(self, positions: NDArray[np.int64]) -> Split:
        """The images at these positions of the split, (m,)."""
        return Split(self.source, self.indices[positions], self.labels[positions])


@dataclass(frozen=True)
class DataSet:
    """Three disjoint splits and what a deployed network must know of its input.

    crop, in training and in evaluation: 'shift', moved by up to 1/8, then the whole picture; 'random', 0.08 to 1 of the
    picture's area with sides of 3:4 to 4:3 (RandomResizedCrop), then the middle square; 'centre', the middle square in
    both, its side `CENTRE_SHARE` of the shorter one; 'whole', the whole picture in both. What is left is resized to a
    square. Raises `UnknownName` for another crop.
    """

    name: str
    class_names: tuple[str, ...]
    train: Split
    validation: Split
    test: Split
    mean: Colour = (0.5, 0.5, 0.5)
    std: Colour = (0.25, 0.25, 0.25)
    flip: bool = True  # mirrored images keep their class
    crop: str = "shift"
    found: tuple[str, ...] = ()  # sentences on what was found in the images, for whoever reads a result
    findings: Findings = field(default_factory=Findings)  # which images are damaged, and so in no split
    identities: Identities | None = None  # of files: then all splits are of one source
    drawn: frozenset[str] = frozenset()  # 'validation' and 'test', if held out of the training images
    place: Place = field(default_factory=Place)  # batches go to its device, and of every batch it gets its share

    def __post_init__(self) -> None:
        crop = str(self.crop)
        object.__setattr__(self, "crop", EARLIER_CROPS.get(crop, crop))
        if self.crop not in CROPS:
            raise UnknownName("crop", crop, CROPS)

    @property
    def num_classes(self) -> int:
        """Number of classes."""
        return len(self.class_names)

    @property
    def inputs(self) -> InputFormat:
        """What a network trained on this must be shown."""
        centre = self.crop in ("centre", "random")
        preprocessing = Preprocessing(
            crop="centre" if centre else "whole",
            crop_share=CENTRE_SHARE if centre else 1.0,
            training_crop=self.crop,
            training_flip=self.flip,
            ground=self.findings.ground,
        )
        return InputFormat(self.mean, self.std, self.class_names, preprocessing)

    def varied(
        self, flip: bool | None, crop: str | None, mean: Colour | None = None, std: Colour | None = None
    ) -> DataSet:
        """With another flip, crop and normalisation; None: its own. Raises `UnknownName` for a crop that is none."""
        return replace(
            self,
            flip=self.flip if flip is None else flip,
            crop=crop or self.crop,
            mean=mean or self.mean,
            std=std or self.std,
        )

    def as_asked(self, settings: DataSettings) -> DataSet:
        """Varied as the settings say. Raises `UnknownName`."""
        return self.varied(settings.flip, settings.crop, settings.mean, settings.std)

    @property
    def at_hand(self) -> bool:
        """False for `no_images`."""
        return len(self.test) > 0

    @property
    def said(self) -> tuple[str, ...]:
        """What was found, a line each: the images and how they are divided, then notes."""
        return (*self.found[:1], *(f"note: {sentence}" for sentence in self.found[1:]))

    def batches(
        self,
        split: Split,
        resolution: int,
        batch_size: int,
        seed: int = 0,
        epoch: int = 0,
        training: bool = False,
        start: int = 0,
    ) -> Iterator[tuple[Tensor, Tensor]]:
        """(images (N, 3, R, R) normalised channels_last, labels (N,)) over one epoch, from batch `start` on.

        `training` shuffles, augments and drops the last partial batch (unless it is the only one);
        otherwise every image comes once, in batches of nearly equal size. Of several processes each gets
        an equal part of every training batch (`nas.data.order`); `UserError` where that cannot be.
        """
        draws = (seed, epoch) if training else None
        chunks = batches_of(split.source, split.indices, split.labels, batch_size, draws, self.place)
        count = preparing_threads(self.place)
        ahead, fetching = ThreadPoolExecutor(count), ThreadPoolExecutor(1)
        try:
            jobs = _prepared(split, chunks[start:], fetching)
            # the next batches are made while this one is used
            waiting = [ahead.submit(self._batch, job, resolution, draws) for job in islice(jobs, count + 1)]
            while waiting:
                images, labels = waiting.pop(0).result()
                waiting += [ahead.submit(self._batch, job, resolution, draws) for job in islice(jobs, 1)]
                yield self._placed(images), self._placed(labels)
        finally:
            # not waited for: what is left early may be collected in any thread, even in one that these need to end
            for pool in (ahead, fetching):
                pool.shutdown(wait=False, cancel_futures=True)

    def names_in_order(self, split: Split, batch_size: int) -> list[str]:
        """Of a split's images as `batches` gives them outside of training; '' where the source knows no names."""
        if not isinstance(split.source, NamedSource):
            return [""] * len(split)
        order = np.concatenate(batches_of(split.source, split.indices, split.labels, batch_size, None, self.place))
        return [split.source.name(index) for index in split.indices[order].tolist()]

    def steps(self, split: Split, batch_size: int) -> int:
        """Training batches in one epoch."""
        return steps_of(len(split), batch_size)

    @property
    def digest(self) -> str:
        """A hash of classes, of which image, with which label, is in which split, and of what was left out.

        Images are known by their content where that is known, otherwise by their position alone.
        """
        digest = hashlib.sha256("\n".join(map(_on_one_line, self.class_names)).encode())
        for split in (self.train, self.validation, self.test):
            digest.update(split.indices.tobytes() + split.labels.tobytes())
            if self.identities:
                digest.update("".join(self.identities.contents[index] for index in split.indices).encode())
        for fact in self.findings.facts():
            digest.update(f"\n{_on_one_line(fact)}".encode())
        return digest.hexdigest()

    @property
    def files(self) -> str:
        """A hash of where in which files the images lie, of sources that tell it but know no contents; else ''."""
        sources = {id(split.source): split.source for split in (self.train, self.validation, self.test)}
        return " ".join(source.fingerprint for source in sources.values() if isinstance(source, Fingerprinted))

    @property
    def record(self) -> Record | None:
        """Which image is in which split, where images have names and contents."""
        if self.identities is None:
            return None
        names, contents = self.identities.names, self.identities.contents
        used = {"train": self.train, "validation": self.validation, "test": self.test}
        rows = {
            int(index): Recorded(role, self.class_names[label], contents[index], names[index])
            for role, split in used.items()
            for index, label in zip(split.indices, split.labels, strict=True)
        }
        unused = (Recorded("none", "", content, name) for name, content in zip(names, contents, strict=True))
        return Record(tuple(rows.get(index, one) for index, one in enumerate(unused) if one.sha256))

    def divided_as(self, before: Record) -> DataSet:
        """With images that an earlier run had in a split in the same one, where the data has no splits of its own.

        New ones go with those that they stay together with, otherwise they are where they were drawn.
        """
        if self.identities is None or not self.drawn:
            return self
        was = {image.sha256: image.split for image in reversed(before.images) if image.split != "none"}
        keys, contents = self.identities.keys, self.identities.contents
        of_key = {key: was[content] for key, content in zip(keys, contents, strict=True) if content in was}
        used = {"train": self.train, "validation": self.validation, "test": self.test}
        own: dict[str, list[tuple[int, int]]] = {role: [] for role in used}
        for role, split in used.items():
            for index, label in zip(split.indices.tolist(), split.labels.tolist(), strict=True):
                to = of_key.get(keys[index], role)
                movable = {role, to} <= {"train", *self.drawn}
                own[to if movable else role].append((index, label))
        if not all(own.values()):
            return self
        divided = {
            role: Split(self.train.source, *np.array(sorted(images), dtype=np.int64).T) for role, images in own.items()
        }
        return replace(self, train=divided["train"], validation=divided["validation"], test=divided["test"])

    def save_found(self, folder: Path) -> None:
        """Write into a run's folder which images there are and which are damaged. Raises `CannotWrite`."""
        self.findings.save(folder)
        if record := self.record:
            record.save(folder)

    def changed_since(self, folder: Path) -> Callable[[], str]:
        """Asked for, what is other than when `save_found` wrote into that folder, in words."""

        def changes() -> str:
            before, now = Record.load(folder), self.record
            return before.changes(now) if before and now else ""

        return changes

    def _placed(self, values: Tensor) -> Tensor:
        if self.place.device.type == "cpu":
            return values
        return values.pin_memory().to(self.place.device, non_blocking=True)

    def _batch(self, split: Split, resolution: int, draws: tuple[int, int] | None) -> tuple[Tensor, Tensor]:
        """`draws` seed the augmentation of every image, whatever batch it is in; None: no augmentation."""
        images, purpose = [], Purpose(resolution, self.crop)
        for index in split.indices:
            rng = None if draws is None else np.random.default_rng((*draws, int(index)))
            images.append(_augment(_read(split.source, int(index), purpose), self, rng))
        if len({image.shape for image in images}) == 1:
            x = _resize(np.stack(images), resolution)
        else:
            x = torch.cat([_resize(image[None], resolution) for image in images])
        mean = torch.tensor(self.mean).view(3, 1, 1)
        std = torch.tensor(self.std).view(3, 1, 1)
        x = ((x / 255.0 - mean) / std).contiguous(memory_format=torch.channels_last)
        return x, torch.from_numpy(split.labels)


def _on_one_line(text: str) -> str:
    """Different for different texts; one without line breaks and backslashes stays as it is."""
    return text.replace("\\", "\\\\").replace("\n", "\\n")


def _prepared(split: Split, chunks: Sequence[NDArray[np.int64]], fetching: ThreadPoolExecutor) -> Iterator[Split]:
    """The split's chunks one by one; the next shard is fetched meanwhile."""
    coming = shards_to_come(split.source, [split.indices[chunk] for chunk in chunks])
    for number, chunk in enumerate(chunks):
        while coming and coming[0][0] <= number:
            coming.popleft()
            if coming and isinstance(split.source, ShardedSource):
                fetching.submit(split.source.prepare, coming[0][1])
        yield split.take(chunk)


def _read(source: ImageSource, index: int, purpose: Purpose) -> NDArray[np.uint8]:
    return source.read_for(index, purpose) if isinstance(source, FileSource) else source.read(index)


def _resize(images: NDArray[np.uint8], resolution: int) -> Tensor:
    x = torch.from_numpy(images).permute(0, 3, 1, 2).float()
    if x.shape[-2:] != (resolution, resolution):
        smaller = min(x.shape[-2:]) > resolution
        x = F.interpolate(x, (resolution, resolution), mode="bilinear", align_corners=False, antialias=smaller)
    return x


def _augment(image: NDArray[np.uint8], data: DataSet, rng: np.random.Generator | None) -> NDArray[np.uint8]:
    """The part of an image that is shown: drawn by `rng` in training, always the same without."""
    height, width = image.shape[:2]
    if rng and data.crop == "shift":
        border = max(1, height // 8)
        padded = np.pad(image, ((border, border), (border, border), (0, 0)), mode="edge")
        top, left = rng.integers(0, 2 * border + 1, size=2)
        image = padded[top : top + height, left : left + width]
    elif rng and data.crop == "random":
        area = height * width * rng.uniform(0.08, 1.0)
        ratio = float(np.exp(rng.uniform(np.log(3 / 4), np.log(4 / 3))))
        h = min(height, max(1, round((area / ratio) ** 0.5)))
        w = min(width, max(1, round((area * ratio) ** 0.5)))
        top = int(rng.integers(0, height - h + 1))
        left = int(rng.integers(0, width - w + 1))
        image = image[top : top + h, left : left + w]
    elif data.crop in ("centre", "random"):
        side = max(1, round(CENTRE_SHARE * min(height, width)))
        top, left = (height - side) // 2, (width - side) // 2
        image = image[top : top + side, left : left + side]
    if rng and data.flip and rng.random() < 0.5:
        image = image[:, ::-1].copy()  # one pixel wide, it would keep a negative stride
    return np.ascontiguousarray(image)
