"""The page about all targets of one run beside each other, from front.csv and the targets' results alone.

`python -m nas.report FOLDER` renders a target's own page; this page links to them.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from html import escape
from importlib import resources
from pathlib import Path
from typing import Any

from nas.command.summary import scale_note
from nas.report.page import Scale, line, ms, percent, svg, text
from nas.run.front_table import FrontRow, load_front
from nas.run.result import load_result
from search_space.files import write_whole

WIDTH, HEIGHT = 520, 250  # of a picture's own units; the page scales them


def write_front_report(folder: Path) -> Path:
    """Write FOLDER/report.html about all targets of a run, from its files. Raises `BadFile`, `CannotWrite`."""
    rows = load_front(folder)
    origin = load_result(folder / rows[0].folder / "architecture.json").provenance
    path = folder / "report.html"
    write_whole(path, render_front(rows, origin))
    return path


def render_front(rows: Sequence[FrontRow], provenance: Mapping[str, Any]) -> str:
    """The page, in the frame of a single run's."""
    devices = list(dict.fromkeys(row.device for row in rows))
    pictures = "".join(
        f"<figure><h3>{escape(device)}</h3>{_picture(device, [row for row in rows if row.device == device])}</figure>"
        for device in devices
    )
    used = "".join(dict.fromkeys(f" Budgets are used {row.used_by}." for row in rows if row.used_by))
    shared = provenance.get("search_s")
    seconds = f"search {shared:g} s, shared" if shared is not None else "time of the search not measured"
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


def _scale_notes(rows: Sequence[FrontRow]) -> str:
    return "".join(dict.fromkeys(scale_note(row.calibration) for row in rows))


def _template() -> str:
    return resources.files("nas.report").joinpath("page.html").read_text(encoding="utf-8")


def _table(rows: Sequence[FrontRow]) -> str:
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


def _picture(device: str, rows: Sequence[FrontRow]) -> str:
    """Accuracy against latency, a point a target."""
    tests = [row.test for row in rows if row.test is not None]
    if len(tests) < len(rows):
        return "<p>accuracy not measured: no images at hand</p>"
    latest = max(max(row.budget_ms, row.predicted_ms) for row in rows)
    lowest, highest = min(tests), max(tests)
    margin = max(0.005, 0.15 * (highest - lowest))
    x = Scale(0, 1.05 * latest, 60, WIDTH - 12)
    y = Scale(max(0.0, lowest - margin), min(1.0, highest + margin), HEIGHT - 40, 14)
    parts = [line(x.start, y(tick), x.end, y(tick), "grid") for tick in y.ticks()]
    parts += [text(x.start - 8, y(tick) + 4, f"{100 * tick:.4g} %", "tiny", "end") for tick in y.ticks()]
    parts += [text(x(tick), HEIGHT - 22, f"{tick:g}", "tiny") for tick in x.ticks()]
    parts.append(line(x.start, y.start, x.end, y.start, "axis"))
    parts.append(text((x.start + x.end) / 2, HEIGHT - 4, f"predicted ms{_scale_notes(rows)}"))
    for row, test in zip(rows, tests, strict=True):
        words = f"{row.folder}: {row.predicted_ms:.4g} of {row.budget_ms:g} ms, {test:.1%}"
        dot = f'<circle cx="{x(row.predicted_ms):.2f}" cy="{y(test):.2f}" r="5" class="dot c0"><title>{escape(words)}'
        parts.append(line(x(row.predicted_ms), y(test), x(row.budget_ms), y(test), "budget"))
        parts.append(f"{dot}</title></circle>")
    return svg(WIDTH, HEIGHT, f"Accuracy against latency on {device}", f"{len(rows)} targets", "".join(parts))
