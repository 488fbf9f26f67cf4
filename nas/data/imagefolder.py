"""A folder of images for every class: ROOT/CLASS/*, or ROOT/train/CLASS/* with ROOT/val or ROOT/test beside it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from nas.data.folders import Layout, Part, PassedOver, images_in, layout_of, printable
from nas.data.named import Epochs, NamedDataSet, Peeked
from nas.data.settings import ImageFileSettings
from search_space.errors import BadFile, UserError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from nas.data.dataset import DataSet, Split


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
    """Without a test folder, the validation folder is the test split and validation images are held out."""
    import numpy as np

    from nas.data.dataset import DataSet, Split
    from nas.data.reduced import KeptImages, Purpose
    from nas.data.soundness import Findings, look_through, sound
    from nas.data.sources import IMAGE_ENDINGS, EncodedSource
    from nas.data.splits import assemble, whole

    layout, passed = _layout(settings), PassedOver()
    names = layout.class_names
    trained, labels = _files(layout.train, names, passed)
    if empty := sorted(set(range(len(names))) - set(labels.tolist())):
        folder = layout.train.classes[names[empty[0]]][0]
        raise BadFile(f"'{folder}' holds no image ({', '.join(sorted(IMAGE_ENDINGS))})")
    parts = dict(layout.held_out)
    where = {"train": _quoted(layout.train)} if layout.held_out else {}
    where |= {role: _quoted(part) for role, part in parts.items()}
    if "test" not in parts and "validation" in parts:
        parts["test"] = parts.pop("validation")
        where["test"] = f"{where.pop('validation')}, as there is no test folder"
    held_out = {role: _files(part, names, passed) for role, part in parts.items()}
    for role, (files, _) in held_out.items():
        if not files:
            raise BadFile(f"'{parts[role].folder}' holds no image; without it, a part of the images is held out")
    _count_around(layout, passed)

    kept = KeptImages()

    def source_of(files: list[Path]) -> EncodedSource:
        return EncodedSource(files, ground=settings.ground, kept=kept, root=layout.around[0])

    more, of_more = held_out.get("validation", ([], np.empty(0, np.int64)))
    source = source_of([*trained, *more])  # one source, so that no two images have the same number
    train = Split(source, np.arange(len(trained)), labels)
    validation = Split(source, np.arange(len(trained), len(source)), of_more) if more else None
    test = whole(source_of(held_out["test"][0]), held_out["test"][1]) if "test" in held_out else None
    mean, std = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
    data = DataSet(printable(layout.around[0].name), names, train, train, train, mean, std, crop="random")
    purpose = Purpose(settings.resolution, data.as_asked(settings).crop)

    def look(split: Split, fully: bool) -> Findings:
        assert isinstance(split.source, EncodedSource)
        return look_through(split.source, split.indices.tolist(), purpose, fully, settings.ground)

    def assembled(parts: Sequence[Split | None]) -> DataSet:
        trained, validation, test = parts
        assert trained is not None
        return assemble(data, trained, test, settings.validation_share, settings.limit, validation, where)

    data = sound((train, validation, test), settings.damaged, look, assembled)
    counts, *notes = data.found
    return replace(data, found=(f"{counts}; {passed.describe(IMAGE_ENDINGS)}", *layout.notes, *notes))


def _quoted(part: Part) -> str:
    return f"'{printable(part.folder.name)}'"


def _files(part: Part, names: tuple[str, ...], passed: PassedOver) -> tuple[list[Path], NDArray[np.int64]]:
    """A split's images, class after class, and their labels (n,)."""
    import numpy as np

    from nas.data.sources import IMAGE_ENDINGS

    files: list[Path] = []
    labels: list[int] = []
    for label, name in enumerate(names):
        found = [path for folder in part.classes.get(name, ()) for path in images_in(folder, IMAGE_ENDINGS, passed)]
        files += sorted(found)
        labels += [label] * len(found)
    return files, np.array(labels, dtype=np.int64)


def _count_around(layout: Layout, passed: PassedOver) -> None:
    """Count the files that are in no class folder."""
    from nas.data.sources import IMAGE_ENDINGS

    for folder in layout.around:
        if stray := sum(1 for _ in images_in(folder, IMAGE_ENDINGS, passed, deep=False)):
            passed.reasons["outside of class folders"] += stray
    for folder in layout.unused:
        others = PassedOver()
        images = sum(1 for _ in images_in(folder, IMAGE_ENDINGS, others))
        passed.reasons[f"in the folder '{printable(folder.name)}'"] += images + others.files


DATA_SET = NamedDataSet(
    ImageFolderSettings("imagefolder", resolution=128, validation_share=0.1), Epochs(2, 4, 4), _peek, _load
)
