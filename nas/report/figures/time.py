"""Where the time goes: one bar per device, a piece per segment of the network, stages named below."""

from __future__ import annotations

import re

from markupsafe import Markup

from nas.report.figures.svg import PAGE_WIDTH, Scale, line, rect, svg, text
from nas.report.run import Run
from nas.report.words import NOT_MEASURED, ms, percent


def draw_time(run: Run) -> Markup:
    """The share of every segment in the predicted time on every device."""
    parts = [part for number, device in enumerate(run.devices) for part in _bar(run, device, 4 + 58.0 * number)]
    about = "share of every segment in the predicted time, one bar per device"
    return svg(PAGE_WIDTH, 58 * len(run.devices), "Where the time goes", about, parts)


def _bar(run: Run, device: str, y: float) -> list[Markup]:
    x = Scale(0, 1, 170, PAGE_WIDTH - 4)
    times = run.segments_ms(device)
    total = sum(times.values())
    parts = [
        text(0, y + 15, device, "strong", "start"),
        text(0, y + 31, run.predicted_words(device), "faint", "start"),
    ]
    if total <= 0:
        return [*parts, text(x.start, y + 18, f"by segment: {NOT_MEASURED}", "faint", "start")]
    done = 0.0
    groups: dict[str, tuple[float, float]] = {}  # where a stage's pieces start and end
    for name, value in times.items():
        found = re.fullmatch(r"stage(\d+)_block(\d+)", name)
        group = f"stage {found[1]}" if found else name
        label = f"{group}, block {found[2]}" if found else name
        css = f"piece s{(int(found[1]) - 1) % 6}" if found else "piece fixed"
        start, end = x(done / total), x((done + value) / total)
        parts.append(rect(start, y, end - start, 24, css, f"{label}\n{device}: {ms(value)} ({percent(value / total)})"))
        groups[group] = (groups.get(group, (start, end))[0], end)
        done += value
    return [*parts, *(part for group, (start, end) in groups.items() for part in _name(group, start, end, x, y))]


def _name(group: str, start: float, end: float, x: Scale, y: float) -> list[Markup]:
    """A group's name and share under its pieces, as much of it as there is room for."""
    if end - start <= 28:
        return []
    share = percent((end - start) / (x.end - x.start), 0)
    words = f"{group} · {share}"
    words = words if end - start > 6.4 * len(words) else share
    return [line(start + 1, y + 29, end - 1, y + 29, "axis"), text((start + end) / 2, y + 42, words, "small")]
