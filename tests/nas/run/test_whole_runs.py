"""A run is whole, resumed to what it would have been, or refused: its folder, run.json and what it depends on."""

import json
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from nas.discrete.optuna import _address
from nas.run import folder as run_folders
from nas.run.folder import make_folder
from nas.run.plan import check_out
from nas.run.resume import CHECKPOINTS, NAME, Begun, content_of, only_process
from nas.run.settings import OptunaSettings
from search_space import files, load_space
from search_space.errors import BadFile, UserError

BEGUN = Begun(
    "search", {"seed": 3, "gates": {"lr": 0.1}}, "a command", datetime(2026, 1, 2, tzinfo=UTC), {"data": "1f", "x": {}}
)


def test_run_json_comes_back(tmp_path: Path) -> None:
    BEGUN.save(tmp_path)
    assert Begun.load(tmp_path, "search") == BEGUN


@settings(max_examples=300, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(at=st.integers(0, 10**6), bit=st.integers(0, 7), cut=st.booleans())
def test_a_damaged_run_json_is_refused_or_what_it_was(tmp_path: Path, at: int, bit: int, cut: bool) -> None:
    BEGUN.save(tmp_path)
    content = (tmp_path / NAME).read_bytes()
    at %= len(content)
    damaged = content[:at] if cut else content[:at] + bytes([content[at] ^ 1 << bit]) + content[at + 1 :]
    (tmp_path / NAME).write_bytes(damaged)
    try:
        assert Begun.load(tmp_path, "search") == BEGUN
    except BadFile as error:
        assert "\n" not in str(error) and "cannot be resumed" in str(error)


def without_digest(values: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in values.items() if key != "sha256"}


def of_an_earlier_version(values: dict[str, Any]) -> dict[str, Any]:
    return {**without_digest(values), "schema": 1}


@pytest.mark.parametrize("change", [without_digest, of_an_earlier_version])
def test_a_run_json_without_a_digest_is_refused(change: Callable[[dict[str, Any]], Any], tmp_path: Path) -> None:
    BEGUN.save(tmp_path)
    (tmp_path / NAME).write_text(json.dumps(change(json.loads((tmp_path / NAME).read_text()))))
    with pytest.raises(BadFile, match="cannot be resumed"):
        Begun.load(tmp_path, "search")


# ------------------------------------------------------------------ what a run depends on

SPACE = load_space("quadranet")
INPUTS: dict[str, Any] = {"data": "1f", "space": SPACE.to_dict(), "device profile cpu": "ab", "teacher": {}}


def other(space: dict[str, Any]) -> dict[str, Any]:
    return {**space, "kernel_sizes": space["kernel_sizes"][::-1]}


@pytest.mark.parametrize(
    ("name", "value", "said"),
    [
        (
            "space",
            other(SPACE.to_dict()),
            r"the space changed .*: kernel_sizes was \[.*\] and is \[.*\]; put it back",
        ),
        ("device profile cpu", "cd", "the device profile cpu changed .*; put it back, or start a new run"),
        ("data", "2f", r"the data changed .*: 1 new \('x'\); put the images back, or start a new run"),
        (
            "teacher",
            {"weights.safetensors": "ee"},
            r"the teacher changed .*: weights.safetensors was None and is",
        ),
    ],
)
def test_changed_inputs_are_said_at_resume(name: str, value: Any, said: str, tmp_path: Path) -> None:
    begun = replace(BEGUN, inputs=INPUTS)
    begun.save(tmp_path)
    loaded = Begun.load(tmp_path, "search")
    assert loaded is not None
    loaded.require_same(tmp_path, INPUTS)
    with pytest.raises(UserError, match=said) as caught:
        loaded.require_same(tmp_path, {**INPUTS, name: value}, lambda: "1 new ('x')")
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 500
    with pytest.raises(UserError, match=f"the {name} changed"):
        loaded.require_same(tmp_path, {key: value for key, value in INPUTS.items() if key != name})


def test_what_options_name_is_known_by_content(tmp_path: Path) -> None:
    assert content_of(None) == content_of("efficientnet_lite0") == content_of(str(tmp_path)) == {}
    (tmp_path / "weights.safetensors").write_bytes(b"1")
    one = content_of(str(tmp_path))
    assert one == content_of(str(tmp_path / "weights.safetensors"))
    (tmp_path / "weights.safetensors").write_bytes(b"2")
    assert list(one) == ["weights.safetensors"] and content_of(str(tmp_path)) != one


# ------------------------------------------------------------------ the folder and run.json come at once


@pytest.mark.parametrize("out", ["mine", None])
def test_killed_before_it_is_there_a_run_leaves_nothing_in_the_way(
    out: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)

    class Killed(BaseException):
        pass

    def kill(*_: Any, **__: Any) -> None:
        raise Killed

    with monkeypatch.context() as patch, pytest.raises(Killed):
        patch.setattr(Path, "rename", kill)
        patch.setattr(run_folders.shutil, "rmtree", lambda *_, **__: None)
        make_folder(out, "name", BEGUN)
    parent = tmp_path if out else tmp_path / "runs"
    (left,) = parent.iterdir()
    assert left.name.startswith(".run.") and list(left.iterdir()) == [left / NAME]
    check_out(out)
    monkeypatch.setattr(files, "_runs", lambda process: False)  # that one is gone
    folder = make_folder(out, "name", BEGUN)
    assert list(parent.iterdir()) == [parent / folder.name] and Begun.load(folder, "search") == BEGUN
    (tmp_path / "usual").mkdir()
    assert folder.stat().st_mode == (tmp_path / "usual").stat().st_mode


def test_an_empty_folder_is_free_and_no_other(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    check_out(str(tmp_path / "empty"))
    with pytest.raises(BadFile, match="that folder is empty; begin a run in it with out="):
        Begun.load(tmp_path / "empty", "search")
    assert make_folder(str(tmp_path / "empty"), "name", BEGUN) == tmp_path / "empty"
    for taken in ("empty", "empty/run.json"):
        with pytest.raises(UserError, match="exists; name another with out="):
            check_out(str(tmp_path / taken))
        with pytest.raises(UserError):
            make_folder(str(tmp_path / taken), "name", BEGUN)


@pytest.mark.parametrize("when", ["before it is opened", "before it is held"])
def test_a_run_that_finishes_meanwhile_is_said(when: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    BEGUN.save(tmp_path)
    if when == "before it is opened":
        BEGUN.forget(tmp_path)
    else:
        monkeypatch.setattr("nas.run.resume.lock", lambda *_, **__: BEGUN.forget(tmp_path))
    with pytest.raises(UserError, match="has finished meanwhile"), only_process(tmp_path):
        pytest.fail("it went on")


def test_what_a_run_left_that_was_killed_at_its_very_end_goes(tmp_path: Path) -> None:
    (tmp_path / "architecture.json").write_text("{}")
    (tmp_path / CHECKPOINTS).mkdir()
    for name in ("000001.safetensors", "000002.safetensors"):
        (tmp_path / CHECKPOINTS / name).write_text("x")
    assert Begun.load(tmp_path, "search") is None
    assert [path.name for path in tmp_path.iterdir()] == ["architecture.json"]


# ------------------------------------------------------------------ a storage's password


def test_the_password_of_a_storage_is_kept_in_the_process_alone() -> None:
    address = "postgresql+psycopg://me:hunter2@db.example:5432/trials"
    asked = OptunaSettings(storage=address)
    assert "hunter2" not in repr(asked) and asked == OptunaSettings(storage=asked.storage)
    assert _address(asked.storage) == address
    with pytest.raises(UserError, match="give it again"):
        _address("mysql://***@nowhere.example/x")
