"""Files written whole: by many at once, swept after a kill, and refused in one line."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from search_space.errors import CannotWrite
from search_space.files import ensure_folder, write_whole

WRITER = """
import sys
from pathlib import Path
from search_space.files import write_whole
for _ in range(100):
    write_whole(Path(sys.argv[1]), sys.argv[2] * 100_000)
"""
KILLED = """
import os, signal, sys
from pathlib import Path
from search_space.files import write_whole
os.fsync = lambda descriptor: os.kill(os.getpid(), signal.SIGKILL)
write_whole(Path(sys.argv[1]), "half")
"""


def test_two_processes_write_one_path(tmp_path: Path) -> None:
    path = tmp_path / "index.npz"
    writers = [subprocess.Popen([sys.executable, "-c", WRITER, str(path), letter]) for letter in "ab"]
    assert [writer.wait(timeout=120) for writer in writers] == [0, 0]
    assert path.read_text() in ("a" * 100_000, "b" * 100_000)
    assert list(tmp_path.iterdir()) == [path]


def test_threads_write_one_path(tmp_path: Path) -> None:
    path = tmp_path / "index.npz"
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda number: write_whole(path, str(number % 10) * 1000), range(400)))
    assert set(path.read_text()) <= set("0123456789") and len(set(path.read_text())) == 1
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("name", ["a.json", "[1]*.json"])
def test_what_a_killed_writer_left_goes_with_the_next_write(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    subprocess.run([sys.executable, "-c", KILLED, str(path)], check=False, timeout=60)
    (left,) = tmp_path.glob(".*.partial")  # as `nas` clears them
    running = left.with_name(left.name.replace(f"-{left.name.split('-')[-2]}-", f"-{os.getpid()}-"))
    running.write_text("half")
    write_whole(tmp_path / "other.json", "whole")
    assert left.exists()
    write_whole(path, "whole")
    assert path.read_text() == "whole"
    assert list(tmp_path.glob(".*.partial")) == [running]


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (ensure_folder, "cannot make the folder '.*file': File exists"),
        (lambda path: ensure_folder(path / "x" / "y"), "cannot make the folder '.*file/x/y': Not a directory"),
        (lambda path: write_whole(path / "x", ""), "cannot write '.*file/x': Not a directory"),
    ],
)
def test_a_file_in_the_way_is_said(make: Callable[[Path], object], said: str, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(CannotWrite, match=said):
        make(tmp_path / "file")
    assert [p.name for p in tmp_path.iterdir()] == ["file"]


def test_a_folder_is_made_once_and_found_again(tmp_path: Path) -> None:
    folder = tmp_path / "a" / "b"
    assert ensure_folder(folder) == ensure_folder(folder) == folder and folder.is_dir()
