"""A folder of images for every class: ROOT/CLASS/*, or ROOT/train/CLASS/* with ROOT/val or ROOT/test beside it."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from nas.data.decoders import image_endings
from nas.data.folders import Layout, Part, PassedOver, images_in, layout_of, printable
from nas.data.named import Epochs, NamedDataSet, Peeked
from nas.data.settings import ImageFileSettings
from search_space.errors import BadFile, UserError
from search_space.reading import OneOf

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from nas.data.dataset import DataSet


GROUPS = ("folder", "name")


@dataclass(frozen=True)
class ImageFolderSettings(ImageFileSettings):
    """root: the folder that holds the folders of the classes, or a folder for each split with them."""

    groups: Annotated[
        str | None,
        OneOf(GROUPS),
        "what stays in one split, as a patient, a scene or a burst: folder, images in one folder inside class folders; "
        "name, images whose names are alike up to the last _, - or space (null: each by itself)",
    ] = None


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
    of_role = {"train": layout.train, **layout.held_out}
    found = {role: _files(part, names, passed, settings.groups) for role, part in of_role.items()}
    if empty := sorted(set(range(len(names))) - set(found["train"][1].tolist())):
        folder = layout.train.classes[names[empty[0]]][0]
        raise BadFile(f"'{folder}' holds no image ({', '.join(sorted(image_endings()))})")
    for role, (files, _, _) in found.items():
        if not files:
            part = layout.held_out[role]
            raise BadFile(f"'{part.folder}' holds no image; without it, a part of the images is held out")
    groups = [group for _, _, own in found.values() for group in own]
    if settings.groups and not any(groups):
        lacking = {
            "folder": "no image is in a folder inside a class folder",
            "name": "no file's name has a part before a last _, - or space",
        }[settings.groups]
        raise UserError(f"data.groups={settings.groups}: in '{root}' {lacking}; data=table takes groups from a column")
    _count_around(layout, passed)
    files = [path for own, _, _ in found.values() for path in own]
    pictures = Pictures(
        files,
        [printable(str(path.relative_to(root))) for path in files],
        np.concatenate([labels for _, labels, _ in found.values()]),
        [role for role, (own, _, _) in found.items() for _ in own],
        groups,
    )
    where = of_role if layout.held_out else {}
    said = {role: f"'{printable(part.folder.name)}'" for role, part in where.items()}
    data = data_set_of(pictures, printable(root.name), names, settings, said, "folder")
    counts, *notes = data.found
    return replace(data, found=(f"{counts}; {passed.describe(image_endings())}", *layout.notes, *notes))


def _files(
    part: Part, names: tuple[str, ...], passed: PassedOver, groups: str | None
) -> tuple[list[Path], NDArray[np.int64], list[str]]:
    """A split's images, class after class, their labels (n,) and, where they are asked for, their groups."""
    import numpy as np

    found = [
        (label, path, folder)
        for label, name in enumerate(names)
        for folder in part.classes.get(name, ())
        for path in images_in(folder, image_endings(), passed)
    ]
    found.sort(key=lambda one: one[:2])
    return (
        [path for _, path, _ in found],
        np.array([label for label, _, _ in found], dtype=np.int64),
        [_group(path.relative_to(folder), groups) for _, path, folder in found] if groups else [],
    )


def _group(inside: Path, by: str) -> str:
    """The group of an image, whatever its class and split; '' for none. inside: its path in the class' folder."""
    if by == "folder":
        return "" if inside.parent == Path() else printable(str(inside.parent))
    return printable(found[1]) if (found := re.fullmatch("(.*)[_ -][^_ -]*", inside.stem)) else ""


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
