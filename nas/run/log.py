"""The course of a search: rows for search.csv and gates.csv, the supernet as the search left it.

Rows are kept in memory and the files rewritten whole, so that they are never half a line; checkpoints carry them.
"""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable, Mapping
from dataclasses import astuple, dataclass, fields, replace
from pathlib import Path
from typing import Any

import torch

from nas.run.checkpoint import Checkpoints
from search_space import SearchSpace
from search_space.errors import CannotWrite
from search_space.files import write_whole

LOG_EVERY = 5  # steps


@dataclass(frozen=True)
class Row:
    """One logged step; None where something was not measured at that step."""

    step: int
    phase: str
    epoch: int
    train_loss: float | None = None
    gate_loss: float | None = None
    val_accuracy: float | None = None
    expected_ms: float | None = None
    budget_ms: float | None = None
    multiplier: float | None = None
    gate_entropy: float | None = None
    seconds: float | None = None


class SearchLog:
    """Collects rows; `save` writes search.csv and gates.csv. `checkpoints` carry the rows through a resume."""

    def __init__(self, folder: Path, checkpoints: Checkpoints, name: str = "run") -> None:
        """name: of this log among those that the checkpoints carry."""
        self.folder = folder
        self.checkpoints = checkpoints
        journal = json.loads(checkpoints.restored_journal(name) or '{"rows": [], "gates": []}')
        self.rows = [Row(*values) for values in journal["rows"]]
        self._gates: list[list[Any]] = journal["gates"]
        checkpoints.journals[name] = self._journal

    def add(self, row: Row) -> None:
        self.rows.append(replace(row, seconds=round(self.checkpoints.seconds, 2)))

    def add_gates(self, step: int, space: SearchSpace, probabilities: torch.Tensor) -> None:
        """probabilities: (slots, candidates)."""
        for index, slot in enumerate(space.slots):
            for choice, candidate in enumerate(slot.candidates):
                p = float(probabilities[index, choice])
                self._gates.append([step, index, slot.stage + 1, slot.index + 1, str(candidate), p])

    def save(self) -> None:
        """Write the rows so far; of several processes the first does."""
        if not self.checkpoints.writes:
            return
        names = [f.name for f in fields(Row)]
        rows = [["" if v is None else _short(v) for v in astuple(row)] for row in self.rows]
        write_whole(self.folder / "search.csv", _csv(names, rows))
        header = ["step", "slot", "stage", "block", "candidate", "probability"]
        gates = [[_short(v) for v in row] for row in self._gates]
        write_whole(self.folder / "gates.csv", _csv(header, gates))

    def read_back(self) -> None:
        """Begin with the rows that `save` wrote to this folder before, if any."""
        if not (self.folder / "search.csv").is_file():
            return
        self.rows = [_row(texts) for texts in _rows(self.folder / "search.csv")]
        whole = ("step", "slot", "stage", "block")
        self._gates = [
            [*(int(row[name]) for name in whole), row["candidate"], float(row["probability"])]
            for row in _rows(self.folder / "gates.csv")
        ]

    def save_meanwhile(self) -> None:
        """`save`, and go on if the disk refuses: checkpoints carry the rows too."""
        try:
            self.save()
        except CannotWrite as error:
            self.checkpoints.say(f"note: {error}; the run goes on")

    def _journal(self) -> str:
        return json.dumps({"rows": [astuple(row) for row in self.rows], "gates": self._gates})


def _short(value: object) -> str:
    return f"{value:.6g}" if isinstance(value, float) else str(value)


def _rows(path: Path) -> list[dict[str, str]]:
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def _row(texts: Mapping[str, str]) -> Row:
    read: dict[str, Callable[[str], Any]] = {"step": int, "phase": str, "epoch": int}
    values: dict[str, Any] = {name: read.get(name, float)(text) if text else None for name, text in texts.items()}
    return Row(**values)


def _csv(header: list[str], rows: list[list[str]]) -> str:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(header)
    writer.writerows(rows)
    return text.getvalue()
