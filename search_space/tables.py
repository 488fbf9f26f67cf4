"""Tables as CSV files: a schema says which columns there are, what a cell may be and what it means.

A table is read by its schema or refused by file, row (the header line is row 1) and column, as a pandas DataFrame
(`read_table`) or row by row (`parse_rows`, without pandas: importing that alone takes longer than refusing a budget
may). It is written by the same schema, always to the same bytes. What spreadsheets save is read too: a byte order
mark in front, semicolons between the columns, CRLF or CR. Not for JSON or YAML, nor for what a row stands for.
"""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from search_space.bounds import TEXT_BYTES
from search_space.errors import BadFile
from search_space.files import write_whole
from search_space.reading import decode, read_bytes

if TYPE_CHECKING:
    from pandas import DataFrame

Value = str | int | float | bool
_DTYPES = {"int": "int64", "float": "float64", "bool": "bool", "str": "str"}
_EMPTY_DTYPES = {**_DTYPES, "int": "Int64", "bool": "boolean"}  # pandas' own, where cells may be empty
_BOOLS = {"True": True, "False": False}
_DIGITS = 18  # of an integer: as many fit 64 bits whatever they are
_SHOWN = 40  # characters of a cell in a message


@dataclass(frozen=True, slots=True)
class Column:
    """A column: what its cells mean (with their unit) and which values they may have.

    empty: whether a cell may be empty, which is missing in a DataFrame and None in a row;
    least, most: bounds that are allowed themselves; above: one that is not; allowed: the only texts there are;
    optional: whether a file may lack the whole column.
    """

    name: str
    dtype: Literal["int", "float", "bool", "str"]
    meaning: str
    empty: bool = False
    least: float | None = None
    above: float | None = None
    most: float | None = None
    allowed: tuple[str, ...] = ()
    optional: bool = False

    @property
    def wanted(self) -> str:
        """What a cell must be, in words: 'an integer >= 1'."""
        if self.allowed:
            what = f"one of {', '.join(self.allowed)}"
        else:
            what = {"int": "an integer", "float": "a finite number", "bool": "True or False", "str": "a text"}[
                self.dtype
            ]
        bounds = ((">=", self.least), (">", self.above), ("<=", self.most))
        limits = " and ".join(f"{sign} {bound:g}" for sign, bound in bounds if bound is not None)
        return f"{what} {limits}".rstrip() + (" or nothing" if self.empty else "")

    def parse(self, cell: str, here: str) -> Value | None:
        """The value of a cell, None of an empty one. Raises `BadFile`; here: where it stands, for the message."""
        if not cell and self.empty:
            return None
        value = _PARSERS[self.dtype](cell)
        if value is None or (self.allowed and value not in self.allowed) or not self._within(value):
            shown = cell if len(cell) <= _SHOWN else f"{cell[:_SHOWN]}..."
            raise BadFile(f"{here}: {self.name} is {shown!r}, not {self.wanted}")
        return value

    def _within(self, value: Value) -> bool:
        if isinstance(value, str):
            return True
        return (
            (self.least is None or value >= self.least)
            and (self.above is None or value > self.above)
            and (self.most is None or value <= self.most)
        )


@dataclass(frozen=True)
class Schema:
    """A kind of table. name: its file's, for people; columns: in the order in which they are written.

    digits: significant ones of a written float, None for as many as give the number back; by_hand: people write
    such a file, so empty lines are passed over and the last line may lack its end, which elsewhere means that the
    file was cut off.
    """

    name: str
    columns: tuple[Column, ...]
    digits: int | None = 6
    by_hand: bool = False

    @property
    def names(self) -> tuple[str, ...]:
        """The columns' names, in the order in which they are written."""
        return tuple(column.name for column in self.columns)


def read_text(path: Path, where: str = "") -> str:
    """The text of a table's file. Raises `BadFile`; where: how messages name the file, if not by its path."""
    where = where or f"'{path}'"
    try:
        return decode(read_bytes(path, TEXT_BYTES), where)
    except FileNotFoundError as error:
        raise BadFile(f"{where}: no file '{path.name}' in '{path.parent}'") from error
    except OSError as error:
        raise BadFile(f"{where}: cannot be read: {error.strerror}") from error


def parse_rows(text: str, schema: Schema, where: str) -> Iterator[tuple[str, dict[str, Any]]]:
    """Every row as where it stands ('FILE row 2') and its values by column, in the schema's order.

    A column that the file may lack and does is not among them. Raises `BadFile` naming file, row and column.
    """
    if not text.strip():
        raise BadFile(f"{where}: empty; it needs the columns {','.join(schema.names)}")
    if "\0" in text:
        raise BadFile(f"{where}: not a text file")
    text = text.replace("\r\n", "\n").replace("\r", "\n")
    if not schema.by_hand and not text.endswith("\n"):
        raise BadFile(f"{where}: the last row is cut off (no newline at the end of the file)")
    first_line = text[: text.find("\n")]
    separator = ";" if ";" in first_line and "," not in first_line else ","
    rows = _cells(csv.reader(io.StringIO(text), delimiter=separator, strict=True), where)
    _, header = next(rows)
    _check_header(header, schema, f"{where} row 1")
    columns = [(column, header.index(column.name)) for column in schema.columns if column.name in header]
    for number, cells in rows:
        here = f"{where} row {number}"
        if not cells and schema.by_hand:
            continue
        if len(cells) != len(header):
            raise BadFile(f"{here}: {len(cells)} fields where {len(header)} are needed")
        yield here, {column.name: column.parse(cells[place], here) for column, place in columns}


def read_table(source: Path | str, schema: Schema, where: str = "") -> DataFrame:
    """A table from a file (a `Path`) or from its text (a `str`), with the schema's columns and row numbers from 0.

    Columns of dtype int are int64, float float64 (NaN where empty), bool bool, and str pandas' str; ints and bools
    that may be empty are pandas' Int64 and boolean. where: how
    messages name the file (default: by its path). Raises `BadFile` naming file, row, column and what was found.
    """
    if isinstance(source, Path):
        where = where or f"'{source}'"
        source = read_text(source, where)
    return make_table([values for _, values in parse_rows(source, schema, where or schema.name)], schema)


def row_at(where: str, index: int) -> str:
    """How messages name the row of a DataFrame that `read_table` gave: 'FILE row 2' for index 0."""
    return f"{where} row {index + 2}"


def make_table(rows: Iterable[Mapping[str, Any] | Sequence[Any]], schema: Schema) -> DataFrame:
    """A DataFrame of rows in memory, by column name or in the schema's order; None where a cell is empty.

    Raises `ValueError` for a row that has other columns.
    """
    import pandas as pd

    records = [row if isinstance(row, Mapping) else dict(zip(schema.names, row, strict=True)) for row in rows]
    names = set(records[0]) if records else set(schema.names)
    needed = {column.name for column in schema.columns if not column.optional}
    if not needed <= names <= set(schema.names) or any(set(record) != names for record in records):
        raise ValueError(f"rows with other columns than {schema.name}: {','.join(schema.names)}")
    return pd.DataFrame(
        {
            column.name: pd.Series(
                [record[column.name] for record in records],
                dtype=(_EMPTY_DTYPES if column.empty else _DTYPES)[column.dtype],
            )
            for column in schema.columns
            if column.name in names
        }
    )


def render_table(frame: DataFrame, schema: Schema) -> str:
    """A table as CSV text, the inverse of `read_table` but for digits: lines end in LF, missing cells are empty."""
    columns = [name for name in schema.names if name in frame]
    if len(columns) != len(frame.columns) or not {c.name for c in schema.columns if not c.optional} <= set(columns):
        raise ValueError(f"columns {','.join(frame.columns)} are not those of {schema.name}: {','.join(schema.names)}")
    digits = None if schema.digits is None else f"%.{schema.digits}g"
    return frame[columns].to_csv(index=False, lineterminator="\n", float_format=digits)


def write_table(path: Path, frame: DataFrame, schema: Schema) -> None:
    """Write a table's file, whole or not at all. Raises `CannotWrite`."""
    write_whole(path, render_table(frame, schema))


def _cells(reader: Iterator[list[str]], where: str) -> Iterator[tuple[int, list[str]]]:
    """Rows with their numbers; refuses what is no CSV, and cells of several lines, so that rows are lines."""
    number = 0
    try:
        for number, cells in enumerate(reader, start=1):
            if any("\n" in cell for cell in cells):
                raise BadFile(f"{where} row {number}: a cell of several lines")
            yield number, cells
    except csv.Error as error:
        raise BadFile(f"{where} row {number + 1}: not CSV ({error})") from error


def _check_header(header: Sequence[str], schema: Schema, here: str) -> None:
    needed = [column.name for column in schema.columns if not column.optional]
    more = [column.name for column in schema.columns if column.optional]
    wants = f"it needs {','.join(needed)}" + (f" and may have {','.join(more)}" if more else "")
    if missing := [name for name in needed if name not in header]:
        raise BadFile(f"{here}: no column {', '.join(missing)}; {wants}")
    if unknown := [name for name in header if name not in schema.names]:
        raise BadFile(f"{here}: unknown column '{unknown[0][:_SHOWN]}'; {wants}")
    if twice := [name for name in schema.names if header.count(name) > 1]:
        raise BadFile(f"{here}: column {twice[0]} stands there twice; {wants}")


def _int(cell: str) -> int | None:
    digits = cell.removeprefix("-")
    return int(cell) if digits.isascii() and digits.isdecimal() and len(digits) <= _DIGITS else None


def _float(cell: str) -> float | None:
    try:
        value = float(cell)
    except ValueError:
        return None
    return value if math.isfinite(value) and cell.isascii() and "_" not in cell else None


_PARSERS: Mapping[str, Callable[[str], Value | None]] = {
    "int": _int,
    "float": _float,
    "bool": _BOOLS.get,
    "str": lambda cell: cell or None,
}
