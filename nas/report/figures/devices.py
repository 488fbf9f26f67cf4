"""Latency against its limits: the gauge of the device searched for, and the predictions on all devices."""

from __future__ import annotations

from markupsafe import Markup

from nas.report.figures.svg import PAGE_WIDTH, Scale, dot, line, rect, svg, text, whisker
from nas.report.run import ALL, Run
from nas.report.words import NOT_MEASURED, interval, ms
from nas.run.result import NOT_REAL


def draw_gauge(run: Run, width: float = PAGE_WIDTH) -> Markup:
    """The prediction with its interval against the budget, and what keeps it; nothing where there is no budget."""
    budget, here = run.budget, run.result.latency.get(run.device)
    if budget is None:
        return Markup()
    unreal = run.scale_note(budget.device)
    most = max(budget.budget_ms, budget.predicted_ms, here.high_ms if here else 0)
    x = Scale(0, 1.06 * most, 8, width - 20)
    bar = x(budget.predicted_ms) - x(0)
    parts = [rect(x(0), 26, x(x.high) - x(0), 18, "track", radius=3)]
    parts.append(rect(x(0), 26, bar, 18, "over" if budget.used > ALL else "gauge", radius=3))
    if here:
        parts.append(whisker(x(here.low_ms), x(here.high_ms), 35))
    words = f"budget {run.budget_words}{unreal}"
    half = 4 * len(words)  # about half their width
    parts.append(line(x(budget.budget_ms), 18, x(budget.budget_ms), 50, "budget"))
    parts.append(text(min(max(x(budget.budget_ms), half), width - half), 13, words, "strong"))
    for tick in x.ticks(max(3, int(width // 130))):
        parts += [line(x(tick), 46, x(tick), 50, "axis"), text(x(tick), 64, f"{tick:g} ms", "faint")]
    about = f"predicted {ms(budget.predicted_ms)}, interval {interval(here)}, of a budget of {run.budget_words}{unreal}"
    return svg(width, 70, "Predicted latency against the budget", about, parts)


def draw_devices(run: Run) -> Markup:
    """Predictions and intervals of all devices on one logarithmic axis; nothing where there are none."""
    latency, budget = run.result.latency, run.budget
    known = [value for row in latency.values() for value in (row.latency_ms, row.low_ms, row.high_ms) if value > 0]
    known += [budget.budget_ms] if budget else []
    if not known:
        return Markup()
    x = Scale(min(known) / 1.3, max(known) * 1.3, 170, PAGE_WIDTH - 20, log=True)
    bottom = 34.0 * len(run.devices) + 8
    parts = []
    for tick in x.ticks():
        parts += [line(x(tick), 4, x(tick), bottom, "grid"), text(x(tick), bottom + 16, f"{tick:g}", "faint")]
    parts.append(text((x.start + x.end) / 2, bottom + 34, "predicted latency, ms (logarithmic)", "faint"))
    for number, device in enumerate(run.devices):
        y, row = 24 + 34.0 * number, latency.get(device)
        parts.append(text(0, y + 4, device, "strong" if budget and device == budget.device else "small", "start"))
        if run.scale_note(device):
            parts.append(text(0, y + 17, NOT_REAL, "tiny", "start"))
        if budget and device == budget.device:
            at, words = x(budget.budget_ms), f"budget {run.budget_words}"
            parts.append(line(at, y - 15, at, y + 15, "budget"))
            side, anchor = (-5, "end") if at > PAGE_WIDTH - 60 - 6 * len(words) else (5, "start")
            parts.append(text(at + side, y - 8, words, "tiny", anchor))
        if row and row.low_ms > 0 and row.high_ms > 0:
            parts.append(whisker(x(row.low_ms), x(row.high_ms), y))
        if row and row.latency_ms > 0:
            parts.append(dot(x(row.latency_ms), y, "c0"))
        else:
            parts.append(text(x.start + 6, y + 4, NOT_MEASURED, "faint", "start"))
    about = "; ".join(f"{name} {run.predicted_words(name)}, {interval(latency.get(name))}" for name in run.devices)
    return svg(PAGE_WIDTH, bottom + 40, "Predicted latency on every device", about, parts)
