"""Cut journals and systems without file locks: kinds of trouble that others met in public."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from nas.discrete import explore
from nas.discrete.optuna import OptunaSearch
from search_space import UserError
from tests import ROOT
from tests.nas.discrete.small_region import additive_accuracy, region


def journal(path: Path, trials: int = 4) -> bytes:
    explore(OptunaSearch(region(), 0, storage=str(path)), additive_accuracy, trials)
    return path.read_bytes()


@pytest.mark.parametrize("cut", [1, 25, 60])
def test_a_journal_cut_by_a_power_failure_goes_without_its_last_line(cut: int, tmp_path: Path) -> None:
    """As in optuna issue 5138: the last line of a journal is half there, and every later access fails."""
    path = tmp_path / "study.log"
    whole = journal(path)
    path.write_bytes(whole[:-cut])
    again = OptunaSearch(region(), 0, storage=str(path))
    assert 2 <= len(again.trials) <= 4
    assert whole.startswith(path.read_bytes()[:100]) and path.read_bytes().endswith(b"\n")
    assert len(explore(again, additive_accuracy, 6)) == 6


def test_a_file_that_is_no_journal_is_left_as_it_is(tmp_path: Path) -> None:
    for content in (b"my notes", b"my notes\n", b"1\n2\n"):
        (tmp_path / "notes.txt").write_bytes(content)
        with pytest.raises(UserError, match=r"notes\.txt"):
            OptunaSearch(region(), 0, storage=str(tmp_path / "notes.txt"))
        assert (tmp_path / "notes.txt").read_bytes() == content


def test_a_journal_damaged_in_the_middle_is_one_line(tmp_path: Path) -> None:
    path = tmp_path / "study.log"
    lines = journal(path).splitlines(keepends=True)
    path.write_bytes(b"".join([*lines[:3], b"\x00" * 40 + b"\n", *lines[4:]]))
    with pytest.raises(UserError, match=r"study\.log': line 4") as error:
        OptunaSearch(region(), 0, storage=str(path))
    assert "\n" not in str(error.value)


def test_a_journal_damaged_while_it_is_used_is_one_line(tmp_path: Path) -> None:
    path = tmp_path / "study.log"
    journal(path)
    search = OptunaSearch(region(), 0, storage=str(path))
    with path.open("ab") as file:
        file.write(b'{"op_code": 5, "worker_id": "x"}\n')
    with pytest.raises(UserError, match=r"study\.log"):
        search.ask()


def test_a_system_without_file_locks_works() -> None:
    """As in PCNtoolkit issue 329: fcntl is only there on Unix; an import of it at the top ends even --help."""
    script = (
        "import sys, runpy; sys.modules['fcntl'] = None; sys.argv = ['nas.search', '--help']; "
        "runpy.run_module('nas.search', run_name='__main__')"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, cwd=ROOT, check=False)
    assert done.returncode == 0 and "budget_ms" in done.stdout, done.stderr
