"""A folder of images for every class: ROOT/CLASS/*, or ROOT/train/CLASS/* with ROOT/val or ROOT/test beside it."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from nas.data.decoders import image_endings
from nas.data.folders import Layout, Part, PassedOver, images_in, layout_of, printable
from nas.data.named import Epochs, NamedDataSet, Peeked
from nas.data.settings import ImageFileSettings
from search_space.errors import BadFile, UserError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from nas.data.dataset import DataSet


@dataclass(frozen=True)
class ImageFolderSettings(ImageFileSettings):
    """root: the folder that holds the folders of the classes, or a folder for each split with them."""


def _peek(settings: ImageFolderSettings) -> Peeked:
    return Peeked(_layout(settings).class_names)


def _layout(settings: ImageFolderSettings) -> Layout:
    if not settings.root:
        raise UserError("data=imagefolder needs data.root=FOLDER with a folder of images for every class")
    return layout_of(Path(settings.root).expanduser())


def _load(settings: ImageFolderSettings) -> DataSet:
    import numpy as np

    from nas.data.pictures import Pictures, data_set_of

    layout, passed = _layout(settings), PassedOver()
    names, root = layout.class_names, layout.around[0]
    found = {role: _files(part, names, passed) for role, part in {"train": layout.train, **layout.held_out}.items()}
    if empty := sorted(set(range(len(names))) - set(found["train"][1].tolist())):
        folder = layout.train.classes[names[empty[0]]][0]
        raise BadFile(f"'{folder}' holds no image ({', '.join(sorted(image_endings()))})")
    for role, (files, _) in found.items():
        if not files:
            part = layout.held_out[role]
            raise BadFile(f"'{part.folder}' holds no image; without it, a part of the images is held out")
    _count_around(layout, passed)
    files = [path for own, _ in found.values() for path in own]
    pictures = Pictures(
        files,
        [printable(str(path.relative_to(root))) for path in files],
        np.concatenate([labels for _, labels in found.values()]),
        [role for role, (own, _) in found.items() for _ in own],
    )
    where = {"train": layout.train, **layout.held_out} if layout.held_out else {}
    said = {role: f"'{printable(part.folder.name)}'" for role, part in where.items()}
    data = data_set_of(pictures, printable(root.name), names, settings, said, "folder")
    counts, *notes = data.found
    return replace(data, found=(f"{counts}; {passed.describe(image_endings())}", *layout.notes, *notes))


def _files(part: Part, names: tuple[str, ...], passed: PassedOver) -> tuple[list[Path], NDArray[np.int64]]:
    """A split's images, class after class, and their labels (n,)."""
    import numpy as np

    files: list[Path] = []
    labels: list[int] = []
    for label, name in enumerate(names):
        found = [path for folder in part.classes.get(name, ()) for path in images_in(folder, image_endings(), passed)]
        files += sorted(found)
        labels += [label] * len(found)
    return files, np.array(labels, dtype=np.int64)


def _count_around(layout: Layout, passed: PassedOver) -> None:
    """Count the files that are in no class folder."""
    for folder in layout.around:
        if stray := sum(1 for _ in images_in(folder, image_endings(), passed, deep=False)):
            passed.reasons["outside of class folders"] += stray
    for folder in layout.unused:
        others = PassedOver()
        images = sum(1 for _ in images_in(folder, image_endings(), others))
        passed.reasons[f"in the folder '{printable(folder.name)}'"] += images + others.files


DATA_SET = NamedDataSet(
    ImageFolderSettings("imagefolder", resolution=128, validation_share=0.1), Epochs(2, 4, 4), _peek, _load
)
