"""Gate probabilities: a heat map of the last snapshot, slots by candidates, and what the slider shows of the others."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass

from markupsafe import Markup

from nas.report.figures.course import thin
from nas.report.figures.svg import PAGE_WIDTH, rect, svg, text
from nas.report.run import Run
from search_space import ZERO

MOST_SNAPSHOTS = 100  # on the slider; the file holds all
LEFT, TOP, CELL_HEIGHT = 46.0, 38.0, 22.0


@dataclass(frozen=True)
class GatesFigure:
    """The heat map at the last `step`.

    snapshots: JSON for the slider, [step, [[probability by candidate] by slot]] each, -1 for no candidate of a slot;
    last: the number of the last of them.
    """

    figure: Markup
    step: int
    snapshots: str
    last: int


def draw_gates(run: Run) -> GatesFigure | None:
    """The heat map and its slider's values; None where no gates were trained."""
    if not run.has_gates:
        return None
    space = run.result.architecture.space
    candidates = dict.fromkeys(candidate for slot in space.slots for candidate in slot.candidates)
    names = [str(candidate) for candidate in sorted(candidates, key=lambda candidate: candidate == ZERO)]
    steps = [int(step) for step in run.gates.index]
    kept = thin(range(len(steps)), MOST_SNAPSHOTS)
    probabilities = {number: _probabilities(run, number) for number in {*kept, len(steps) - 1}}
    snapshots = [
        [steps[number], [[round(gates.get(name, -1), 3) for name in names] for gates in probabilities[number]]]
        for number in kept
    ]
    figure = _heat_map(run, names, probabilities[len(steps) - 1], steps[-1])
    return GatesFigure(figure, steps[-1], json.dumps(snapshots, allow_nan=False), len(kept) - 1)


def _probabilities(run: Run, snapshot: int) -> list[dict[str, float]]:
    """Of a snapshot: every slot's candidates with their probabilities."""
    row = run.gates.iloc[snapshot]
    return [{name: float(row[number, name]) for name in map(str, slot.candidates)}
            for number, slot in enumerate(run.result.architecture.space.slots)]  # fmt: skip


def _heat_map(run: Run, names: list[str], last: list[dict[str, float]], step: int) -> Markup:
    space = run.result.architecture.space
    width = min(62.0, (PAGE_WIDTH - LEFT - 10 * len(space.stages)) / len(space.slots))
    chosen = chosen_candidates(run, last)
    parts = [
        text(LEFT - 8, TOP + CELL_HEIGHT * (row + 0.5) + 4, name, "small", "end") for row, name in enumerate(names)
    ]
    outlines = []
    for number, slot in enumerate(space.slots):
        x = LEFT + width * number + 10 * slot.stage
        if slot.index == 0:
            parts.append(text(x, 13, f"Stage {slot.stage + 1}", "strong", "start"))
        parts.append(text(x + width / 2, TOP - 7, str(slot.index + 1), "tiny"))
        for name, p in last[number].items():
            row = names.index(name)
            y = TOP + CELL_HEIGHT * row
            label = f"stage {slot.stage + 1}, block {slot.index + 1}: {name}"
            more = {"data_gate": f"{number},{row}", "data_name": label, "fill_opacity": f"{p:.3f}"}
            tip = f"{label}\nprobability {p:.3f}"
            parts.append(rect(x + 1, y + 1, width - 2, CELL_HEIGHT - 2, "cell", tip, radius=2, **more))
            if name == chosen[number]:
                outlines.append(rect(x + 0.5, y + 0.5, width - 1, CELL_HEIGHT - 1, "chosen", radius=3))
    about = f"at step {step}; the network found takes {' '.join(chosen)}"
    height = TOP + CELL_HEIGHT * len(names) + 2
    return svg(PAGE_WIDTH, height, "Gate probabilities, slots by candidates", about, parts + outlines)


def chosen_candidates(run: Run, last: list[dict[str, float]]) -> tuple[str, ...]:
    """The chosen candidate of every slot.

    An architecture does not know where its Zeros stood; where the result has no gate path, the placing most
    probable under the last snapshot's probabilities stands in (the page says so).
    """
    if run.result.gate_path:
        return run.result.gate_path
    chosen: list[str] = []
    for stage, blocks in enumerate(run.result.architecture.stages):
        gates = [last[number] for number, slot in enumerate(run.result.architecture.space.slots) if slot.stage == stage]
        chosen += _most_probable(gates, [str(block) for block in blocks])
    return tuple(chosen)


def _most_probable(slots: list[dict[str, float]], blocks: list[str]) -> list[str]:
    """Blocks, in their order, placed on the slots of their stage; "zero" on the others."""
    best: Mapping[int, tuple[float, list[str]]] = {0: (0.0, [])}  # blocks placed -> (log-probability, choices)
    for gates in slots:
        after: dict[int, tuple[float, list[str]]] = {}
        for placed, (score, choices) in best.items():
            moves = [(placed, "zero")] + ([(placed + 1, blocks[placed])] if placed < len(blocks) else [])
            for now, choice in moves:
                if choice in gates:
                    option = (score + math.log(max(gates[choice], 1e-12)), [*choices, choice])
                    after[now] = max(after.get(now, option), option)
        best = after
    return best[len(blocks)][1]
