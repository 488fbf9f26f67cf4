"""Labelled images for search and training: three splits that share no image.

`train` is for weights, `validation` for gates and re-ranking, `test` for the reported accuracy alone.
Images stay uint8 until a batch is asked for; every batch is a function of (seed, epoch, index), so a
run can be repeated. Files are never unpickled. Not for transforming labels (mixup lives in `nas.training`).
"""

from __future__ import annotations

import hashlib
import io
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from itertools import islice, pairwise
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError
from torch import Tensor
from torch.nn import functional as F

from nas.distributed import Place
from nas.settings import class_folders
from search_space.errors import BadFile, UserError, one_line

VERIFY_UP_TO = 20_000  # image files that are read once at the start, to find damaged ones
IMAGE_ENDINGS = {".jpg", ".jpeg", ".png", ".bmp", ".webp", ".ppm"}


class ImageSource(Protocol):
    """Images by index, at their own size."""

    def __len__(self) -> int: ...

    def read(self, index: int) -> NDArray[np.uint8]:
        """(H, W, 3). Raises `BadFile` naming an image that cannot be read."""


class ArraySource:
    """Images in memory. images: (N, H, W, 3) uint8."""

    def __init__(self, images: NDArray[np.uint8]) -> None:
        self.images = images

    def __len__(self) -> int:
        return len(self.images)

    def read(self, index: int) -> NDArray[np.uint8]:
        image: NDArray[np.uint8] = self.images[index]
        return image


class EncodedSource:
    """Images as files or as encoded bytes, decoded when read."""

    def __init__(self, items: Sequence[Path | bytes], where: str = "image") -> None:
        self.items = items
        self.where = where

    def __len__(self) -> int:
        return len(self.items)

    def read(self, index: int) -> NDArray[np.uint8]:
        item = self.items[index]
        try:
            with Image.open(io.BytesIO(item) if isinstance(item, bytes) else item) as image:
                return np.array(image.convert("RGB"))
        except (UnidentifiedImageError, Image.DecompressionBombError, OSError, ValueError, SyntaxError) as error:
            name = f"{self.where} {index}" if isinstance(item, bytes) else item
            raise BadFile(f"cannot read {name}: {one_line(error)}; mend or remove it") from error


@dataclass(frozen=True)
class Split:
    """Some images of a source. indices, labels: (n,) int64."""

    source: ImageSource
    indices: NDArray[np.int64]
    labels: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.indices)

    def take(self, positions: NDArray[np.int64]) -> Split:
        return Split(self.source, self.indices[positions], self.labels[positions])


@dataclass(frozen=True)
class DataSet:
    """Three disjoint splits and what a deployed network must know of its input."""

    name: str
    class_names: tuple[str, ...]
    train: Split
    validation: Split
    test: Split
    mean: tuple[float, float, float] = (0.5, 0.5, 0.5)
    std: tuple[float, float, float] = (0.25, 0.25, 0.25)
    flip: bool = True  # mirrored images keep their class
    crop: str = "shift"  # 'shift': moved by up to 1/8; 'resized': RandomResizedCrop; 'none'
    place: Place = field(default_factory=Place)  # batches go to its device, and of every batch it gets its share

    @property
    def num_classes(self) -> int:
        return len(self.class_names)

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
        an equal part of every training batch; `UserError` where that cannot be.
        """
        order = np.random.default_rng((seed, epoch)).permutation(len(split)) if training else np.arange(len(split))
        if training and len(order) >= batch_size:
            chunks = np.split(order[: len(order) // batch_size * batch_size], len(order) // batch_size)
        else:  # nearly equal, since a last batch of one image has no batch statistics
            chunks = np.array_split(order, -(-len(order) // batch_size))
        ranks = self.place.ranks
        if any(len(chunk) < ranks or (training and len(chunk) % ranks) for chunk in chunks):
            raise UserError(
                f"batches of {len(chunks[-1])} images cannot be divided among {ranks} processes; "
                "make train.batch_size (recipe.batch_size) a multiple of them"
            )
        chunks = [np.array_split(chunk, ranks)[self.place.rank] for chunk in chunks]
        draws = (seed, epoch) if training else None
        jobs = (split.take(chunk) for chunk in chunks[start:])
        with ThreadPoolExecutor(1) as ahead:  # the next batch is made while this one is used
            waiting = [ahead.submit(self._batch, job, resolution, draws) for job in islice(jobs, 2)]
            while waiting:
                images, labels = waiting.pop(0).result()
                waiting += [ahead.submit(self._batch, job, resolution, draws) for job in islice(jobs, 1)]
                yield self._placed(images), self._placed(labels)

    def steps(self, split: Split, batch_size: int) -> int:
        """Training batches in one epoch."""
        return max(1, len(split) // batch_size)

    @property
    def digest(self) -> str:
        """Tells data sets apart by what is cheap to read: classes, and which image with which label is where."""
        digest = hashlib.sha256("\n".join(self.class_names).encode())
        for split in (self.train, self.validation, self.test):
            digest.update(split.indices.tobytes() + split.labels.tobytes())
        return digest.hexdigest()

    def _placed(self, values: Tensor) -> Tensor:
        if self.place.device.type == "cpu":
            return values
        return values.pin_memory().to(self.place.device, non_blocking=True)

    def _batch(self, split: Split, resolution: int, draws: tuple[int, int] | None) -> tuple[Tensor, Tensor]:
        """`draws` seed the augmentation of every image, whatever batch it is in; None: no augmentation."""
        images = []
        for index in split.indices:
            rng = None if draws is None else np.random.default_rng((*draws, int(index)))
            images.append(_augment(split.source.read(int(index)), self, rng))
        if len({image.shape for image in images}) == 1:
            x = _resize(np.stack(images), resolution)
        else:
            x = torch.cat([_resize(image[None], resolution) for image in images])
        mean = torch.tensor(self.mean).view(3, 1, 1)
        std = torch.tensor(self.std).view(3, 1, 1)
        x = ((x / 255.0 - mean) / std).contiguous(memory_format=torch.channels_last)
        return x, torch.from_numpy(split.labels)


def _resize(images: NDArray[np.uint8], resolution: int) -> Tensor:
    x = torch.from_numpy(images).permute(0, 3, 1, 2).float()
    if x.shape[-2:] != (resolution, resolution):
        smaller = min(x.shape[-2:]) > resolution
        x = F.interpolate(x, (resolution, resolution), mode="bilinear", align_corners=False, antialias=smaller)
    return x


def _augment(image: NDArray[np.uint8], data: DataSet, rng: np.random.Generator | None) -> NDArray[np.uint8]:
    """The image at random place and side, or as it is without `rng`."""
    height, width = image.shape[:2]
    if rng and data.crop == "shift":
        border = max(1, height // 8)
        padded = np.pad(image, ((border, border), (border, border), (0, 0)), mode="edge")
        top, left = rng.integers(0, 2 * border + 1, size=2)
        image = padded[top : top + height, left : left + width]
    elif data.crop == "resized":
        area = height * width * (rng.uniform(0.08, 1.0) if rng else 0.875**2)
        ratio = float(np.exp(rng.uniform(np.log(3 / 4), np.log(4 / 3)))) if rng else 1.0
        h = min(height, max(1, round((area / ratio) ** 0.5)))
        w = min(width, max(1, round((area * ratio) ** 0.5)))
        if not rng:  # the centre square
            h = w = max(1, round(0.875 * min(height, width)))
        top = int(rng.integers(0, height - h + 1)) if rng else (height - h) // 2
        left = int(rng.integers(0, width - w + 1)) if rng else (width - w) // 2
        image = image[top : top + h, left : left + w]
    if rng and data.flip and rng.random() < 0.5:
        image = image[:, ::-1].copy()  # one pixel wide, it would keep a negative stride
    return np.ascontiguousarray(image)


def split_by_class(labels: NDArray[np.int64], share: float, seed: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Positions of (the rest, a held-out share), the share drawn from every class alike."""
    rng = np.random.default_rng(seed)
    held = np.zeros(len(labels), dtype=bool)
    for label in np.unique(labels):
        positions = rng.permutation(np.flatnonzero(labels == label))
        held[positions[: max(1, round(share * len(positions)))]] = True
    return np.flatnonzero(~held), np.flatnonzero(held)


def _by_class_in_turn(labels: NDArray[np.int64], seed: int) -> NDArray[np.int64]:
    """All positions in an order whose every beginning holds the classes in their proportions."""
    rng = np.random.default_rng(seed)
    place = np.empty(len(labels))
    for label in np.unique(labels):
        positions = rng.permutation(np.flatnonzero(labels == label))
        place[positions] = (np.arange(len(positions)) + 0.5) / len(positions)
    return np.argsort(place, kind="stable")


def _assemble(data: DataSet, trained: Split, test: Split | None, validation_share: float, limit: int | None) -> DataSet:
    """Hold out validation (and test, where the data has none) by class; the split never depends on a run's seed."""
    if not 0.01 <= validation_share <= 0.9:
        raise UserError(f"data.validation_share={validation_share} is not between 0.01 and 0.9")
    if test is None:
        rest, held = split_by_class(trained.labels, 0.2, seed=1)
        trained, test = trained.take(rest), trained.take(held)
    if limit is not None:
        if limit < 4 * data.num_classes:
            raise UserError(
                f"data.limit={limit} is too few for {data.num_classes} classes; use {4 * data.num_classes} or more"
            )
        if limit < len(trained):
            trained = trained.take(np.sort(_by_class_in_turn(trained.labels, seed=3)[:limit]))
    rest, held = split_by_class(trained.labels, validation_share, seed=2)
    data = replace(data, train=trained.take(rest), validation=trained.take(held), test=test)
    for name, split in (("train", data.train), ("validation", data.validation), ("test", data.test)):
        if len(split) < 2:
            raise UserError(f"data '{data.name}' leaves {len(split)} images for {name}; it needs more images")
        lacking = sorted(set(range(data.num_classes)) - set(split.labels.tolist()))
        if lacking:
            raise UserError(
                f"data '{data.name}' has too few images of class '{data.class_names[lacking[0]]}': "
                f"none is left for {name}"
            )
    return data


def _whole(source: ImageSource, labels: NDArray[np.int64]) -> Split:
    return Split(source, np.arange(len(labels)), labels.astype(np.int64))


def load_digits(validation_share: float = 0.25, limit: int | None = None) -> DataSet:
    """scikit-learn's 1,797 handwritten digits (8x8, UCI): real images that need no download."""
    from sklearn.datasets import load_digits as digits

    bunch = digits()
    grey = (bunch.images * (255.0 / 16.0)).round().astype(np.uint8)
    everything = _whole(ArraySource(np.repeat(grey[..., None], 3, axis=3)), bunch.target)
    names = tuple(str(n) for n in bunch.target_names)
    data = DataSet("digits", names, everything, everything, everything, flip=False)
    return _assemble(data, everything, None, validation_share, limit)


def load_cifar10(root: str | None, validation_share: float = 0.2, limit: int | None = None) -> DataSet:
    """CIFAR-10 from a folder with the binary version (data_batch_1.bin ...) or packed sprites.

    The Python version is pickled and is not read. Raises `BadFile`.
    """
    if not root:
        raise UserError("data=cifar10 needs data.root=FOLDER with data_batch_1.bin .. 5.bin and test_batch.bin")
    folder = Path(root).expanduser()
    if (folder / "cifar-10-batches-bin").is_dir():
        folder = folder / "cifar-10-batches-bin"
    names = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
    if (folder / "test_batch.bin").is_file():
        trained = _read_cifar_binary([folder / f"data_batch_{i}.bin" for i in range(1, 6)])
        test = _read_cifar_binary([folder / "test_batch.bin"])
    else:
        packs = sorted(folder.glob("cifar10_train*.npz")), sorted(folder.glob("cifar10_test*.npz"))
        if not all(packs):
            pickled = (
                " (the Python version found there is pickled and is not read)"
                if (folder / "test_batch").exists()
                else ""
            )
            raise BadFile(
                f"no CIFAR-10 in '{folder}'{pickled}; it needs data_batch_1.bin .. 5.bin and test_batch.bin "
                "of cifar-10-binary.tar.gz"
            )
        (trained, _), (test, _) = read_packed(packs[0][0]), read_packed(packs[1][0])
    data = DataSet("cifar10", names, trained, trained, test, (0.491, 0.482, 0.447), (0.247, 0.243, 0.262))
    return _assemble(data, trained, test, validation_share, limit)


def _read_cifar_binary(paths: list[Path]) -> Split:
    images, labels = [], []
    for path in paths:
        if not path.is_file():
            raise BadFile(f"'{path}' is missing")
        raw = np.fromfile(path, dtype=np.uint8)
        if len(raw) == 0 or len(raw) % 3073:
            raise BadFile(f"'{path}' is truncated: {len(raw)} bytes are not a multiple of 3073")
        rows = raw.reshape(-1, 3073)
        if rows[:, 0].max() > 9:
            raise BadFile(f"'{path}' holds a label above 9; it is not CIFAR-10's binary version")
        labels.append(rows[:, 0].astype(np.int64))
        images.append(rows[:, 1:].reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1))
    return _whole(ArraySource(np.concatenate(images)), np.concatenate(labels))


def load_packed(
    train: str | None, test: str | None, validation_share: float = 0.2, limit: int | None = None
) -> DataSet:
    """Two .npz packs of encoded images (see `read_packed`), one to train on and one to test on."""
    if not train or not test:
        raise UserError("data=packed needs data.train=FILE.npz and data.test=FILE.npz")
    trained, names = read_packed(Path(train).expanduser())
    tested, test_names = read_packed(Path(test).expanduser())
    if names != test_names:
        raise BadFile(f"'{train}' and '{test}' do not have the same classes")
    data = DataSet(Path(train).stem, names, trained, trained, tested, (0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
    return _assemble(data, trained, tested, validation_share, limit)


def read_packed(path: Path) -> tuple[Split, tuple[str, ...]]:
    """An .npz without pickles: `data` (bytes), `offsets`, `labels`, `class_names`, and either

    `grid`, `shape`: images of one size tiled into encoded sprites, or `header_data`,
    `header_offsets`, `header_id`: JPEGs whose common headers are stored once. Raises `BadFile`.
    """
    if not path.is_file():
        raise BadFile(f"no file '{path}'")
    try:
        with path.open("rb") as file, np.load(file, allow_pickle=False) as pack:
            fields = {name: pack[name] for name in pack.files}
        names = tuple(str(name) for name in fields["class_names"])
        labels = fields["labels"].astype(np.int64)
        source = _packed_sprites(fields, path) if "grid" in fields else _packed_files(fields, path)
    except BadFile:
        raise
    except Exception as error:  # numpy and zipfile raise many kinds for a damaged archive
        raise BadFile(f"'{path}' is not a readable image pack: {one_line(error)}") from error
    if len(labels) != len(source):
        raise BadFile(f"'{path}' has {len(labels)} labels for {len(source)} images")
    if len(labels) == 0 or labels.min() < 0 or labels.max() >= len(names):
        raise BadFile(f"'{path}' has a label outside 0..{len(names) - 1}, its classes")
    return _whole(source, labels), names


def _packed_sprites(fields: Mapping[str, NDArray[Any]], path: Path) -> ArraySource:
    count, height, width, _ = (int(v) for v in fields["shape"])
    rows, columns = (int(v) for v in fields["grid"])
    encoded = [fields["data"][a:b].tobytes() for a, b in pairwise(fields["offsets"])]
    sprites = EncodedSource(encoded, f"sprite of {path}")
    images = np.empty((count, height, width, 3), np.uint8)
    for number, start in enumerate(range(0, count, rows * columns)):
        sprite = sprites.read(number)
        tiles = sprite.reshape(-1, height, columns, width, 3).swapaxes(1, 2).reshape(-1, height, width, 3)
        images[start : start + rows * columns] = tiles[: count - start]
    return ArraySource(images)


def _packed_files(fields: Mapping[str, NDArray[Any]], path: Path) -> EncodedSource:
    headers = [fields["header_data"][a:b].tobytes() for a, b in pairwise(fields["header_offsets"])]
    bodies = [fields["data"][a:b].tobytes() for a, b in pairwise(fields["offsets"])]
    return EncodedSource(
        [headers[h] + body for h, body in zip(fields["header_id"], bodies, strict=True)], f"image of {path}"
    )


def load_imagefolder(root: str | None, validation_share: float = 0.1, limit: int | None = None) -> DataSet:
    """A folder per class: ROOT/CLASS/*, or ROOT/train/CLASS/* with ROOT/val or ROOT/test beside it.

    `val` (or `test`) becomes the test split. Raises `BadFile`.
    """
    if not root:
        raise UserError("data=imagefolder needs data.root=FOLDER with a folder of images for every class")
    folder = Path(root).expanduser()
    train_folder = folder / "train" if (folder / "train").is_dir() else folder
    test_folder = next((folder / n for n in ("test", "val") if train_folder != folder and (folder / n).is_dir()), None)
    if not train_folder.is_dir():
        raise BadFile(f"no folder '{folder}'")
    names = class_folders(train_folder)
    if len(names) < 2:
        raise BadFile(f"'{train_folder}' has {len(names)} class folders; it needs one folder of images for every class")
    trained = _read_folder(train_folder, names)
    test = _read_folder(test_folder, names) if test_folder else None
    data = DataSet(
        folder.name, names, trained, trained, trained, (0.485, 0.456, 0.406), (0.229, 0.224, 0.225), crop="resized"
    )
    return _assemble(data, trained, test, validation_share, limit)


def _read_folder(folder: Path, names: tuple[str, ...]) -> Split:
    if extra := set(class_folders(folder)) - set(names):
        raise BadFile(f"'{folder}' has class '{min(extra)}', which the training images lack")
    files: list[Path | bytes] = []
    labels: list[int] = []
    for label, name in enumerate(names):
        found = sorted(p for p in (folder / name).rglob("*") if p.suffix.lower() in IMAGE_ENDINGS)
        if not found:
            raise BadFile(f"'{folder / name}' holds no image ({', '.join(sorted(IMAGE_ENDINGS))})")
        files += found
        labels += [label] * len(found)
    source = EncodedSource(files)
    if len(files) <= VERIFY_UP_TO:  # told now rather than after the search
        with ThreadPoolExecutor() as pool:
            for _ in pool.map(source.read, range(len(files))):
                pass
    return _whole(source, np.array(labels, dtype=np.int64))
