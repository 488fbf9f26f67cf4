"""From labelled image files to a data set: damaged ones and copies left out, the rest divided, and all of it said.

Shared by all data sets whose images are files. Not for finding files and labels.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from nas.data.copies import contents_of, copies_said, kept_together, near_copies_said, one_side_each
from nas.data.dataset import DataSet, Split
from nas.data.record import Identities
from nas.data.reduced import KeptImages, Purpose
from nas.data.settings import ImageFileSettings
from nas.data.soundness import Findings, look_through, sound
from nas.data.sources import EncodedSource
from nas.data.splits import assemble
from search_space.errors import BadFile

ROLES = ("train", "validation", "test")


@dataclass(frozen=True)
class Pictures:
    """n images of all splits.

    items: files or encoded bytes; names: as people know them; labels: (n,) int64; roles: of each one of `ROLES`;
    groups: of each the name of those that stay in one split with it, '' for none; empty: no image has one.
    """

    items: Sequence[Path | bytes]
    names: Sequence[str]
    labels: NDArray[np.int64]
    roles: Sequence[str]
    groups: Sequence[str] = ()


def data_set_of(
    pictures: Pictures,
    name: str,
    class_names: tuple[str, ...],
    settings: ImageFileSettings,
    where: Mapping[str, str],
    unit: str = "split",
) -> DataSet:
    """Held-out splits that no picture is of are held out of the training images.

    Validation images without test images become the test images. where: by role, in words, where its images are;
    unit: what a role's images are in.     Raises `BadFile` or `UserError`.
    """
    source = EncodedSource(pictures.items, ground=settings.ground, kept=KeptImages(), names=pictures.names)
    roles, where = np.array(pictures.roles), dict(where)
    if "test" not in roles and "validation" in roles:
        roles = np.where(roles == "validation", "test", roles)
        where["test"] = f"{where.pop('validation')}, as there is no test {unit}"
    parts: dict[str, Split | None] = dict.fromkeys(ROLES)
    for role in ROLES:
        if len(positions := np.flatnonzero(roles == role)):
            parts[role] = Split(source, positions, pictures.labels[positions])
    train = parts["train"]
    if train is None:
        raise BadFile(f"data '{name}' has no training images")
    mean, std = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
    data = DataSet(name, class_names, train, train, train, mean, std, crop="random")
    purpose = Purpose(settings.resolution, data.as_asked(settings).crop)

    def look(split: Split, fully: bool) -> Findings:
        return look_through(source, split.indices.tolist(), purpose, fully, settings.ground)

    def assembled(left: Sequence[Split | None]) -> DataSet:
        readable = dict(zip(ROLES, left, strict=True))
        used = np.concatenate([part.indices for part in left if part is not None])
        contents = contents_of(source, used)
        keys = kept_together(contents, pictures.groups)
        kept, notes = one_side_each(readable, keys, contents, source)
        notes += copies_said(contents, pictures.labels, source)
        if pictures.groups:
            count = len({group for group in pictures.groups if group})
            notes.append(f"no group of images is in two splits; groups: {count}")
        trained = kept["train"]
        assert trained is not None
        assembled = assemble(
            data, trained, kept["test"], settings.validation_share, settings.limit, kept["validation"], where, keys
        )
        return replace(
            assembled, identities=Identities(pictures.names, contents, keys), found=(*assembled.found, *notes)
        )

    data = sound([parts[role] for role in ROLES], settings.damaged, look, assembled)
    return replace(data, found=(*data.found, *near_copies_said(data, data.findings.sketches)))
