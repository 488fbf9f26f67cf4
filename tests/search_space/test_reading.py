"""Plain data into dataclasses and back: round trips, and every planted fault is one line that names its key."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from copy import deepcopy
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from search_space.errors import BadFile, UnknownName, UserError
from search_space.reading import (
    NOT_EMPTY,
    REQUIRED,
    Above,
    AtLeast,
    AtMost,
    Below,
    Between,
    OneOf,
    Spelled,
    check,
    declared,
    parse_json,
    parse_yaml,
    read,
    read_json,
    read_options,
    read_yaml,
    to_plain,
    without_schema,
)

fast = settings(max_examples=60, deadline=None)


class Colour(StrEnum):
    RED = "red"
    BLUE = "blue"


@dataclass(frozen=True)
class Part:
    size: Annotated[int, AtLeast(1), "of the part"]
    share: Annotated[float, Above(0), Below(1)] = 0.5
    label: str | None = None


def _parse_pair(text: object) -> list[int]:
    if not isinstance(text, str) or not text.replace("x", "").isdigit():
        raise ValueError("two numbers such as 3x5")
    return [int(number) for number in text.split("x")]


Pair = Annotated[tuple[int, int], Spelled(_parse_pair, lambda pair: f"{pair[0]}x{pair[1]}")]


@dataclass(frozen=True)
class Whole:
    name: Annotated[str, "what it is called"]
    mode: Annotated[str, OneOf(("fast", "slow"))]
    on: bool
    parts: Annotated[tuple[Part, ...], NOT_EMPTY]
    colours: frozenset[Colour]
    weights: Mapping[Colour, Annotated[float, Between(-5, 5)]]
    sides: tuple[float, float]
    pair: Pair
    part: Part
    when: datetime
    rest: Mapping[str, Any]
    stated: Annotated[int, REQUIRED] = 3
    seen: float | None = None
    limit: Annotated[float, AtMost(10)] = field(default=2.0)


names = st.text(min_size=0, max_size=8)
finite = st.floats(allow_nan=False, allow_infinity=False)
part = st.builds(
    Part,
    size=st.integers(1, 10**9),
    share=st.floats(0, 1, exclude_min=True, exclude_max=True),
    label=st.none() | names,
)
plain = st.recursive(
    st.none() | st.booleans() | st.integers(-(10**9), 10**9) | finite | names,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(names, inner, max_size=3),
    max_leaves=5,
)
wholes = st.builds(
    Whole,
    name=names,
    mode=st.sampled_from(("fast", "slow")),
    on=st.booleans(),
    parts=st.lists(part, min_size=1, max_size=3).map(tuple),
    colours=st.frozensets(st.sampled_from(Colour)),
    weights=st.dictionaries(st.sampled_from(Colour), st.floats(-5, 5)),
    sides=st.tuples(finite, finite),
    pair=st.tuples(st.integers(0, 99), st.integers(0, 99)),
    part=part,
    when=st.datetimes(),
    rest=st.dictionaries(names, plain, max_size=3),
    stated=st.integers(),
    seen=st.none() | finite,
    limit=st.floats(-100, 10),
)
SAMPLE = Whole(
    "it",
    "fast",
    True,
    (Part(3), Part(4, 0.25, "x")),
    frozenset({Colour.RED}),
    {Colour.BLUE: 1.5},
    (1.0, 2.0),
    (3, 5),
    Part(1),
    datetime(2026, 1, 2),
    {"a": [1]},
)


@given(whole=wholes)
@fast
def test_what_is_written_reads_back_equal(whole: Whole) -> None:
    data = to_plain(whole)
    assert read(Whole, data, "file") == whole
    assert read(Whole, parse_json(json.dumps(data), "file"), "file") == whole
    assert to_plain(read(Whole, data, "file")) == data


@given(whole=wholes)
@fast
def test_yaml_reads_back_equal(whole: Whole) -> None:
    assert read(Whole, parse_yaml(yaml.safe_dump(to_plain(whole)), "file"), "file") == whole


def refusal(data: object, kind: type = Whole) -> str:
    """The message of the refusal, for a file and for options, each one line; that for a file is given back."""
    with pytest.raises(BadFile) as of_file:
        read(kind, data, "some.yaml")
    text = str(of_file.value)
    assert text.startswith("some.yaml: ") and len(text.splitlines()) == 1
    with pytest.raises(UserError) as of_options:
        read_options(kind, data, "some.")
    assert "some." in str(of_options.value) and len(str(of_options.value).splitlines()) == 1
    return text


PLACES: dict[str, tuple[Any, ...]] = {"": (), "part": ("part",), "parts[1]": ("parts", 1)}


def at(data: Any, place: tuple[Any, ...]) -> Any:
    for key in place:
        data = data[key]
    return data


@given(where=st.sampled_from(sorted(PLACES)), key=st.text(min_size=1, max_size=6))  # longer ones may be shortened
@fast
def test_a_planted_unknown_key_is_named(where: str, key: str) -> None:
    data = to_plain(SAMPLE)
    inside = at(data, PLACES[where])
    if key in inside:
        return
    inside[key] = 1
    text = refusal(data)
    assert (key if key.isprintable() else repr(key)) in text and where in text


def test_the_nearest_known_key_is_named() -> None:
    data = to_plain(SAMPLE)
    data["part"]["shar"] = 0.5
    assert refusal(data) == "some.yaml: unknown field of part 'shar'. Did you mean 'share'? Known: label, share, size."
    with pytest.raises(UnknownName, match=r"unknown option 'some.part.shar'. Did you mean 'some.part.share'"):
        read_options(Whole, data, "some.")


@pytest.mark.parametrize("path", ["name", "parts", "when", "pair", "stated", "part.size", "parts[1].size"])
def test_a_missing_key_is_named(path: str) -> None:
    place, _, key = path.rpartition(".")
    data = to_plain(SAMPLE)
    del at(data, PLACES[place])[key]
    assert refusal(data) == f"some.yaml: no field '{path}'"


def test_null_counts_as_missing_unless_it_is_a_value() -> None:
    data = to_plain(SAMPLE)
    assert data["seen"] is None and read(Whole, data, "x") == SAMPLE
    with pytest.raises(BadFile, match="no field 'limit'"):
        read(Whole, {**data, "limit": None}, "x")
    assert read(Whole, {k: v for k, v in data.items() if k not in ("seen", "limit")}, "x") == SAMPLE


@pytest.mark.parametrize(
    ("path", "value", "wanted"),
    [
        ("name", ["x"], "text"),
        ("mode", "fats", "one of fast, slow"),
        ("on", 1, "true or false"),
        ("on", "yes", "true or false"),
        ("stated", True, "an integer"),
        ("stated", 1.0, "an integer"),
        ("stated", "1", "an integer"),
        ("seen", "1", "a number"),
        ("seen", False, "a number"),
        ("seen", math.nan, "a finite number"),
        ("seen", -math.inf, "a finite number"),
        ("seen", 10**400, "a finite number"),
        ("limit", 10.5, "at most 10"),
        ("parts", [], "a list of one or more"),
        ("parts", {}, "a list"),
        ("parts", "x", "a list"),
        ("parts[1]", 3, "a mapping"),
        ("parts[1].size", 0, "1 or more"),
        ("parts[1].share", 1, "above 0 and below 1"),
        ("part.share", math.nan, "a finite number"),
        ("part.label", [], "text"),
        ("sides", [1.0], "a list of 2"),
        ("sides[1]", None, "a number"),
        ("colours[0]", "green", "one of blue, red"),
        ("weights.blue", 6, "between -5 and 5"),
        ("pair", "3*5", "two numbers such as 3x5"),
        ("when", "yesterday", "a date and time"),
        ("rest", [], "a mapping"),
    ],
)
def test_a_wrong_value_is_named_with_its_path_and_what_is_wanted(path: str, value: object, wanted: str) -> None:
    data = to_plain(SAMPLE)
    *outer, last = [int(key) if key.isdigit() else key for key in path.replace("]", "").replace("[", ".").split(".")]
    at(data, tuple(outer))[last] = value
    text = refusal(data)
    assert text.startswith(f"some.yaml: {path} is ") and wanted in text
    assert repr(value)[:20] in text


@given(junk=plain, path=st.sampled_from([*PLACES, "weights", "colours", "sides", "rest", "pair", "when"]))
@fast
def test_junk_anywhere_is_read_or_refused(junk: object, path: str) -> None:
    data = deepcopy(to_plain(SAMPLE))
    if place := PLACES.get(path, (path,)):
        at(data, place[:-1])[place[-1]] = junk
    else:
        data = junk
    try:
        assert isinstance(read(Whole, data, "file"), Whole)
    except BadFile as error:
        assert len(str(error).splitlines()) == 1 and str(error).startswith("file: ")


def test_a_key_that_is_none_of_its_kind() -> None:
    data = to_plain(SAMPLE)
    data["weights"]["green"] = 1.0
    assert "weights is 'green'" in refusal(data)


def test_long_values_are_cut() -> None:
    assert len(refusal({**to_plain(SAMPLE), "on": "x" * 5000})) < 200


def test_integers_are_numbers_and_numbers_are_text_of_options_only() -> None:
    data = {**to_plain(SAMPLE), "seen": 3, "name": 7}
    assert read_options(Whole, data).name == "7"
    with pytest.raises(BadFile, match="name is 7, not text"):
        read(Whole, data, "file")
    number = read(Whole, {**data, "name": "x"}, "file").seen
    assert number == 3 and type(number) is float


def test_options_name_groups_and_names() -> None:
    data = to_plain(SAMPLE)
    with pytest.raises(UserError, match=r"some\.part=3 is a group; set some\.part\.size"):
        read_options(Whole, {**data, "part": 3}, "some.")
    with pytest.raises(UnknownName, match=r"some\.mode 'fats'\. Did you mean 'fast'"):
        read_options(Whole, {**data, "mode": "fats"}, "some.")


def test_a_dataclass_built_in_python_keeps_the_same_limits() -> None:
    check(Part(1))
    for bad, said in ((Part(0), r"of\.size=0 is not 1 or more"), (Part(1, 2), r"of\.share=2 .*below 1")):
        with pytest.raises(UserError, match=said):
            check(bad, "of.")
    with pytest.raises(BadFile, match="here: size is True"):
        check(Part(True), where="here")
    with pytest.raises(UserError, match="share=nan"):
        check(Part(1, math.nan))


@dataclass(frozen=True)
class _Defaults:
    epochs: Annotated[int, AtLeast(1), "passes over the images"] = 5
    rate: Annotated[Annotated[float, Above(0)] | None, "null: as before"] = None
    inner: Annotated[Part, "a group"] = field(default_factory=lambda: Part(2))


def test_declarations_can_be_listed() -> None:
    epochs, rate, inner = declared(_Defaults)
    assert (epochs.name, epochs.type_words, epochs.default, epochs.wanted, epochs.help, epochs.group) == (
        "epochs",
        "an integer",
        5,
        "1 or more",
        "passes over the images",
        None,
    )
    assert (rate.type_words, rate.default, rate.wanted, rate.help) == (
        "a number or null",
        None,
        "above 0",
        "null: as before",
    )
    assert inner.group is Part and inner.help == "a group"


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_what_is_not_finite_is_not_written(value: float) -> None:
    with pytest.raises(ValueError, match="cannot be written as JSON"):
        to_plain({"a": [value]})


def test_a_schema_is_taken_off() -> None:
    assert without_schema({"schema": 1, "a": 2}, 1, "f") == {"a": 2}
    for data, said in (({}, "no field 'schema'"), ({"schema": 2}, "schema 2.*reads schema 1"), ([], "holds")):
        with pytest.raises(BadFile, match=f"^f.*{said}"):
            without_schema(data, 1, "f")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("a: 1\na: 2", r"row 2.*'a' stands twice"),
        ("a: {b: 1,\n b: 2}", r"row 2.*'b' stands twice"),
        ("a: [1,\nb: }", "row 2: not YAML"),
        ("[" * 100_000, "more than 100 levels"),
        ("- " * 100_000, "more than 100 levels"),
        ("!!python/object:os.system {}", "not YAML"),
        ("a: 2020-13-45", "not YAML"),
        ("? [a]\n: 1", "not YAML"),
        ("a: \x01", "not YAML"),
    ],
)
def test_what_is_not_yaml_is_one_line(text: str, said: str) -> None:
    with pytest.raises(BadFile, match=f"^here.*{said}") as caught:
        parse_yaml(text, "here")
    assert len(str(caught.value).splitlines()) == 1


def test_merged_keys_of_yaml_are_no_repeats() -> None:
    assert parse_yaml("a: &x {b: 1}\nc: {<<: *x, b: 2}", "here") == {"a": {"b": 1}, "c": {"b": 2}}
    assert parse_yaml("", "here") is None


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ('{"a": 1, "b": {"c": 1, "c": 1}}', "'c' stands twice"),
        ("[" * 100_000, "more than 100 levels"),
        ('{"a": NaN}', "NaN"),
        ("[-Infinity]", "-Infinity"),
        ('{"a": ', "is not JSON"),
        ("1" * 5000, "is not JSON"),
        ("", "is not JSON"),
    ],
)
def test_what_is_not_json_is_one_line(text: str, said: str) -> None:
    with pytest.raises(BadFile, match=f"^here.*{said}") as caught:
        parse_json(text, "here")
    assert len(str(caught.value).splitlines()) == 1


@pytest.mark.parametrize("load", [read_yaml, read_json])
def test_files_that_are_none(load: Any, tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b'\xef\xbb\xbf{"a": 1}')
    assert load(tmp_path / "file") == {"a": 1}
    (tmp_path / "file").write_bytes(b'{"a": "\xff"}')
    for path, said in (
        ("none", "no file"),
        ("", "is a folder; name the x in it"),
        ("file", "not UTF-8 text at byte 7"),
    ):
        with pytest.raises(BadFile, match=said) as caught:
            load(tmp_path / path, "x")
        assert str(tmp_path / path) in str(caught.value)
    with pytest.raises(BadFile, match="cannot read"):
        load(tmp_path / "file" / "inside")
