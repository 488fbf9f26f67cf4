"""CIFAR-10 as it is published in binary, or packed."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from nas.data.dataset import DataSet, Split
from nas.data.packed import read_packed
from nas.data.sources import ArraySource
from nas.data.splits import assemble, whole
from search_space.errors import BadFile, UserError


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
    return assemble(data, trained, test, validation_share, limit)


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
    return whole(ArraySource(np.concatenate(images)), np.concatenate(labels))
