"""A folder of images for every class: ROOT/CLASS/*, or ROOT/train/CLASS/* with ROOT/val or ROOT/test beside it."""

from __future__ import annotations

import os
import sys
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING

from nas.data.named import Epochs, NamedDataSet, Peeked
from nas.data.settings import DataSettings
from search_space.errors import BadFile, UserError

if TYPE_CHECKING:
    from nas.data.dataset import DataSet, Split

VERIFY_UP_TO = 20_000  # image files that are read once at the start, to find damaged ones
NAMED = 6  # endings of files that are left out


def _peek(settings: DataSettings) -> Peeked:
    return Peeked(_classes(settings.root)[1])


def _classes(root: str | None) -> tuple[Path, tuple[str, ...]]:
    """The folder of the training images and the names of its classes. Raises `BadFile`."""
    if not root:
        raise UserError("data=imagefolder needs data.root=FOLDER with a folder of images for every class")
    folder = Path(root).expanduser()
    folder = folder / "train" if (folder / "train").is_dir() else folder
    if not folder.is_dir():
        raise BadFile(f"no folder '{folder}'")
    names = _class_folders(folder)
    if len(names) < 2:
        raise BadFile(f"'{folder}' has {len(names)} class folders; it needs one folder of images for every class")
    return folder, names


def _class_folders(folder: Path) -> tuple[str, ...]:
    """Names of a folder's sub-folders in order, hidden ones left out."""
    return tuple(sorted(p.name for p in folder.iterdir() if p.is_dir() and not _is_hidden(p.name)))


def _is_hidden(name: str) -> bool:
    """Whether a file or folder is no image or class: of the system, or of macOS' archives."""
    return name.startswith(".") or name == "__MACOSX"


def _load(settings: DataSettings) -> DataSet:
    """`val` (or `test`) becomes the test split. What is hidden is passed over, other files with a note."""
    from nas.data.dataset import DataSet
    from nas.data.splits import assemble

    train_folder, names = _classes(settings.root)
    folder = Path(settings.root or "").expanduser()
    test_folder = next((folder / n for n in ("test", "val") if train_folder != folder and (folder / n).is_dir()), None)
    trained = _read_folder(train_folder, names)
    test = _read_folder(test_folder, names) if test_folder else None
    data = DataSet(
        folder.name, names, trained, trained, trained, (0.485, 0.456, 0.406), (0.229, 0.224, 0.225), crop="random"
    )
    return assemble(data, trained, test, settings.validation_share, settings.limit)


def _read_folder(folder: Path, names: tuple[str, ...]) -> Split:
    import numpy as np

    from nas.data.sources import IMAGE_ENDINGS, EncodedSource
    from nas.data.splits import whole

    if extra := set(_class_folders(folder)) - set(names):
        raise BadFile(f"'{folder}' has class '{min(extra)}', which the training images lack")
    files: list[Path | bytes] = []
    labels: list[int] = []
    others: Counter[str] = Counter()
    for label, name in enumerate(names):
        found = []
        for path in (folder / name).rglob("*"):
            if any(map(_is_hidden, path.parts[len(folder.parts) :])):
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
        _note(folder, others)
    source = EncodedSource(files)
    if len(files) <= VERIFY_UP_TO:  # reported now rather than after the search
        with ThreadPoolExecutor() as pool:
            for _ in pool.map(source.read, range(len(files))):
                pass
    return whole(source, np.array(labels, dtype=np.int64))


def _note(folder: Path, others: Counter[str]) -> None:
    """Say which files are no images here; of several processes (torchrun) only the first speaks."""
    from nas.data.sources import IMAGE_ENDINGS

    if os.environ.get("RANK", "0") == "0":
        often = sorted(others, key=lambda ending: (-others[ending], ending))
        listed = [f"{others[ending]} {ending}" for ending in often[:NAMED]] + ["..."] * (len(often) > NAMED)
        images = ", ".join(sorted(IMAGE_ENDINGS))
        print(f"note: files in '{folder}' are left out: {', '.join(listed)}; images are {images}", file=sys.stderr)


DATA_SET = NamedDataSet(
    DataSettings("imagefolder", resolution=128, validation_share=0.1), Epochs(2, 4, 4), _peek, _load
)
