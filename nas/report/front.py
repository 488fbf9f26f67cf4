"""The page about all targets of one run beside each other, from front.csv and the targets' results alone.

`nas.report.page` renders a target's own page; this one links to them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from nas.report.figures.front import draw_fronts
from nas.report.frame import render
from nas.run.front_table import FrontRow, load_front
from nas.run.result import load_result
from search_space.files import write_whole


def write_front_report(folder: Path) -> Path:
    """Write FOLDER/report.html from its files, and return its path. Raises `BadFile`, `CannotWrite`."""
    rows = load_front(folder)
    provenance = load_result(folder / rows[0].folder / "architecture.json").provenance
    path = folder / "report.html"
    write_whole(path, render_front(rows, provenance))
    return path


def render_front(
    rows: Sequence[FrontRow], provenance: Mapping[str, Any] | None = None, heading: str | None = None
) -> str:
    """The page: a chart a device, and a table that links to every target's own page.

    provenance: of any target of one run; heading: what stands above rows of several runs.
    """
    devices = dict.fromkeys(row.device for row in rows)
    pictures = {device: draw_fronts(device, [row for row in rows if row.device == device]) for device in devices}
    notes = "".join(dict.fromkeys(row.scale_note for row in rows))
    if heading is None:
        heading = f"{len(rows)} budgets on {len(pictures)} device{'s' * (len(pictures) > 1)}, one supernet"
    heading += notes
    return render("front.html", rows=rows, pictures=pictures, heading=heading, provenance=provenance)
