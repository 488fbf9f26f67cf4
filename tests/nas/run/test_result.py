"""architecture.json reads back to an equal value, is written whole, and bad files are reported in one line."""

from __future__ import annotations

import json
import math
import random
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from nas.run.result import (
    SCHEMA,
    Accuracy,
    Budget,
    DeviceLatency,
    InputFormat,
    Resolution,
    SearchResult,
    load_result,
    save_result,
)
from search_space import available_spaces, cost_of, load_space, lower
from search_space.errors import BadFile, UserError
from search_space.files import write_whole

here = settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
finite = st.floats(allow_nan=False, allow_infinity=False)
plain = st.recursive(
    st.none() | st.booleans() | st.integers(-(10**12), 10**12) | finite | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)


def sample_result(name: str = "quadranet", seed: int = 0) -> SearchResult:
    rng = random.Random(seed)
    space = load_space(name)
    path = space.random_path(rng)
    gate_path = tuple(str(slot.candidates[c]) for slot, c in zip(space.slots, path.choices, strict=True))
    architecture = space.architecture(path)
    segments = lower(architecture, 224, 10)
    times = {segment.name: rng.uniform(0.1, 3) for segment in segments}
    total = sum(times.values())
    latency = DeviceLatency("Myriad X", "OpenVINO", "fp16", total, 0.9 * total, 1.2 * total, 0.9, "ab12", times)
    return SearchResult(
        architecture=architecture,
        num_classes=10,
        resolution=Resolution(224, 64),
        input=InputFormat((0.5, 0.5, 0.5), (0.25, 0.25, 0.25), tuple("0123456789")),
        cost=cost_of(segments),
        budget=Budget("vpu", total + 1, total, total / (total + 1), True, 0.5 * total, 2 * total),
        latency={"vpu": latency, "cpu": replace(latency, title="Cortex-A76")},
        accuracy=Accuracy("digits", 0.97, 360, 0.96, "model.onnx in onnxruntime"),
        gate_path=gate_path,
        notes=("trained at 64 pixels", 'ünïcode, "quotes" and\nlines'),
        provenance={"seed": seed, "versions": {"torch": "2"}, "git_commit": None, "wall_time_s": 1.5},
    )


@given(
    name=st.sampled_from(available_spaces()), seed=st.integers(0, 10**6), provenance=st.dictionaries(st.text(), plain)
)
@here
def test_a_result_reads_back_equal(tmp_path: Path, name: str, seed: int, provenance: dict[str, Any]) -> None:
    result = replace(sample_result(name, seed), provenance=provenance)
    save_result(result, tmp_path / "architecture.json")
    assert load_result(tmp_path / "architecture.json") == result


@given(used=finite, notes=st.lists(st.text(), max_size=3))
@here
def test_numbers_and_texts_survive_to_the_last_bit(tmp_path: Path, used: float, notes: list[str]) -> None:
    result = sample_result()
    assert result.budget is not None
    result = replace(result, budget=replace(result.budget, used=used), notes=tuple(notes))
    save_result(result, tmp_path / "architecture.json")
    assert load_result(tmp_path / "architecture.json") == result


def test_without_budget_or_gates(tmp_path: Path) -> None:
    result = replace(sample_result(), budget=None, gate_path=None, latency={}, notes=())
    save_result(result, tmp_path / "architecture.json")
    assert load_result(tmp_path / "architecture.json") == result


def test_every_field_makes_a_difference_to_equality() -> None:
    """So that the round trips above can fail."""
    result = sample_result()
    for field in fields(SearchResult):
        changed = json.loads(json.dumps(result.to_dict()))
        other = sample_result("proxyless", 1).to_dict()[field.name]
        changed[field.name] = {"num_classes": 11, "resolution": {"deployment": 1, "training": 2}, "notes": ["x"]}.get(
            field.name, other
        )
        if field.name in ("input", "accuracy"):
            changed[field.name] = {**other, next(iter(other)): [0.1, 0.2, 0.3] if field.name == "input" else "other"}
        if changed[field.name] != result.to_dict()[field.name]:
            assert SearchResult.from_dict(changed) != result, field.name


def test_the_same_result_gives_the_same_bytes(tmp_path: Path) -> None:
    for name in ("one.json", "two.json"):
        save_result(sample_result(), tmp_path / name)
    assert (tmp_path / "one.json").read_bytes() == (tmp_path / "two.json").read_bytes()
    assert json.loads((tmp_path / "one.json").read_text())["schema"] == SCHEMA


def message_of(path: Path) -> str:
    with pytest.raises(BadFile) as caught:
        load_result(path)
    text = str(caught.value)
    assert "\n" not in text and path.name in text
    return text


def test_another_schema(tmp_path: Path) -> None:
    file = tmp_path / "architecture.json"
    file.write_text(json.dumps({**sample_result().to_dict(), "schema": SCHEMA + 1}))
    assert f"has schema {SCHEMA + 1}; this version reads schema {SCHEMA}" in message_of(file)


@pytest.mark.parametrize("field", ["schema", *(f.name for f in fields(SearchResult) if f.name != "gate_path")])
def test_a_missing_field_is_named(tmp_path: Path, field: str) -> None:
    file = tmp_path / "architecture.json"
    data = sample_result().to_dict()
    del data[field]
    file.write_text(json.dumps(data))
    assert f"'{field}'" in message_of(file)


@pytest.mark.parametrize("group", ["resolution", "input", "cost", "budget", "accuracy"])
def test_a_missing_or_unknown_field_within_a_group(tmp_path: Path, group: str) -> None:
    file = tmp_path / "architecture.json"
    data = sample_result().to_dict()
    first = next(iter(data[group]))
    file.write_text(json.dumps({**data, group: {k: v for k, v in data[group].items() if k != first}}))
    assert first in message_of(file)
    file.write_text(json.dumps({**data, group: {**data[group], "surplus": []}}))
    assert "surplus" in message_of(file)


@pytest.mark.parametrize("pixels", [None, "64", [], 0, True])
@pytest.mark.parametrize("name", ["deployment", "training"])
def test_pixels_that_are_no_number(tmp_path: Path, name: str, pixels: object) -> None:
    file, data = tmp_path / "architecture.json", sample_result().to_dict()
    file.write_text(json.dumps({**data, "resolution": {**data["resolution"], name: pixels}}))
    said = f"no field 'resolution.{name}'" if pixels is None else f"resolution.{name} is {pixels!r}, not"
    assert said in message_of(file)


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ('"num_classes": 10', '"num_classes": NaN', "NaN"),
        ('"num_classes": 10', '"num_classes": 1.5', "num_classes is 1.5"),
        ('"num_classes": 10', '"num_classes": 10, "num_classes": 11', "'num_classes' stands twice"),
        ('"binds": ', '"bind": false, "binds": ', "Did you mean 'binds'"),
        ('"notes": [', '"notess": [], "notes": [', "Did you mean 'notes'"),
        ('"test": 0.97', '"test": 1e999', "accuracy.test is inf, not a finite number"),
    ],
)
def test_what_no_search_writes(tmp_path: Path, old: str, new: str, said: str) -> None:
    file = tmp_path / "architecture.json"
    text = json.dumps(sample_result().to_dict())
    assert text.count(old) == 1
    file.write_text(text.replace(old, new))
    assert said in message_of(file)


def test_truncated_empty_and_foreign_files(tmp_path: Path) -> None:
    file = tmp_path / "architecture.json"
    save_result(sample_result(), file)
    whole = file.read_bytes()
    for content in (whole[: len(whole) // 2], whole[:-3], b"", b"\xff\xfe\x00", b"[1, 2]", b"3", b"null"):
        file.write_bytes(content)
        message_of(file)


def test_files_that_are_none(tmp_path: Path) -> None:
    assert "no file" in message_of(tmp_path / "nowhere.json")
    (tmp_path / "folder").mkdir()
    assert "is a folder" in message_of(tmp_path / "folder")
    (tmp_path / "file").write_text("{}")
    message_of(tmp_path / "file" / "architecture.json")


def _places(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [*([path] if path else []), *[p for key, inner in items for p in _places(inner, (*path, key))]]


@pytest.mark.parametrize("junk", [None, -1, "x", "", [], {}, [{}], {"x": []}, 1.5], ids=repr)
def test_junk_anywhere_is_read_or_reported(junk: object) -> None:
    """No other error than `BadFile`, in one line."""
    record = sample_result("proxyless").to_dict()
    for *outer, last in _places(record):
        changed = json.loads(json.dumps(record))
        inner = changed
        for key in outer:
            inner = inner[key]
        inner[last] = junk
        try:
            SearchResult.from_dict(changed, where="result")
        except BadFile as error:
            assert str(error).startswith("result") and "\n" not in str(error)


def test_a_block_outside_its_space_is_reported(tmp_path: Path) -> None:
    file = tmp_path / "architecture.json"
    data = json.loads(json.dumps(sample_result().to_dict()))
    data["architecture"]["stages"][0] = ["k9e6"]
    file.write_text(json.dumps(data))
    assert "'k9e6' is not a block" in message_of(file)


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_what_json_cannot_hold_is_not_written(tmp_path: Path, value: float) -> None:
    file = tmp_path / "architecture.json"
    save_result(sample_result(), file)
    before = file.read_bytes()
    with pytest.raises(ValueError, match="cannot be written as JSON"):
        save_result(replace(sample_result(), provenance={"times": [1.0, value]}), file)
    assert file.read_bytes() == before and list(tmp_path.iterdir()) == [file]


def test_written_whole_or_not_at_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "architecture.json"
    write_whole(file, "before")

    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("search_space.files.os.fsync", full)
    with pytest.raises(UserError, match=r"cannot write '.*architecture\.json': No space left on device"):
        save_result(sample_result(), file)
    assert file.read_text() == "before" and list(tmp_path.iterdir()) == [file]


def test_a_folder_that_is_missing(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="cannot write"):
        write_whole(tmp_path / "nowhere" / "file.json", "x")


@given(content=st.binary(max_size=200) | st.text(max_size=200))
@here
def test_files_hold_exactly_what_was_written(tmp_path: Path, content: bytes | str) -> None:
    write_whole(tmp_path / "file", content)
    assert (tmp_path / "file").read_bytes() == (content.encode() if isinstance(content, str) else content)
    assert [p.name for p in tmp_path.iterdir()] == ["file"]
