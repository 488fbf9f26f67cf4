"""A run's logs: what is saved reads back, its bytes are as they were, and a wrong row is named."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from nas.run.checkpoint import Checkpoints
from nas.run.log import GATES_LOG, SEARCH_LOG, Row, SearchLog, load_gates_log, load_search_log
from search_space import SearchSpace, load_space
from search_space.errors import BadFile

SEARCH = """step,phase,epoch,train_loss,gate_loss,val_accuracy,expected_ms,budget_ms,multiplier,gate_entropy,seconds
5,warmup,1,2.30259,,,,30,,,1.24
10,search,2,,1e-05,0.123457,31.5,30,0.25,0.999999,1.24
10,finetune,1,,,1,,,,,1.24
"""


@pytest.fixture
def space() -> SearchSpace:
    return load_space("quadranet")


@pytest.fixture
def folder(tmp_path: Path, space: SearchSpace, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A run's folder with both logs."""
    monkeypatch.setattr(Checkpoints, "seconds", 1.239)
    log = SearchLog(tmp_path / "run", Checkpoints(tmp_path))
    log.folder.mkdir()
    log.add(Row(5, "warmup", 1, 2.302585, budget_ms=30))
    log.add(Row(10, "search", 2, None, 0.00001, 0.1234567, 31.5, 30.0, 0.25, 0.999999))
    log.add(Row(10, "finetune", 1, val_accuracy=1.0))
    most = max(len(slot.candidates) for slot in space.slots)
    for step in (5, 10):
        shares = [torch.arange(1, len(slot.candidates) + 1) ** (step / 5) for slot in space.slots]
        rows = [torch.cat([share / share.sum(), torch.zeros(most - len(share))]) for share in shares]
        log.add_gates(step, space, torch.stack(rows))
    log.save()
    return log.folder


def test_the_bytes_of_a_log(folder: Path) -> None:
    assert (folder / "search.csv").read_text() == SEARCH
    lines = (folder / "gates.csv").read_text().splitlines()
    assert lines[:2] == ["step,slot,stage,block,candidate,probability", "5,0,1,1,k3e3,0.047619"]


def test_logs_are_tables(folder: Path, space: SearchSpace) -> None:
    search, gates = load_search_log(folder), load_gates_log(folder, space)
    assert tuple(search.columns) == SEARCH_LOG.names and tuple(gates.columns) == GATES_LOG.names
    assert search["step"].tolist() == [5, 10, 10] and search["val_accuracy"].isna().tolist() == [True, False, False]
    assert search.loc[search["phase"] == "search", "expected_ms"].tolist() == [31.5]
    assert len(gates) == 2 * sum(len(slot.candidates) for slot in space.slots)
    assert gates.groupby(["step", "slot"])["probability"].sum().tolist() == pytest.approx([1.0] * 2 * len(space.slots))


def test_a_log_without_rows_is_read_as_an_empty_table(tmp_path: Path) -> None:
    new = SearchLog(tmp_path, Checkpoints(tmp_path))
    new.save()
    assert load_search_log(new.folder).empty and load_gates_log(new.folder).empty


def plant(path: Path, row: int, column: int, value: str) -> None:
    """row: the header line is row 1."""
    lines = path.read_text().splitlines()
    cells = lines[row - 1].split(",")
    cells[column] = value
    lines[row - 1] = ",".join(cells)
    path.write_text("\n".join(lines) + "\n")


@pytest.mark.parametrize(
    ("row", "column", "value", "said"),
    [
        (3, 3, "nan", "row 3: train_loss is 'nan'"),
        (2, 0, "", "row 2: step is ''"),
        (2, 0, "11", "row 3: step 10 stands after step 11"),
        (3, 5, "1.5", "row 3: val_accuracy is '1.5'"),
        (3, 7, "0", "row 3: budget_ms is '0'"),
        (1, 10, "minutes", "row 1: no column seconds"),
    ],
)
def test_a_wrong_row_of_the_search_log(row: int, column: int, value: str, said: str, folder: Path) -> None:
    plant(folder / "search.csv", row, column, value)
    with pytest.raises(BadFile) as caught:
        load_search_log(folder)
    assert str(caught.value).startswith(f"run/search.csv {said}")


@pytest.mark.parametrize(
    ("row", "column", "value", "said"),
    [
        (2, 1, "99", "row 2: slot is 99, not one of 0..15"),
        (2, 4, "warp", "row 2: candidate is 'warp', not one of k3e3, "),
        (3, 4, "k3e3", "row 3: candidate 'k3e3' of slot 0 at step 5 again"),
        (2, 5, "1.5", "row 2: probability is '1.5'"),
        (2, 5, "0.5", "step 5, slot 0: probabilities"),
    ],
)
def test_a_wrong_row_of_the_gates_log(
    row: int, column: int, value: str, said: str, folder: Path, space: SearchSpace
) -> None:
    plant(folder / "gates.csv", row, column, value)
    with pytest.raises(BadFile) as caught:
        load_gates_log(folder, space)
    assert said in str(caught.value) and str(caught.value).startswith("run/gates.csv")


def test_missing_candidates_and_files(folder: Path, space: SearchSpace) -> None:
    path = folder / "gates.csv"
    path.write_text("".join(path.read_text().splitlines(keepends=True)[:-9]))
    with pytest.raises(BadFile, match=r"gates\.csv: step 10, slot 14: probabilities are missing"):
        load_gates_log(folder, space)
    path.unlink()
    with pytest.raises(BadFile, match=r"no file 'gates\.csv'"):
        load_gates_log(folder)
