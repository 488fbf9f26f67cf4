"""Data sets of Hugging Face's `datasets`: saved by `save_to_disk`, or by their name where there is a network.

The image and label columns are found by their types. Not for streaming.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, overload

from nas.data.folders import ROLES, PassedOver, listed, printable
from nas.data.named import Epochs, NamedDataSet, Peeked
from nas.data.settings import ImageFileSettings
from nas.data.table import ordered
from search_space.errors import BadFile, UserError, one_line

if TYPE_CHECKING:
    from nas.data.dataset import DataSet

SAVED = ("dataset_dict.json", "dataset_info.json")  # one of them is in a folder of `save_to_disk`


@dataclass(frozen=True)
class HuggingFaceSettings(ImageFileSettings):
    """root: a folder that `save_to_disk` wrote, or a name such as uoft-cs/cifar10."""

    config: Annotated[str | None, "of a data set by name, which of its configurations"] = None
    image_column: Annotated[str | None, "column of the images (null: the one of that type)"] = None
    label_column: Annotated[str | None, "column of the classes (null: the one of that type, or 'label')"] = None
    group_column: Annotated[
        str | None, "column of what stays in one split: a patient, a scene, a burst (null: there are no groups)"
    ] = None


@dataclass(frozen=True)
class Found:
    """splits: by role, with the split's name; labels: of each split, None for a row without one."""

    class_names: tuple[str, ...]
    splits: dict[str, tuple[str, Any]]
    labels: dict[str, list[str | None]]
    image_column: str
    unused: dict[str, int]


def _peek(settings: HuggingFaceSettings) -> Peeked:
    return Peeked(_found(settings).class_names)


def _found(settings: HuggingFaceSettings) -> Found:
    if not settings.root:
        raise UserError(
            "data=huggingface needs data.root=FOLDER that save_to_disk wrote, or data.root=NAME of a data set"
        )
    return _read(settings.root, settings.config, settings.image_column, settings.label_column)


def _read(root: str, config: str | None, image_column: str | None, label_column: str | None) -> Found:
    opened = _opened(root, config)
    whole = opened if isinstance(opened, dict) else {"train": opened}
    if len(whole) == 1:
        whole = {"train": next(iter(whole.values()))}
    splits: dict[str, tuple[str, Any]] = {}
    unused = {}
    for name, rows in whole.items():
        role = ROLES.get(str(name).casefold())
        if role is None or role in splits:
            unused[printable(str(name))] = len(rows)
        else:
            splits[role] = (printable(str(name)), rows)
    if "train" not in splits:
        raise BadFile(f"data.root={root} has no split 'train'; it has {listed([str(name) for name in whole])}")
    features = splits["train"][1].features
    image = _column(root, features, "image_column", image_column, ("Image",), ())
    label = _column(root, features, "label_column", label_column, ("ClassLabel",), ("label", "labels"))
    labels = {role: _labels(rows, label) for role, (_, rows) in splits.items()}
    trained = {name for name in labels["train"] if name is not None}
    stated = [printable(str(name)) for name in getattr(features[label], "names", None) or ()]
    class_names = tuple(name for name in stated if name in trained) or ordered(trained)
    if len(class_names) < 2:
        raise BadFile(f"data.root={root} has {len(class_names)} classes in column '{label}'; it needs two or more")
    for role, names in labels.items():
        if extra := sorted({name for name in names if name is not None} - trained):
            raise BadFile(
                f"data.root={root}: the {role} images have class '{extra[0]}', which the training images lack"
            )
    return Found(class_names, splits, labels, image, unused)


def _opened(root: str, config: str | None) -> Any:
    """A data set, or several by the names of their splits. Raises `UserError` or `BadFile`."""
    try:
        import datasets
    except ImportError as error:
        raise UserError(
            f"data=huggingface data.root={root} needs datasets; pip install -c constraints.txt -e '.[huggingface]'"
        ) from error
    datasets.disable_progress_bars()
    folder = Path(root).expanduser()
    try:
        if folder.is_dir():
            if not any((folder / name).is_file() for name in SAVED):
                raise BadFile(
                    f"'{folder}' is no folder of save_to_disk ({' or '.join(SAVED)} is missing); for folders of images "
                    "use data=imagefolder, for a table data=table"
                )
            return datasets.load_from_disk(str(folder))
        if root.startswith(("/", ".", "~")):
            raise BadFile(f"no folder '{folder}'; give data.root= one that save_to_disk wrote, or a data set's name")
        return datasets.load_dataset(root, config)
    except BadFile:
        raise
    except Exception as error:  # of files and of the network it raises many kinds
        raise BadFile(f"data.root={root} cannot be opened by datasets: {one_line(error)}") from error


def _column(
    root: str, features: Any, option: str, asked: str | None, kinds: tuple[str, ...], names: tuple[str, ...]
) -> str:
    """The column that is asked for, or the only one of a type, or else of a usual name."""
    if asked is not None:
        if asked not in features:
            raise BadFile(f"data.{option}={asked}: data.root={root} has the columns {listed(list(features))}")
        return asked
    found = [name for name, kind in features.items() if type(kind).__name__ in kinds]
    found = found or [name for name in names if name in features]
    if len(found) != 1:
        raise BadFile(
            f"data.root={root} has {len(found)} columns of type {' or '.join(kinds)}; name one of "
            f"{listed(found or list(features))} with data.{option}="
        )
    return found[0]


def _labels(rows: Any, column: str) -> list[str | None]:
    names = getattr(rows.features[column], "names", None)
    values = rows.select_columns([column])[:][column]
    if names is not None:  # -1 is no label
        return [printable(str(names[value])) if value is not None and value >= 0 else None for value in values]
    return [printable(text) if value is not None and (text := str(value).strip()) else None for value in values]


class EncodedRows(Sequence[Path | bytes]):
    """The images of some splits, each read when it is asked for: bytes, or the path of a file.

    splits: each with its image column alone and not decoded; rows: of each image (split, row).
    """

    def __init__(self, splits: Sequence[Any], column: str, rows: Sequence[tuple[int, int]]) -> None:
        self.splits, self.column, self.rows = splits, column, rows

    def __len__(self) -> int:
        return len(self.rows)

    @overload
    def __getitem__(self, index: int) -> Path | bytes: ...
    @overload
    def __getitem__(self, index: slice) -> EncodedRows: ...
    def __getitem__(self, index: int | slice) -> Path | bytes | EncodedRows:
        if isinstance(index, slice):
            return EncodedRows(self.splits, self.column, self.rows[index])
        split, row = self.rows[index]
        value = self.splits[split][row][self.column] or {}
        return Path(value["path"]) if value.get("bytes") is None and value.get("path") else value.get("bytes") or b""


def _load(settings: HuggingFaceSettings) -> DataSet:
    found, passed = _found(settings), PassedOver()
    assert settings.root is not None
    import datasets
    import numpy as np

    from nas.data.pictures import Pictures, data_set_of

    for name, count in found.unused.items():
        passed.reasons[f"in the split '{name}'"] += count
    number_of = {name: number for number, name in enumerate(found.class_names)}
    splits: list[Any] = []
    rows: list[tuple[int, int]] = []
    names: list[str] = []
    labels: list[int] = []
    roles: list[str] = []
    groups: list[str] = []
    for role, (split_name, split) in found.splits.items():
        own = split.cast_column(found.image_column, datasets.Image(decode=False)).select_columns([found.image_column])
        if settings.group_column is not None:
            _column(settings.root, split.features, "group_column", settings.group_column, (), ())
            values = split.select_columns([settings.group_column])[:][settings.group_column]
        for row, label in enumerate(found.labels[role]):
            if label is None:
                passed.reasons["without a label"] += 1
                continue
            rows.append((len(splits), row))
            names.append(f"{split_name}[{row}]")
            labels.append(number_of[label])
            roles.append(role)
            if settings.group_column is not None:
                groups.append("" if values[row] is None else str(values[row]))
        splits.append(own)
    pictures = Pictures(
        EncodedRows(splits, found.image_column, rows), names, np.array(labels, dtype=np.int64), roles, groups
    )
    several = len(found.splits) > 1
    where = {role: f"'{split_name}'" for role, (split_name, _) in found.splits.items() if several}
    name = printable(Path(settings.root).name)
    data = data_set_of(pictures, name, found.class_names, settings, where)
    counts, *notes = data.found
    return replace(data, found=(f"{counts}; {passed.describe(())}", *notes))


DATA_SET = NamedDataSet(
    HuggingFaceSettings("huggingface", resolution=128, validation_share=0.1), Epochs(2, 4, 4), _peek, _load
)
