"""A folder of images for every class."""

from __future__ import annotations

import os
import sys
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np

from nas.data.dataset import DataSet, Split
from nas.data.sources import IMAGE_ENDINGS, EncodedSource
from nas.data.splits import assemble, whole
from nas.run.settings import class_folders, is_hidden
from search_space.errors import BadFile, UserError

VERIFY_UP_TO = 20_000  # image files that are read once at the start, to find damaged ones
NAMED = 6  # endings of files that are left out


def load_imagefolder(root: str | None, validation_share: float = 0.1, limit: int | None = None) -> DataSet:
    """A folder per class: ROOT/CLASS/*, or ROOT/train/CLASS/* with ROOT/val or ROOT/test beside it.

    `val` (or `test`) becomes the test split. What is hidden is passed over, other files with a note. Raises `BadFile`.
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
    return assemble(data, trained, test, validation_share, limit)


def _read_folder(folder: Path, names: tuple[str, ...]) -> Split:
    if extra := set(class_folders(folder)) - set(names):
        raise BadFile(f"'{folder}' has class '{min(extra)}', which the training images lack")
    files: list[Path | bytes] = []
    labels: list[int] = []
    others: Counter[str] = Counter()
    for label, name in enumerate(names):
        found = []
        for path in (folder / name).rglob("*"):
            if any(map(is_hidden, path.parts[len(folder.parts) :])):
                continue
            if path.suffix.lower() in IMAGE_ENDINGS:
                found.append(path)
            elif path.is_file():
                others[path.suffix.lower() or "without an ending"] += 1
        if not found:
            raise BadFile(f"'{folder / name}' holds no image ({', '.join(sorted(IMAGE_ENDINGS))})")
        files += sorted(found)
        labels += [label] * len(found)
    if others:
        _tell(folder, others)
    source = EncodedSource(files)
    if len(files) <= VERIFY_UP_TO:  # told now rather than after the search
        with ThreadPoolExecutor() as pool:
            for _ in pool.map(source.read, range(len(files))):
                pass
    return whole(source, np.array(labels, dtype=np.int64))


def _tell(folder: Path, others: Counter[str]) -> None:
    """Which files are no images here; of several processes (torchrun) only the first speaks."""
    if os.environ.get("RANK", "0") == "0":
        often = sorted(others, key=lambda ending: (-others[ending], ending))
        listed = [f"{others[ending]} {ending}" for ending in often[:NAMED]] + ["..."] * (len(often) > NAMED)
        images = ", ".join(sorted(IMAGE_ENDINGS))
        print(f"note: files in '{folder}' are left out: {', '.join(listed)}; images are {images}", file=sys.stderr)
