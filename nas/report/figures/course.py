"""The course of a search or training: lines over steps for what search.csv or train.csv holds, the phases shaded."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeVar

from markupsafe import Markup

from nas.report.figures.svg import PAGE_WIDTH, Scale, curve, dot, element, line, rect, svg, text
from nas.report.run import Run
from nas.report.words import NOT_MEASURED

if TYPE_CHECKING:
    import pandas as pd

PHASES = {"warmup": "warm-up", "finetune": "fine-tuning"}  # where a phase's name is not its word
MOST_POINTS = 1000  # drawn of a line; the file holds all
HEIGHT, TOP, BOTTOM = 232.0, 40.0, 196.0  # of a chart, and of the lines in it

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Series:
    """A line of a chart: points are (step, value), in the chart's unit."""

    name: str
    css: str
    points: list[tuple[int, float]]


def draw_course(run: Run) -> list[Markup]:
    """Latency against the budget, accuracy, losses and, of gates, multiplier and entropy; none without steps.

    Of a training loss and accuracy alone.
    """
    log, half = run.log, PAGE_WIDTH / 2 - 14
    if log.empty:
        return []
    accuracy = [series(log, "val_accuracy", "accuracy", "c0", 100)]
    losses = [series(log, "train_loss", "weights", "c0")]
    if run.trained:
        return [draw_lines(log, "Loss", "", losses, half), draw_lines(log, "Validation accuracy", "%", accuracy, half)]
    latency = ("Expected latency" if run.has_gates else "Latency") + run.scale_note(run.device)
    milliseconds = [series(log, "expected_ms", "expected", "c0"), series(log, "budget_ms", "budget", "dashed")]
    losses.append(series(log, "gate_loss", "gates", "c1"))
    charts = [
        draw_lines(log, latency, "ms", milliseconds, PAGE_WIDTH),
        draw_lines(log, "Validation accuracy", "%", accuracy, half),
        draw_lines(log, "Loss", "", losses, half),
    ]
    if run.has_gates:
        multiplier = [series(log, "multiplier", "multiplier", "c0")]
        entropy = [series(log, "gate_entropy", "entropy", "c0")]
        charts.append(draw_lines(log, "Latency multiplier", "", multiplier, half, from_zero=True))
        charts.append(draw_lines(log, "Gate entropy", "1 undecided, 0 decided", entropy, half, from_zero=True))
    return charts


def thin(values: Sequence[T], most: int) -> list[T]:
    """At most that many values, evenly spaced, first and last among them."""
    if len(values) <= most:
        return list(values)
    return [values[round(i * (len(values) - 1) / (most - 1))] for i in range(most)]


def series(log: pd.DataFrame, column: str, name: str, css: str, factor: float = 1.0) -> Series:
    """What was measured of a column of the log, times `factor`."""
    known = log[log[column].notna()]
    points = list(zip(known["step"].tolist(), (factor * known[column]).tolist(), strict=True))
    return Series(name, css, thin(points, MOST_POINTS))


def draw_lines(
    log: pd.DataFrame, title: str, unit: str, lines: Sequence[Series], width: float, from_zero: bool = False
) -> Markup:
    """Lines over steps, `width` wide, with the phases shaded; the page's script adds the read-out."""
    left, right = 50.0, width - 12
    drawn = [series for series in lines if series.points]
    head = text(0, 14, title + (f" ({unit})" if unit else ""), "strong", "start")
    values = [value for series in drawn for _, value in series.points]
    if not values:
        return svg(width, 60, title, NOT_MEASURED, [head, text(0, 40, NOT_MEASURED, "faint", "start")])
    low, high = min(values), max(values)
    low = min(0.0, low) if from_zero else low
    room = (high - low or abs(high) or 1.0) * 0.06
    first, last = int(log["step"].iloc[0]), int(log["step"].iloc[-1])
    x = Scale(first, max(last, first + 1), left, right)
    y = Scale(low if from_zero and low == 0 else low - room, high + room, BOTTOM, TOP)
    parts = [head, *_phases(log, x)]
    for tick in y.ticks():
        parts += [line(left, y(tick), right, y(tick), "grid"), text(left - 7, y(tick) + 4, f"{tick:g}", "faint", "end")]
    parts.append(line(left, BOTTOM, right, BOTTOM, "axis"))
    parts += [text(x(tick), BOTTOM + 16, f"{tick:g}", "faint") for tick in x.ticks(max(6, int(width // 110)))]
    parts.append(text((left + right) / 2, BOTTOM + 33, "step", "faint"))
    for series in reversed(drawn):
        corners = [(x(step), y(value)) for step, value in series.points]
        parts.append(curve(corners, series.css))
        if len(corners) <= 25 and "dashed" not in series.css:
            parts += [dot(at, value, series.css, radius=3) for at, value in corners]
    if len(lines) > 1:
        parts += _key(drawn, right)
    parts.append(element("g", class_="cursor"))
    data = {
        "x": [x.low, x.high, left, right],
        "y": [y.low, y.high, BOTTOM, TOP],
        "unit": unit if unit in ("ms", "%") else "",
        "lines": [[s.name, s.css, [[step, float(f"{value:.4g}")] for step, value in s.points]] for s in drawn],
    }
    ends = ", ".join(f"{s.name} from {s.points[0][1]:.4g} to {s.points[-1][1]:.4g}" for s in drawn)
    read_out = json.dumps(data, allow_nan=False)
    return svg(width, HEIGHT, f"{title} over steps", ends, parts, class_="chart", data_chart=read_out)


def _phases(log: pd.DataFrame, x: Scale) -> list[Markup]:
    """Every phase as a shaded band from its first step to the next phase's."""
    starts = log[log["phase"] != log["phase"].shift()]
    steps = [*starts["step"].tolist(), int(log["step"].iloc[-1])]
    parts = []
    for number, phase in enumerate(starts["phase"]):
        left, right = x(steps[number]), x(steps[number + 1])
        name = PHASES.get(phase, phase)
        parts.append(rect(left, TOP - 14, right - left, BOTTOM - TOP + 14, "band odd" if number % 2 else "band"))
        if right - left > 6 * len(name):
            parts.append(text(left + 5, TOP - 3, name, "tiny", "start"))
    return parts


def _key(drawn: Sequence[Series], at: float) -> list[Markup]:
    """The lines' names and looks, written from the right end `at` to the left."""
    parts = []
    for series in reversed(drawn):
        parts.append(text(at, 14, series.name, "small", "end"))
        at -= 6.8 * len(series.name) + 8
        parts.append(line(at - 18, 10, at, 10, f"curve {series.css}"))
        at -= 34
    return parts
