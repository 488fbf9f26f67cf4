"""Packs of encoded images: .npz files without pickles."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nas.data.dataset import DataSet, Split
from nas.data.sources import ArraySource, EncodedSource
from nas.data.splits import assemble, whole
from search_space.errors import BadFile, UserError, one_line


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
    return assemble(data, trained, tested, validation_share, limit)


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
    return whole(source, labels), names


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
