"""The network, stage by stage: height is expansion, colour is kernel size, the bar below is the share of the time."""

from __future__ import annotations

import math
from dataclasses import dataclass

from markupsafe import Markup

from nas.report.figures.svg import PAGE_WIDTH, line, rect, svg, text
from nas.report.run import Run
from nas.report.words import count, ms, percent
from search_space import Segment, cost_of

GAP, PAD = 7.0, 7.0  # between boxes, and around a stage's
MIDDLE, BAR, ROW_HEIGHT = 86.0, 133.0, 176.0  # of a row: where boxes and bars stand
WIDTH = 44.0  # of a block's box


@dataclass(frozen=True, slots=True)
class Box:
    """One drawn piece of the network; `segment` is empty for a slot left out."""

    segment: str
    css: str
    words: tuple[str, ...]
    height: float
    tip: str
    width: float = WIDTH


@dataclass(frozen=True, slots=True)
class Group:
    """Boxes beside each other: a stage's, with two lines of heading, or one between the stages, without."""

    boxes: list[Box]
    heading: tuple[str, str] | None = None


def draw_network(run: Run) -> Markup:
    """Stages left to right, wrapped where the page ends."""
    parts: list[Markup] = []
    x, y = 0.0, 0.0
    for group in _groups(run):
        rows = math.ceil(len(group.boxes) / ((PAGE_WIDTH - 2 * PAD + GAP) // (WIDTH + GAP)))
        per_row = math.ceil(len(group.boxes) / rows)
        for start in range(0, len(group.boxes), per_row):
            boxes = group.boxes[start : start + per_row]
            inner = sum(box.width for box in boxes) + GAP * (len(boxes) - 1)
            width = max(inner + 2 * PAD, 92) if group.heading else inner
            if x + width > PAGE_WIDTH:
                x, y = 0.0, y + ROW_HEIGHT
            if group.heading:
                name, size = group.heading
                parts.append(rect(x, y, width, ROW_HEIGHT - 14, "panel", radius=8))
                parts.append(text(x + 9, y + 17, name + (" (continued)" if start else ""), "strong", "start"))
                parts.append(text(x + 9, y + 32, size, "faint", "start"))
            parts.append(line(max(0, x - GAP), y + MIDDLE, x + width, y + MIDDLE, "link"))
            left = x + (width - inner) / 2
            for box in boxes:
                parts += _draw_box(run, box, left, y)
                left += box.width + GAP
            x += width + GAP
    about = f"kernel and expansion of every block, | between stages: {run.result.architecture}"
    return svg(PAGE_WIDTH, y + ROW_HEIGHT - 13, "The network, stage by stage", about, parts, role="group")


def _draw_box(run: Run, box: Box, x: float, y: float) -> list[Markup]:
    """A box, its words and, where it was predicted, its share of the time below; x, y: of its row's upper left."""
    centre, middle = x + box.width / 2, y + MIDDLE
    shape = (x, middle - box.height / 2, box.width, box.height, f"box {box.css}", box.tip)
    parts = [rect(*shape, radius=7, tabindex=0, role="img", aria_label=box.tip)]
    for number, words in enumerate(box.words):
        at = middle + 4.5 + 15 * (number - (len(box.words) - 1) / 2)
        parts.append(text(centre, at, words, "label" if number == 0 else "label second"))
    device = run.device
    share, most = run.share(device, box.segment), max(run.segments_ms(device).values(), default=0)
    if share is not None:
        parts.append(rect(x, y + BAR, box.width, 5, "track", radius=2))
        time = run.segments_ms(device)[box.segment]
        parts.append(rect(x, y + BAR, box.width * time / most, 5, "time", radius=2))
        if box.width >= 40:
            parts.append(text(centre, y + BAR + 18, percent(share), "tiny"))
    return parts


def _groups(run: Run) -> list[Group]:
    """The network as drawn, in order."""
    architecture = run.result.architecture
    segments = {segment.name: segment for segment in run.segments}
    last = segments["stem"]
    groups = [Group([_fixed_box(run, last)])]
    for stage, (choices, place) in enumerate(zip(architecture.stages, architecture.space.stages, strict=True), start=1):
        if f"down{stage}" in segments:
            groups.append(Group([_fixed_box(run, segments[f"down{stage}"])]))
        blocks = [segments[f"stage{stage}_block{block}"] for block in range(1, len(choices) + 1)]
        last = (blocks or [segments.get(f"down{stage}", last)])[-1]
        size = f"{place.width} ch, {_map_size(last)}"
        boxes = [_block_box(run, stage, block, segment) for block, segment in enumerate(blocks, start=1)]
        groups.append(Group(_with_zeros(run, stage, boxes), (f"Stage {stage}", size)))
    return [*groups, Group([_fixed_box(run, segments["head"])])]


def _block_box(run: Run, stage: int, block: int, segment: Segment) -> Box:
    """A chosen block, both counted from 1."""
    space = run.result.architecture.space
    choice = run.result.architecture.stages[stage - 1][block - 1]
    kernel = f"{choice.kernel_size}×{choice.kernel_size}"
    css = f"kernel k{space.kernels.index(choice.kernel_size) % 5}"
    height = 38 + 42 * choice.expand_ratio / max(1, *space.ratios)
    about = f"stage {stage}, block {block}: kernel {kernel}, expansion {choice.expand_ratio}"
    if choice.branches > 1:
        about += f", quadratic with {choice.branches} depthwise convolutions"
    words = (kernel, f"e{str(choice).partition('e')[2]}")
    return Box(segment.name, css, words, height, f"{about}\n{_facts(run, segment)}")


def _fixed_box(run: Run, segment: Segment) -> Box:
    """The stem, a down-sampling or the head."""
    down = segment.name.startswith("down")
    name = "down-sampling" if down else segment.name
    tip = f"{name}, to {segment.nodes[-1].spec.out_channels} ch, {_map_size(segment)}\n{_facts(run, segment)}"
    return Box(segment.name, "fixed", ("↓2" if down else name,), 46, tip, width=24 if down else 42)


def _map_size(segment: Segment) -> str:
    last = segment.nodes[-1].spec
    return f"{last.out_height}×{last.out_width}"


def _facts(run: Run, segment: Segment) -> str:
    """A segment's cost, and its time and share on every device, a line each."""
    cost = cost_of([segment])
    facts = [f"{count(cost.macs)} MACs, {count(cost.params)} parameters"]
    for device in run.devices:
        share = run.share(device, segment.name)
        of = "" if share is None else f" ({percent(share)})"
        facts.append(f"{device}: {ms(run.segments_ms(device).get(segment.name))}{of}")
    return "\n".join(facts)


def _with_zeros(run: Run, stage: int, boxes: list[Box]) -> list[Box]:
    """The stage's boxes with its left-out slots: where they stood if known, else at the end."""
    zero = Box("", "zero", ("zero",), 46, f"stage {stage}: a slot left out (Zero)")
    space = run.result.architecture.space
    if not run.result.gate_path:
        return boxes + [zero] * (space.stages[stage - 1].max_blocks - len(boxes))
    rest = iter(boxes)
    slots = zip(space.slots, run.result.gate_path, strict=True)
    return [zero if choice == "zero" else next(rest) for slot, choice in slots if slot.stage == stage - 1]
