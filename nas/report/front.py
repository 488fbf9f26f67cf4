"""All targets of one run beside each other: front.json, front.csv and a page, from the targets' results alone.

`python -m nas.report FOLDER` renders a target's own page; this page links to them.
"""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Annotated, Any

from nas.command.summary import scale_note
from nas.report.figures.front import draw_front
from nas.report.frame import render
from nas.run.result import SearchResult
from search_space.files import write_whole
from search_space.reading import AtLeast, Between, read, read_json, without_schema

SCHEMA = 1

Milliseconds = Annotated[float, AtLeast(0)]
Share = Annotated[float, Between(0, 1)]


@dataclass(frozen=True)
class Row:
    """A target and its network. folder: the target's, within the run's. Shares are of 1.

    `used` is by the prediction, or with `confidence` by its interval's upper end. calibration: the scale of the ms.
    """

    folder: str
    device: str
    budget_ms: Milliseconds
    predicted_ms: Milliseconds
    used: float
    binds: bool
    macs: int
    params: int
    peak_activation_bytes: int
    validation: Share
    test: Share
    architecture: str
    confidence: float | None = None
    calibration: str = "measured"

    @property
    def used_by(self) -> str:
        """In words, what uses the budget where it is not the prediction."""
        return f"by the upper end at confidence {self.confidence:g}" if self.confidence else ""

    @property
    def scale_note(self) -> str:
        """', calibration=NAME: not real time' where the ms are so."""
        return scale_note(self.calibration)

    @staticmethod
    def of(result: SearchResult, folder: str) -> Row:
        """The row of a finished search; its folder within the run's."""
        budget = result.budget
        assert budget is not None and result.accuracy is not None
        return Row(
            folder=folder,
            device=budget.device,
            budget_ms=budget.budget_ms,
            predicted_ms=budget.predicted_ms,
            used=budget.used,
            binds=budget.binds,
            **asdict(result.cost),
            validation=result.accuracy.validation,
            test=result.accuracy.test,
            architecture=str(result.architecture),
            confidence=budget.confidence,
            calibration=budget.calibration,
        )


@dataclass(frozen=True)
class _Front:
    """What front.json holds."""

    targets: tuple[Row, ...]
    provenance: Mapping[str, Any]


def write_front(folder: Path, rows: Sequence[Row], provenance: Mapping[str, Any]) -> None:
    """Write front.csv, report.html and, last, front.json, which says that the run has finished."""
    names = [f.name for f in fields(Row)]
    table = io.StringIO()
    writer = csv.writer(table, lineterminator="\n")
    writer.writerow(names)
    writer.writerows([getattr(row, name) for name in names] for row in rows)
    write_whole(folder / "front.csv", table.getvalue())
    write_whole(folder / "report.html", render_front(rows, provenance))
    content = {"schema": SCHEMA, "targets": [asdict(row) for row in rows], "provenance": provenance}
    write_whole(folder / "front.json", json.dumps(content, indent=1, allow_nan=False) + "\n")


def load_front(folder: Path) -> list[Row]:
    """The targets of a run, as `write_front` left them. Raises `BadFile`."""
    return _load(folder)[0]


def _load(folder: Path) -> tuple[list[Row], Mapping[str, Any]]:
    """The targets and the provenance of front.json."""
    path = folder / "front.json"
    where = f"'{path}'"
    front = read(_Front, without_schema(read_json(path, path.name), SCHEMA, where), where)
    return list(front.targets), front.provenance


def front_table(folder: Path) -> str:
    """A line a target, for the terminal, and where its files are."""
    lines = [
        f"{row.device}: predicted {row.predicted_ms:.4g} ms of {row.budget_ms:g} ms "
        f"({f'{row.used:.1%} used {row.used_by}'.strip()}{row.scale_note}), "
        f"{row.macs / 1e6:.0f}M MACs, {row.params / 1e6:.2f}M params, test accuracy {row.test:.1%} "
        f"-> {folder / row.folder}"
        for row in load_front(folder)
    ]
    return "\n".join([*lines, f"{len(lines)} targets -> {folder / 'report.html'}"])


def render_front(rows: Sequence[Row], provenance: Mapping[str, Any]) -> str:
    """The page: a chart a device, and a table that links to every target's own page."""
    devices = dict.fromkeys(row.device for row in rows)
    pictures = {device: draw_front(device, [row for row in rows if row.device == device]) for device in devices}
    notes = "".join(dict.fromkeys(row.scale_note for row in rows))
    return render("front.html", rows=rows, pictures=pictures, scale_notes=notes, provenance=provenance)


def write_front_report(folder: Path) -> Path:
    """Write FOLDER/report.html from its front.json, and return its path. Raises `BadFile`, `CannotWrite`."""
    path = folder / "report.html"
    write_whole(path, render_front(*_load(folder)))
    return path
