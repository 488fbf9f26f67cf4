"""Accuracy against latency: a point for every target of a run on one device, and how far from it its budget is."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from markupsafe import Markup

from nas.report.figures.svg import Scale, dot, element, line, svg, text

if TYPE_CHECKING:
    from nas.run.front_table import FrontRow

WIDTH, HEIGHT = 520, 250
NARROW = 360  # for a phone


def draw_fronts(device: str, rows: Sequence[FrontRow]) -> dict[str, Markup]:
    """The picture for a wide page and for a narrow one; a sentence in its place where a target has no accuracy.

    rows: the targets on this device, at least one.
    """
    if any(row.test is None for row in rows):
        return {"": element("p", "Accuracy not measured: no images at hand.")}
    return {"wide": draw_front(device, rows), "narrow": draw_front(device, rows, NARROW)}


def draw_front(device: str, rows: Sequence[FrontRow], width: float = WIDTH) -> Markup:
    """The picture, `width` wide. rows: the targets on this device that have an accuracy, at least one."""
    tests = [row.test for row in rows if row.test is not None]
    latest = max(max(row.budget_ms, row.predicted_ms) for row in rows)
    lowest, highest = min(tests), max(tests)
    margin = max(0.005, 0.15 * (highest - lowest))
    x = Scale(0, 1.05 * latest, 60, width - 12)
    y = Scale(max(0.0, lowest - margin), min(1.0, highest + margin), HEIGHT - 40, 14)
    parts = []
    for tick in y.ticks():
        parts.append(line(x.start, y(tick), x.end, y(tick), "grid"))
        parts.append(text(x.start - 8, y(tick) + 4, f"{100 * tick:.4g} %", "tiny", "end"))
    parts += [text(x(tick), HEIGHT - 22, f"{tick:g}", "tiny") for tick in x.ticks(max(3, int(width // 90)))]
    parts.append(line(x.start, y.start, x.end, y.start, "axis"))
    notes = "".join(dict.fromkeys(row.scale_note for row in rows))
    parts.append(text((x.start + x.end) / 2, HEIGHT - 4, f"predicted ms{notes}"))
    for row, test in zip(rows, tests, strict=True):
        words = f"{row.folder}: {row.predicted_ms:.4g} of {row.budget_ms:g} ms, {test:.1%}"
        parts.append(line(x(row.predicted_ms), y(test), x(row.budget_ms), y(test), "budget"))
        parts.append(dot(x(row.predicted_ms), y(test), "c0", element("title", words)))
        parts.append(text(x(row.predicted_ms) - 9, y(test) + 4, f"{row.budget_ms:g} ms", "tiny", "end"))
    return svg(width, HEIGHT, f"Accuracy against latency on {device}", f"{len(rows)} targets", parts)
