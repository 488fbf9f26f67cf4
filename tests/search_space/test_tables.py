"""Tables: what is written reads back, to the same bytes again; a wrong cell is named by file, row, column and value."""

from __future__ import annotations

import csv
import io
import math
import subprocess
import sys
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from search_space.errors import BadFile, CannotWrite
from search_space.tables import Column, Schema, make_table, parse_rows, read_table, render_table, write_table

COLUMNS = (
    Column("name", "str", "a label"),
    Column("count", "int", "how many", least=0),
    Column("time_ms", "float", "time, ms", above=0, most=1e6),
    Column("kept", "bool", "whether it is"),
    Column("loss", "float", "where there was one", empty=True),
    Column("kind", "str", "one of three", empty=True, allowed=("a", "b", "c")),
)
EXACT = Schema("exact.csv", COLUMNS, digits=None)
SHORT = Schema("short.csv", COLUMNS)
BY_HAND = Schema(
    "hand.csv", (*COLUMNS[:3], Column("pixels", "int", "a side", least=1, empty=True, optional=True)), by_hand=True
)
GOOD = "name,count,time_ms,kept,loss,kind\nx,1,2.5,True,,a\ny,0,0.25,False,-1e-3,\n"

texts = st.text(st.sampled_from("aZ09 _+-|.,;'\"é中\N{GRINNING FACE}"), min_size=1) | st.sampled_from(
    ["nan", "NA", "None", "True", "1"]
)
floats = st.floats(allow_nan=False, allow_infinity=False)
rows = st.lists(
    st.fixed_dictionaries(
        {
            "name": texts,
            "count": st.integers(0, 10**18 - 1),
            "time_ms": st.floats(1e-300, 1e6),
            "kept": st.booleans(),
            "loss": st.none() | floats,
            "kind": st.sampled_from([None, "a", "b", "c"]),
        }
    )
)


def plain(frame: pd.DataFrame) -> list[dict[Any, Any]]:
    """Rows with None where a cell is empty, all of Python's own types."""
    return frame.astype(object).where(frame.notna(), None).to_dict("records")


@given(rows)
def test_what_is_written_reads_back(written: list[dict[str, Any]]) -> None:
    frame = make_table(written, EXACT)
    text = render_table(frame, EXACT)
    assert plain(frame) == written
    again = read_table(text, EXACT)
    assert again.equals(frame) and list(again.dtypes) == list(frame.dtypes)
    assert [values for _, values in parse_rows(text, EXACT, "t")] == written


@given(rows)
def test_six_digits_are_written_and_then_stay(written: list[dict[str, Any]]) -> None:
    text = render_table(make_table(written, SHORT), SHORT)
    read = read_table(text, SHORT)
    assert render_table(read, SHORT) == text
    for values, row in zip(plain(read), written, strict=True):
        assert values["time_ms"] == pytest.approx(row["time_ms"], rel=1e-5)
        assert (
            values["loss"] is None if row["loss"] is None else math.isclose(values["loss"], row["loss"], rel_tol=1e-5)
        )


@given(rows)
def test_the_bytes_are_those_of_the_standard_library(written: list[dict[str, Any]]) -> None:
    """Six significant digits, LF, quotes only where needed, nothing for what is missing."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(SHORT.names)
    for row in written:
        writer.writerow([f"{v:.6g}" if isinstance(v, float) else v for v in map(row.get, SHORT.names)])
    assert render_table(make_table(written, SHORT), SHORT) == out.getvalue()


@given(st.text())
def test_any_text_is_a_table_or_refused(text: str) -> None:
    for schema in (EXACT, BY_HAND):
        for start in ("", ",".join(schema.names) + "\n"):
            try:
                read_table(start + text, schema, "t")
            except BadFile as error:
                assert str(error).startswith("t")


@pytest.mark.parametrize(
    ("column", "cell", "wanted"),
    [
        ("name", "", "a text"),
        ("count", "1.5", "an integer >= 0"),
        ("count", "1.0", "an integer >= 0"),
        ("count", "-1", "an integer >= 0"),
        ("count", "", "an integer >= 0"),
        ("count", "1_000", "an integer >= 0"),
        ("count", "٣", "an integer >= 0"),
        ("count", "9" * 30, "an integer >= 0"),
        ("time_ms", "nan", "a finite number > 0 and <= 1e+06"),
        ("time_ms", "inf", "a finite number"),
        ("time_ms", "1e999", "a finite number"),
        ("time_ms", "0", "a finite number > 0"),
        ("time_ms", "1000001", "<= 1e+06"),
        ("time_ms", "1_0", "a finite number"),
        ("time_ms", "fast", "a finite number"),
        ("time_ms", "", "a finite number"),
        ("kept", "true", "True or False"),
        ("kept", "1", "True or False"),
        ("loss", "NaN", "a finite number or nothing"),
        ("loss", "None", "a finite number or nothing"),
        ("kind", "d", "one of a, b, c or nothing"),
    ],
)
@pytest.mark.parametrize("row", [2, 3])
def test_a_wrong_cell_is_named(column: str, cell: str, wanted: str, row: int) -> None:
    lines = [line.split(",") for line in GOOD.splitlines()]
    lines[row - 1][EXACT.names.index(column)] = cell
    with pytest.raises(BadFile) as caught:
        read_table("\n".join(map(",".join, lines)) + "\n", EXACT, "run/t.csv")
    message = str(caught.value)
    assert message.startswith(f"run/t.csv row {row}: {column} is ") and "\n" not in message
    assert (cell if len(cell) < 30 else cell[:30]) in message and wanted in message


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "empty"),
        ("\n\n", "empty"),
        (GOOD[:-1], "cut off"),
        (GOOD.replace(",loss", ""), "row 1: no column loss"),
        (GOOD.replace("loss", "lost"), "row 1: no column loss"),
        (GOOD.replace("kind", "kind,more"), "row 1: unknown column 'more'"),
        (GOOD.replace("kind", "kind,loss"), "row 1: column loss stands there twice"),
        (GOOD.replace("x,1,", "x,"), "row 2: 5 fields where 6 are needed"),
        (GOOD.replace("x,1,", "x,1,1,"), "row 2: 7 fields where 6 are needed"),
        (GOOD.replace("\ny", "\n\ny"), "row 3: 0 fields"),
        (GOOD.replace("x,1", '"x\n",1'), "row 2: a cell of several lines"),
        (GOOD.replace("x,1", '"x,1'), "row 2"),
        (GOOD.replace("x,1", '"x"z,1'), "row 2: not CSV"),
        (GOOD.replace("x,1", "x\r,1"), "row 2: 1 fields where 6 are needed"),
        (GOOD.replace("x,1", "x" * 200_000 + ",1"), "row 2: not CSV"),
        (GOOD.replace("x,1", "\0,1"), "not a text file"),
    ],
)
def test_a_wrong_file_is_refused(text: str, said: str) -> None:
    assert len(read_table(GOOD, EXACT)) == 2
    with pytest.raises(BadFile) as caught:
        read_table(text, EXACT, "t.csv")
    assert said in str(caught.value) and str(caught.value).startswith("t.csv") and "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "saved",
    [
        GOOD.encode("utf-8-sig"),
        GOOD.replace("\n", "\r\n").encode(),
        GOOD.replace("\n", "\r").encode(),
        GOOD.replace(",", ";").encode(),
        GOOD.replace(",", ";").replace("\n", "\r\n").encode("utf-8-sig"),
        "\n".join(f'"{line}"'.replace(",", '","') for line in GOOD.splitlines()).encode() + b"\n",
    ],
)
def test_what_spreadsheets_save(saved: bytes, tmp_path: Path) -> None:
    path = tmp_path / "t.csv"
    path.write_bytes(saved)
    assert read_table(path, EXACT).equals(read_table(GOOD, EXACT))


def test_a_decimal_comma_is_no_number() -> None:
    """Not guessed at: it could as well stand between thousands."""
    with pytest.raises(BadFile, match=r"row 2: time_ms is '2,5'"):
        read_table(GOOD.replace(",", ";").replace("2.5", "2,5"), EXACT, "t.csv")


def test_columns_may_stand_in_any_order() -> None:
    turned = "\n".join(",".join(reversed(line.split(","))) for line in GOOD.splitlines()) + "\n"
    assert read_table(turned, EXACT).equals(read_table(GOOD, EXACT))


def test_what_people_write() -> None:
    """Empty lines and an open end are no harm there; a column may be missing where the schema says so."""
    frame = read_table("name,count,time_ms\n\nx,1,2\n\n\ny,2,3", BY_HAND)
    assert frame["name"].tolist() == ["x", "y"] and "pixels" not in frame
    sides = read_table("name,count,time_ms,pixels\nx,1,2,224\nx,1,2,", BY_HAND)["pixels"]
    assert sides.isna().tolist() == [False, True] and sides[0] == 224
    with pytest.raises(BadFile, match=r"row 4: pixels is '0'"):
        read_table("name,count,time_ms,pixels\nx,1,2,224\n\nx,1,2,0", BY_HAND, "t")


def test_an_empty_table_keeps_its_columns() -> None:
    frame = make_table([], EXACT)
    assert frame.equals(read_table(render_table(frame, EXACT), EXACT))
    assert dict(frame.dtypes.astype(str)) == dict(read_table(GOOD, EXACT).dtypes.astype(str))


def test_a_file_is_named_where_it_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(BadFile, match=r"none\.csv"):
        read_table(tmp_path / "none.csv", EXACT)
    with pytest.raises(BadFile, match=r"cannot be read"):
        read_table(tmp_path, EXACT)
    (tmp_path / "t.csv").write_bytes(b"\xff\xfe\n")
    with pytest.raises(BadFile, match=r"t\.csv.*not UTF-8 text at byte 0"):
        read_table(tmp_path / "t.csv", EXACT)


def test_a_table_is_written_whole_or_not_at_all(tmp_path: Path) -> None:
    frame = read_table(GOOD, EXACT)
    write_table(tmp_path / "t.csv", frame, EXACT)
    assert (tmp_path / "t.csv").read_bytes() == render_table(frame, EXACT).encode()
    with pytest.raises(CannotWrite):
        write_table(tmp_path / "none" / "t.csv", frame, EXACT)
    assert [path.name for path in tmp_path.iterdir()] == ["t.csv"]


def test_rows_of_another_table_are_not_written() -> None:
    with pytest.raises(ValueError, match=r"exact\.csv"):
        make_table([{"name": "x"}], EXACT)
    with pytest.raises(ValueError, match=r"exact\.csv"):
        render_table(read_table(GOOD, EXACT).drop(columns="loss"), EXACT)
    with pytest.raises(ValueError, match="argument 2"):
        make_table([("x", 1)], EXACT)


def test_rows_are_read_without_pandas() -> None:
    script = """
import sys
from search_space.tables import Column, Schema, parse_rows
assert next(parse_rows("a\\n1\\n", Schema("t", (Column("a", "int", ""),)), "t")) == ("t row 2", {"a": 1})
assert "pandas" not in sys.modules and "numpy" not in sys.modules
"""
    subprocess.run([sys.executable, "-c", script], check=True, cwd=Path(__file__).parents[2])
