"""Images listed in a table, CSV or Parquet: in each row a path, a label and, where there are any, split and group."""

from __future__ import annotations

import warnings
from collections import Counter
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from nas.data.decoders import image_endings, packages_for
from nas.data.folders import ROLES, PassedOver, listed, printable
from nas.data.named import Epochs, NamedDataSet, Peeked
from nas.data.settings import ImageFileSettings
from search_space.errors import BadFile, UserError, one_line
from search_space.reading import PATH

if TYPE_CHECKING:
    import pandas as pd

    from nas.data.dataset import DataSet

PARQUET = (".parquet", ".pq")


@dataclass(frozen=True)
class TableSettings(ImageFileSettings):
    """root: the folder that paths start from (null: that of the table)."""

    file: Annotated[str | None, PATH, "the table, CSV or Parquet (null: ROOT/labels.csv)"] = None
    path_column: Annotated[str, "column of the images' paths"] = "path"
    label_column: Annotated[str, "column of their classes"] = "label"
    split_column: Annotated[str, "column of train, validation or test, if there is one"] = "split"
    group_column: Annotated[
        str, "column, if there is one, of what stays in one split: a patient, a scene, a burst; empty: of no group"
    ] = "group"


@dataclass(frozen=True)
class Rows:
    """Of each image of a table what stands there; roles and groups are empty where there is no such column."""

    paths: tuple[str, ...]
    labels: tuple[str, ...]
    roles: tuple[str, ...]
    groups: tuple[str, ...]
    repeated: int

    @property
    def class_names(self) -> tuple[str, ...]:
        """In order, whole numbers by their size."""
        return ordered(set(self.labels))


def ordered(labels: set[str]) -> tuple[str, ...]:
    """Class names in order, whole numbers by their size."""
    numbers = all(label.isascii() and label.isdigit() for label in labels)
    return tuple(sorted(labels, key=lambda label: (int(label), label)) if numbers else sorted(labels))


def role_of(split: str) -> str | None:
    """'train', 'validation' or 'test' for a split of any of their names, otherwise None."""
    return ROLES.get(split.strip().casefold())


def _peek(settings: TableSettings) -> Peeked:
    return Peeked(_rows(settings).class_names)


def _rows(settings: TableSettings) -> Rows:
    path = _file(settings)
    try:
        about = path.stat()
    except OSError as error:
        raise BadFile(f"cannot read '{path}': {error.strerror}") from error
    columns = (settings.path_column, settings.label_column, settings.split_column, settings.group_column)
    return _read(path, columns, about.st_mtime_ns, about.st_size)


def _file(settings: TableSettings) -> Path:
    if settings.file:
        return Path(settings.file).expanduser()
    if settings.root:
        return Path(settings.root).expanduser() / "labels.csv"
    raise UserError(
        "data=table needs data.file=FILE, a CSV or Parquet file with the columns path and label, and split and group "
        "if there are any; data.root=FOLDER if its paths do not start from its own folder"
    )


@lru_cache(1)  # `peek` and `load` read the same
def _read(path: Path, columns: tuple[str, str, str, str], changed_ns: int, size: int) -> Rows:
    table = _table(path)
    path_column, label_column, split_column, group_column = columns
    for option, column in (("path_column", path_column), ("label_column", label_column)):
        if column not in table:
            raise BadFile(
                f"'{path}' has no column '{column}'; it has {listed([str(name) for name in table])}: name one with "
                f"data.{option}="
            )

    def values(column: str, needed: bool) -> list[str]:
        found = [str(value).strip() for value in table[column]]
        if needed and (empty := [number for number, value in enumerate(found, 1) if not value]):
            raise BadFile(f"'{path}' has no {column} in {len(empty)} of {len(found)} rows, the first is row {empty[0]}")
        return found

    paths, labels = (values(column, True) for column in (path_column, label_column))
    roles = [role_of(value) or value for value in values(split_column, True)] if split_column in table else []
    if unknown := [role for role in roles if role not in ROLES.values()]:
        raise BadFile(
            f"'{path}' has the split '{printable(unknown[0])}' in column '{split_column}'; splits are "
            f"{', '.join(ROLES)}"
        )
    groups = values(group_column, False) if group_column in table else []
    first: dict[str, int] = {}
    for number, name in enumerate(paths):
        earlier = first.setdefault(name, number)
        if labels[earlier] != labels[number] or (roles and roles[earlier] != roles[number]):
            raise BadFile(
                f"'{path}' has '{printable(name)}' in rows {earlier + 1} and {number + 1} with other labels or splits; "
                "an image has one of each"
            )
    if len(set(labels)) < 2:
        raise BadFile(f"'{path}' has {len(set(labels))} classes in column '{label_column}'; it needs two or more")
    if roles and "train" not in roles:
        raise BadFile(f"'{path}' has no training images in column '{split_column}'; some rows need the split train")
    trained = {label for number, label in enumerate(labels) if not roles or roles[number] == "train"}
    if extra := ordered(set(labels) - trained):
        raise BadFile(f"'{path}' has class '{printable(extra[0])}', which its training images lack")
    kept = list(first.values())
    return Rows(
        tuple(paths[i] for i in kept),
        tuple(printable(labels[i]) for i in kept),
        tuple(roles[i] for i in kept) if roles else (),
        tuple(groups[i] for i in kept) if groups else (),
        len(paths) - len(kept),
    )


def _table(path: Path) -> pd.DataFrame:
    """All values as text, missing ones empty. Raises `BadFile`."""
    import pandas as pd  # slow to import

    try:
        if path.suffix.lower() not in PARQUET:
            with warnings.catch_warnings():
                warnings.simplefilter("error", pd.errors.ParserWarning)  # of rows with more values than the first one
                return pd.read_csv(path, dtype=str, keep_default_na=False, encoding="utf-8-sig", index_col=False)
        table = pd.read_parquet(path)
        return table.astype(object).where(table.notna(), "").astype(str)
    except ImportError as error:
        raise UserError(
            f"reading '{path}' needs pyarrow; pip install -c constraints.txt -e '.[huggingface]', or save it as CSV"
        ) from error
    except Exception as error:  # pandas and pyarrow raise many kinds for what is no table
        raise BadFile(f"'{path}' is no table that can be read: {one_line(error)}") from error


def _load(settings: TableSettings) -> DataSet:
    import numpy as np

    from nas.data.pictures import Pictures, data_set_of

    rows, file = _rows(settings), _file(settings)
    root = Path(settings.root).expanduser() if settings.root else file.parent
    endings, passed = image_endings(), PassedOver()
    needing = packages_for(endings)
    undecoded = {number for number, path in enumerate(rows.paths) if Path(path).suffix.lower() in needing}
    passed.endings.update(Counter(Path(rows.paths[number]).suffix.lower() for number in undecoded))
    if rows.repeated:
        passed.reasons["rows of an image that has one before"] += rows.repeated
    kept = [number for number in range(len(rows.paths)) if number not in undecoded]
    if kept and not any((root / rows.paths[number]).exists() for number in kept):
        raise BadFile(
            f"'{file}' names {len(kept)} images and none of them is there, the first as "
            f"'{printable(str(root / rows.paths[kept[0]]))}'; data.root=FOLDER says where paths start, and paths have "
            "endings such as .jpg"
        )
    number_of = {name: number for number, name in enumerate(rows.class_names)}
    pictures = Pictures(
        [root / rows.paths[i] for i in kept],
        [printable(rows.paths[i]) for i in kept],
        np.array([number_of[rows.labels[i]] for i in kept], dtype=np.int64),
        [rows.roles[i] if rows.roles else "train" for i in kept],
        [rows.groups[i] for i in kept] if rows.groups else (),
    )
    where = dict.fromkeys(set(rows.roles), f"column '{settings.split_column}'")
    data = data_set_of(pictures, printable(file.stem), rows.class_names, settings, where)
    counts, *notes = data.found
    return replace(data, found=(f"{counts}; {passed.describe(endings)}", *notes))


DATA_SET = NamedDataSet(TableSettings("table", resolution=128, validation_share=0.1), Epochs(2, 4, 4), _peek, _load)
