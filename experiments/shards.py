"""Packs of encoded images, two .npz files without pickles, as tar shards that `data=webdataset` reads.

Command    python -m experiments.shards train=FILE.npz test=FILE.npz out=FOLDER
           python -m experiments.table3 data=webdataset data.root=FOLDER data.resolution=64 data.limit=6000

Every image keeps its bytes and its label; the index beside the shards keeps the names of the classes. The shards are
`nas.pack`'s, in its random order, and validation images come from shards of their own: from equal seeds a training
meets other batches than one that read the pack itself. Not for CIFAR-10's sprites: `data=cifar10` reads those.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING

from latency_models.options import Options, run
from search_space.errors import BadFile, UserError, one_line
from search_space.files import ensure_folder

if TYPE_CHECKING:
    from nas.data import DataSet, Split

OPTIONS = {
    "train": "the pack of images to train on (needed)",
    "test": "the pack of images to test on, with the same classes (needed)",
    "out": "a new folder for the shards (needed)",
    "shard_mb": "size of a shard (default: 20)",
}


def read_pack(path: Path) -> tuple[Split, tuple[str, ...]]:
    """The images of a pack in its order, and the names of their classes. Raises `BadFile`.

    Its arrays: `data`, the bytes of all images but their headers; `offsets` (n + 1,) of each in it; `labels` (n,);
    `class_names`; `header_data` and `header_offsets`, the same of the headers that images have in common; `header_id`
    (n,), which header each image begins with.
    """
    import numpy as np

    from nas.data import EncodedSource
    from nas.data.splits import whole

    if not path.is_file():
        raise BadFile(f"no file '{path}'")
    try:
        with path.open("rb") as file, np.load(file, allow_pickle=False) as pack:
            if "grid" in pack.files:
                raise BadFile(f"'{path}' holds sprites, whose images have no bytes of their own; data=cifar10 reads it")
            fields = {name: pack[name] for name in pack.files}
        names = tuple(str(name) for name in fields["class_names"])
        labels = fields["labels"].astype(np.int64)
        headers, bodies = (
            [fields[f"{part}data"][a:b].tobytes() for a, b in pairwise(fields[f"{part}offsets"])]
            for part in ("header_", "")
        )
        images = [headers[number] + body for number, body in zip(fields["header_id"], bodies, strict=True)]
    except BadFile:
        raise
    except Exception as error:  # numpy and zipfile raise many kinds for a damaged archive
        raise BadFile(f"'{path}' is not a readable image pack: {one_line(error)}") from error
    if len(labels) != len(images):
        raise BadFile(f"'{path}' has {len(labels)} labels for {len(images)} images")
    if len(labels) == 0 or labels.min() < 0 or labels.max() >= len(names):
        raise BadFile(f"'{path}' has a label outside 0..{len(names) - 1}, its classes")
    return whole(EncodedSource(images, f"image of {path}"), labels), names


def read_packs(train: Path, test: Path) -> DataSet:
    """Both packs, with ImageNet's mean and deviation and no validation images. Raises `BadFile`."""
    import numpy as np

    from nas.data import DataSet

    trained, names = read_pack(train)
    tested, test_names = read_pack(test)
    if names != test_names:
        raise BadFile(f"'{train}' and '{test}' do not have the same classes")
    nothing = trained.take(np.empty(0, np.int64))
    return DataSet(train.stem, names, trained, nothing, tested, (0.485, 0.456, 0.406), (0.229, 0.224, 0.225))


def write_shards(options: Options) -> str:
    """Do what the command does. Raises `UserError`."""
    from nas.pack import pack

    folder = Path(options.text("out")).expanduser()
    train, test = (Path(options.text(name)).expanduser() for name in ("train", "test"))
    if folder.exists() and any(ensure_folder(folder).iterdir()):
        raise UserError(f"the folder '{folder}' is not empty; name another with out=")
    return pack(read_packs(train, test), folder, options.number("shard_mb", 20.0))


def main(arguments: Sequence[str]) -> int:
    """The exit status."""
    return run(write_shards, OPTIONS, "python -m experiments.shards train=FILE.npz test=FILE.npz out=FOLDER", arguments)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
