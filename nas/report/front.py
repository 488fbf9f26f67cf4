"""All targets of one run beside each other: front.json, front.csv and a page, from the targets' results alone.

`python -m nas.report FOLDER` renders a target's own page; this page links to them.
"""

from __future__ import annotations

import csv
import io
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from html import escape
from importlib import resources
from pathlib import Path
from typing import Any

from nas.command.summary import scale_note
from nas.report.page import Scale, line, ms, percent, svg, text
from nas.run.result import SearchResult
from search_space.errors import BadFile
from search_space.files import write_whole

SCHEMA = 1
WIDTH, HEIGHT = 520, 250  # of a picture's own units; the page scales them


@dataclass(frozen=True)
class Row:
    """A target and its network. folder: the target's, within the run's. Shares are of 1.

    `used` is by the prediction, or with `confidence` by its interval's upper end. calibration: the scale of the ms.
    """

    folder: str
    device: str
    budget_ms: float
    predicted_ms: float
    used: float
    binds: bool
    macs: int
    params: int
    peak_activation_bytes: int
    validation: float
    test: float
    architecture: str
    confidence: float | None = None
    calibration: str = "measured"

    @property
    def used_by(self) -> str:
        """In words, what uses the budget where it is not the prediction."""
        return f"by the upper end at confidence {self.confidence:g}" if self.confidence else ""

    @staticmethod
    def of(result: SearchResult, folder: str) -> Row:
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
    """Raises `BadFile`."""
    path = folder / "front.json"
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
        if data["schema"] != SCHEMA:
            raise BadFile(f"'{path}' has schema {data['schema']}; this version reads schema {SCHEMA}")
        return [Row(**row) for row in data["targets"]]
    except BadFile:
        raise
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise BadFile(f"'{path}' is not the front of a search: {error}") from error


def front_table(folder: Path) -> str:
    """A line a target, for the terminal, and where its files are."""
    lines = [
        f"{row.device}: predicted {row.predicted_ms:.4g} ms of {row.budget_ms:g} ms "
        f"({f'{row.used:.1%} used {row.used_by}'.strip()}{scale_note(row.calibration)}), "
        f"{row.macs / 1e6:.0f}M MACs, {row.params / 1e6:.2f}M params, test accuracy {row.test:.1%} "
        f"-> {folder / row.folder}"
        for row in load_front(folder)
    ]
    return "\n".join([*lines, f"{len(lines)} targets -> {folder / 'report.html'}"])


def render_front(rows: Sequence[Row], provenance: Mapping[str, Any]) -> str:
    """The page, in the frame of a single run's."""
    devices = list(dict.fromkeys(row.device for row in rows))
    pictures = "".join(
        f"<figure><h3>{escape(device)}</h3>{_picture(device, [row for row in rows if row.device == device])}</figure>"
        for device in devices
    )
    used = "".join(dict.fromkeys(f" Budgets are used {row.used_by}." for row in rows if row.used_by))
    seconds = ", ".join(f"{name} {value:g} s" for name, value in provenance["seconds"].items())
    style = re.search(r"<style>.*?</style>", _template(), re.DOTALL)
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        "<meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; style-src 'unsafe-inline'\">\n"
        f"<title>{len(rows)} targets</title>\n{style[0] if style else ''}\n</head>\n<body>\n"
        f"<h1>{len(rows)} budgets on {len(devices)} device{'s' * (len(devices) > 1)}, one supernet"
        f"{escape(_scale_notes(rows))}</h1>\n"
        f"<p>Test accuracy against predicted latency; the dashed line from a point ends at its budget.{used}</p>\n"
        f'<div class="charts">{pictures}</div>\n<section><h2>Targets</h2>{_table(rows)}\n'
        f"<p>{escape(seconds)}. Command: {escape(str(provenance.get('command')))}; "
        f"commit {escape(str(provenance.get('git_commit')))}; {escape(str(provenance.get('started')))}.</p></section>\n"
        "</body>\n</html>\n"
    )


def _scale_notes(rows: Sequence[Row]) -> str:
    return "".join(dict.fromkeys(scale_note(row.calibration) for row in rows))


def _template() -> str:
    return resources.files("nas.report").joinpath("page.html").read_text(encoding="utf-8")


def _table(rows: Sequence[Row]) -> str:
    head = ("target", "predicted", "of the budget", "MACs", "parameters", "test accuracy", "network")
    body = "".join(
        f'<tr><td><a href="{escape(row.folder)}/report.html">{escape(row.folder)}</a></td>'
        f"<td>{ms(row.predicted_ms)}{escape(scale_note(row.calibration))}</td>"
        f"<td>{f'{percent(row.used)} {row.used_by}'.strip()}{'' if row.binds else ' (does not bind)'}</td>"
        f"<td>{row.macs / 1e6:.0f} M</td>"
        f"<td>{row.params / 1e6:.2f} M</td><td>{percent(row.test)}</td><td>{escape(row.architecture)}</td></tr>"
        for row in rows
    )
    return f"<table><thead><tr>{''.join(f'<th>{name}</th>' for name in head)}</tr></thead><tbody>{body}</tbody></table>"


def _picture(device: str, rows: Sequence[Row]) -> str:
    """Accuracy against latency, a point a target."""
    latest = max(max(row.budget_ms, row.predicted_ms) for row in rows)
    lowest, highest = min(row.test for row in rows), max(row.test for row in rows)
    margin = max(0.005, 0.15 * (highest - lowest))
    x = Scale(0, 1.05 * latest, 60, WIDTH - 12)
    y = Scale(max(0.0, lowest - margin), min(1.0, highest + margin), HEIGHT - 40, 14)
    parts = [line(x.start, y(tick), x.end, y(tick), "grid") for tick in y.ticks()]
    parts += [text(x.start - 8, y(tick) + 4, f"{100 * tick:.4g} %", "tiny", "end") for tick in y.ticks()]
    parts += [text(x(tick), HEIGHT - 22, f"{tick:g}", "tiny") for tick in x.ticks()]
    parts.append(line(x.start, y.start, x.end, y.start, "axis"))
    parts.append(text((x.start + x.end) / 2, HEIGHT - 4, f"predicted ms{_scale_notes(rows)}"))
    for row in rows:
        words = f"{row.folder}: {row.predicted_ms:.4g} of {row.budget_ms:g} ms, {row.test:.1%}"
        dot = (
            f'<circle cx="{x(row.predicted_ms):.2f}" cy="{y(row.test):.2f}" r="5" class="dot c0"><title>{escape(words)}'
        )
        parts.append(line(x(row.predicted_ms), y(row.test), x(row.budget_ms), y(row.test), "budget"))
        parts.append(f"{dot}</title></circle>")
    return svg(WIDTH, HEIGHT, f"Accuracy against latency on {device}", f"{len(rows)} targets", "".join(parts))
