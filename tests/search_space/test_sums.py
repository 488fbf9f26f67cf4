"""Files with a checksum beside them are what was written, or refused by every reader."""

import json
import shutil
import subprocess
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from search_space.errors import BadFile
from search_space.reading import read_json
from search_space.sums import NAME, renew_sum, require_sum, save_sums

VALUES = {"a": [1, 2.5, "text"], "b": None}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("sums")
    (folder / "values.json").write_text(json.dumps(VALUES))
    (folder / "weights").write_bytes(bytes(range(256)))
    (folder / ".hidden").write_text("x")
    (folder / "run.json").write_text("{}")
    save_sums(folder, but=("run.json",))
    return folder


def test_what_is_listed(folder: Path) -> None:
    listed = [line.split("  ")[1] for line in (folder / NAME).read_text().splitlines()]
    assert listed == ["values.json", "weights"] and read_json(folder / "values.json") == VALUES
    if tool := shutil.which("sha256sum"):
        assert subprocess.run([tool, "-c", NAME], cwd=folder, capture_output=True).returncode == 0


@given(at=st.integers(0, 255), bit=st.integers(0, 7))
def test_any_bit_is_noticed(folder: Path, at: int, bit: int) -> None:
    path = folder / "weights"
    content = path.read_bytes()
    try:
        path.write_bytes(content[:at] + bytes([content[at] ^ 1 << bit]) + content[at + 1 :])
        with pytest.raises(BadFile, match=f"not what was written, by {NAME} beside it"):
            require_sum(path)
    finally:
        path.write_bytes(content)
    require_sum(path)


def test_every_reader_of_text_asks(folder: Path, tmp_path: Path) -> None:
    copy = shutil.copytree(folder, tmp_path / "copy")
    (copy / "values.json").write_text(json.dumps(VALUES | {"b": 1}))
    with pytest.raises(BadFile, match=r"values\.json' is not what was written"):
        read_json(copy / "values.json")
    renew_sum(copy / "values.json")
    assert read_json(copy / "values.json")["b"] == 1
    (copy / "values.json").write_text("{}")
    (copy / NAME).unlink()
    assert read_json(copy / "values.json") == {}
    renew_sum(copy / "values.json")
    assert not (copy / NAME).exists(), "a folder without sums gets none"


@pytest.mark.parametrize("text", ["", "\xff", f"SHA256 (values.json) = {'0' * 64}\n", "values.json\n", "\0" * 99])
def test_another_list_of_that_name_is_passed_over(text: str, tmp_path: Path) -> None:
    (tmp_path / "values.json").write_text("{}")
    (tmp_path / NAME).write_text(text)
    assert read_json(tmp_path / "values.json") == {}
    (tmp_path / NAME).write_text(f"{text}\n{'0' * 64} *values.json\n")
    with pytest.raises(BadFile):
        read_json(tmp_path / "values.json")


def test_what_cannot_be_read_is_left_to_its_reader(folder: Path, tmp_path: Path) -> None:
    shutil.copy(folder / NAME, tmp_path / NAME)
    require_sum(tmp_path / "weights")
    with pytest.raises(BadFile, match="no file"):
        read_json(tmp_path / "values.json")
