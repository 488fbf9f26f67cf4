"""CIFAR-10 (Krizhevsky 2009) as it is published in binary, or tiled into sprites in .npz files without pickles."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING

from nas.data.named import Epochs, NamedDataSet, Peeked
from nas.data.settings import DataSettings
from search_space.errors import BadFile, UserError, one_line

if TYPE_CHECKING:
    from nas.data.dataset import DataSet, Split

CLASSES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
BINARY = "cifar-10-batches-bin"  # the folder in the published archive
ROW = 1 + 3 * 32 * 32  # bytes of an image in the binary version: its label, then red, green and blue planes


def _peek(settings: DataSettings) -> Peeked:
    """Without a root too: networks can be chosen from an earlier supernet where no image is."""
    if settings.root:
        _files(settings.root)
    return Peeked(CLASSES)


def _files(root: str) -> tuple[list[Path], list[Path]]:
    """Those of the training and of the test images. The Python version is pickled and is not read. Raises `BadFile`."""
    folder = Path(root).expanduser()
    if (folder / BINARY).is_dir():
        folder = folder / BINARY
    if not (folder / "test_batch.bin").is_file():
        return [_first(folder, "cifar10_train*.npz")], [_first(folder, "cifar10_test*.npz")]
    train = [folder / f"data_batch_{i}.bin" for i in range(1, 6)]
    for path in train:
        if not path.is_file():
            raise BadFile(f"'{path}' is missing")
    return train, [folder / "test_batch.bin"]


def _first(folder: Path, pattern: str) -> Path:
    for path in sorted(folder.glob(pattern)):
        return path
    pickled = (folder / "test_batch").exists()
    raise BadFile(
        f"no CIFAR-10 in '{folder}'{' (the Python version found there is pickled and is not read)' if pickled else ''}"
        "; it needs data_batch_1.bin .. 5.bin and test_batch.bin of cifar-10-binary.tar.gz"
    )


def _load(settings: DataSettings) -> DataSet:
    from nas.data.dataset import DataSet
    from nas.data.splits import assemble

    if not settings.root:
        raise UserError("data=cifar10 needs data.root=FOLDER with data_batch_1.bin .. 5.bin and test_batch.bin")
    trained, test = map(_read, _files(settings.root))
    data = DataSet("cifar10", CLASSES, trained, trained, test, (0.491, 0.482, 0.447), (0.247, 0.243, 0.262))
    return assemble(data, trained, test, settings.validation_share, settings.limit)


def _read(paths: list[Path]) -> Split:
    return _read_binary(paths) if paths[0].suffix == ".bin" else _read_sprites(*paths)


def _read_binary(paths: list[Path]) -> Split:
    import numpy as np

    from nas.data.sources import ArraySource
    from nas.data.splits import whole

    images, labels = [], []
    for path in paths:
        raw = np.fromfile(path, dtype=np.uint8)
        if len(raw) == 0 or len(raw) % ROW:
            raise BadFile(f"'{path}' is truncated: {len(raw)} bytes are not a multiple of {ROW}")
        rows = raw.reshape(-1, ROW)
        if rows[:, 0].max() >= len(CLASSES):
            raise BadFile(f"'{path}' holds a label above 9; it is not CIFAR-10's binary version")
        labels.append(rows[:, 0].astype(np.int64))
        images.append(rows[:, 1:].reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1))
    return whole(ArraySource(np.concatenate(images)), np.concatenate(labels))


def _read_sprites(path: Path) -> Split:
    """Images of one size tiled into encoded sprites.

    Arrays of the file: `data` (bytes of all sprites), `offsets` of each, `grid` (rows, columns), `shape` (images,
    height, width, 3) and `labels`.
    """
    import numpy as np

    from nas.data.sources import ArraySource, EncodedSource
    from nas.data.splits import whole

    try:
        with path.open("rb") as file, np.load(file, allow_pickle=False) as pack:
            fields = {name: pack[name] for name in ("data", "offsets", "grid", "shape", "labels")}
        labels = fields["labels"].astype(np.int64)
        count, height, width, _ = (int(v) for v in fields["shape"])
        rows, columns = (int(v) for v in fields["grid"])
        encoded = [fields["data"][a:b].tobytes() for a, b in pairwise(fields["offsets"])]
        sprites = EncodedSource(encoded, f"sprite of {path}")
        images = np.empty((count, height, width, 3), np.uint8)
        for number, start in enumerate(range(0, count, rows * columns)):
            tiles = sprites.read(number).reshape(-1, height, columns, width, 3).swapaxes(1, 2)
            images[start : start + rows * columns] = tiles.reshape(-1, height, width, 3)[: count - start]
    except BadFile:
        raise
    except Exception as error:  # numpy and zipfile raise many kinds for a damaged archive
        raise BadFile(f"'{path}' does not hold CIFAR-10 in sprites: {one_line(error)}") from error
    if len(labels) != count or not count or labels.min() < 0 or labels.max() >= len(CLASSES):
        raise BadFile(f"'{path}' has {len(labels)} labels for {count} images, or one outside 0..9")
    return whole(ArraySource(images), labels)


DATA_SET = NamedDataSet(DataSettings("cifar10", resolution=64, validation_share=0.2), Epochs(2, 4, 4), _peek, _load)
