"""The course of a search: rows for search.csv and gates.csv, and the last good state.

Rows are kept in memory and the files rewritten whole, so that they are never half a line.
"""

from __future__ import annotations

import csv
import io
import time
from dataclasses import asdict, dataclass, fields
from pathlib import Path

import torch
from safetensors.torch import save

from search_space import SearchSpace
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
    """Collects rows; `save` writes search.csv, gates.csv and checkpoint.safetensors."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.rows: list[Row] = []
        self._gates: list[tuple[int, int, int, int, str, float]] = []
        self._start = time.monotonic()

    def add(self, row: Row) -> None:
        self.rows.append(Row(**{**asdict(row), "seconds": round(time.monotonic() - self._start, 2)}))

    def add_gates(self, step: int, space: SearchSpace, probabilities: torch.Tensor) -> None:
        """probabilities: (slots, candidates)."""
        for index, slot in enumerate(space.slots):
            for choice, candidate in enumerate(slot.candidates):
                p = float(probabilities[index, choice])
                self._gates.append((step, index, slot.stage + 1, slot.index + 1, str(candidate), p))

    def save(self, state: dict[str, torch.Tensor] | None = None) -> None:
        """Write the files so far; `state` becomes checkpoint.safetensors, the last good state."""
        names = [f.name for f in fields(Row)]
        rows = [["" if v is None else _short(v) for v in asdict(row).values()] for row in self.rows]
        write_whole(self.folder / "search.csv", _csv(names, rows))
        header = ["step", "slot", "stage", "block", "candidate", "probability"]
        gates = [[_short(v) for v in row] for row in self._gates]
        write_whole(self.folder / "gates.csv", _csv(header, gates))
        if state is not None:
            write_whole(self.folder / "checkpoint.safetensors", save(state))


def _short(value: object) -> str:
    return f"{value:.6g}" if isinstance(value, float) else str(value)


def _csv(header: list[str], rows: list[list[str]]) -> str:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(header)
    writer.writerows(rows)
    return text.getvalue()
