"""The page of `experiments.table3`, from its results alone: self-contained, opens offline.

Frame, style and tooltips are those of a run's page (`nas.report.frame`); Fig. 5 is the one that its experiment drew.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from html import escape
from typing import Any

from markupsafe import Markup

from experiments.profiles.paper_scale import SCALES
from experiments.results import FOLDER, Results, Row, number
from experiments.table3_story import NOT_RUN, Story, Target, spread
from experiments.table3_tables import LABELS, Table, cost, introduction, marks, not_begun, tables
from experiments.table3_work import BUDGETS_MS, DEVICES, SPACES
from nas.report.figures.svg import PAGE_WIDTH, Scale, curve, dot, element, line, rect, svg, text
from nas.report.frame import render
from nas.report.words import ms
from search_space import Architecture, lower
from search_space.family import NUM_CLASSES, RESOLUTION

COLOURS = {"quadranet": "c0", "proxyless": "c1"}
STYLES = {"random": "fill:none;stroke:var(--faint)", "published": "fill:var(--faint)"}
WIDTH, HEIGHT = 360, 300  # of a chart's own units; the page scales them
PITCH, BOX = 46.0, 40.0  # of the boxes of a network
FIGURE_5 = FOLDER / "fig5.svg"


def render_page(results: Results) -> str:
    """The whole page as HTML, with style and scripts inside; the same for the same results and fig5.svg."""
    story = Story(results)
    shown = [table_html(table) for table in tables(results)]
    scales = sum(scale in SCALES for scale in story.begun)
    parts = [
        "<header><p class='kicker'>Table III of QuadraNet (arXiv 2311.17956), searched and trained again</p>"
        f"<h1>Six searches, three devices</h1><p class='lead'>{escape(introduction(results))}</p></header><main>",
        *shown[:scales],
        _section("Accuracy against latency", legend() + charts(story)),
        *shown[scales:],
        _section("The networks found", networks(story)),
        _section("Fig. 5: quadratic networks against their linear twins", figure_5()),
        _section("Marks", f"<ul>{''.join(f'<li>{escape(mark)}</li>' for mark in marks(story))}</ul>"),
        _section(
            "Where it comes from",
            f"<p>{escape(not_begun(results))} {escape(cost(results))}</p><p>{escape(str(results.provenance))}</p>",
        ),
        "</main>",
    ]
    body = Markup("\n".join(parts))  # every part has escaped its words
    return render("base.html", title="Table III: six searches, three devices", body=body, scripted=True)


def _section(title: str, body: str) -> str:
    return f"<section><h2>{escape(title)}</h2>{body}</section>"


SHORT_ASIDE = re.compile(r"\([^)]{1,16}\)")  # '(333, -27 %)'
UNBROKEN = r'<span style="white-space:nowrap">\g<0></span>'


def table_html(table: Table) -> str:
    """A section: its title, the table with its cells escaped, and its note."""
    head = "".join(f'<th scope="col">{escape(name)}</th>' for name in table.header)
    rows = ([SHORT_ASIDE.sub(UNBROKEN, escape(cell)) for cell in cells] for cells in table.lines)
    body = "".join(f"<tr>{''.join(f'<td>{cell}</td>' for cell in cells)}</tr>" for cells in rows)
    shown = f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"
    return _section(table.title, f"{shown}<p>{escape(table.note)}</p>")


# Accuracy against latency.


def legend() -> str:
    """What the dots of all charts mean, as a paragraph of HTML."""
    kinds = (("c0", "QuadraNet, searched"), ("c1", "Proxyless, searched"))
    swatches = [f"<span>{_dot(css)} {name}</span>" for css, name in kinds]
    swatches += [f"<span>{_dot('', style)} {name}</span>" for name, style in STYLES.items()]
    return f"<p class='legend'>{''.join(swatches)}</p>"


def _dot(css: str, style: str = "") -> str:
    return element("svg", dot(6, 6, css, style=style or None), viewBox="0 0 12 12", style="width:12px")


def charts(story: Story) -> str:
    """A chart for each of `DEVICES`, side by side."""
    figures = "".join(f"<figure style='grid-column:auto'>{chart(story, device)}</figure>" for device in DEVICES)
    return f"<div class='charts' style='grid-template-columns:repeat(3,1fr)'>{figures}</div>"


def chart(story: Story, device: str) -> str:
    """Networks searched or chosen for a device: measured ms on it and top-1; a line through a space's searched ones."""
    label = f"Top-1 against latency on {device}"
    points: list[tuple[float, float, str, str, str]] = []  # ms, top-1, css, style, words
    for row in story.results.rows:
        if row["kind"] in ("searched", "random", "published") and row["device"] == device:
            reached = story.training(row)
            if not reached:
                continue
            at, space = number(row, f"{device}_ms"), str(row["space"])
            words = (
                f"{LABELS.get(space, '')} {row['name']} ({row['calibration']} {row['budget_ms']:g} ms)\n"
                f"{ms(at)} on {device}, {number(row, 'macs') / 1e6:.0f}M MACs\ntop-1 {spread(reached, 2)} %"
            ).strip()
            style = STYLES.get(str(row["kind"]), "")
            points.append((at, sum(reached) / len(reached), "" if style else COLOURS[space], style, words))
    head = text(0, 14, f"{device}, predicted ms", "strong", "start")
    if not points:
        return svg(WIDTH, 60, label, NOT_RUN, [head, text(0, 40, NOT_RUN, "faint", "start")])
    lowest, highest = min(p[1] for p in points), max(p[1] for p in points)
    margin = 0.1 * (highest - lowest) or 1.0
    x = Scale(0, 1.05 * max(p[0] for p in points), 42, WIDTH - 6)
    y = Scale(lowest - margin, highest + margin, HEIGHT - 26, 26)
    parts = [head]
    for tick in y.ticks():
        parts.append(line(x.start, y(tick), x.end, y(tick), "grid"))
        parts.append(text(x.start - 6, y(tick) + 4, f"{tick:g} %", "tiny", "end"))
    parts += [text(x(t), HEIGHT - 8, f"{t:g}", "tiny") for t in x.ticks()]
    parts.append(line(x.start, y.start, x.end, y.start, "axis"))
    for space in SPACES:
        corners = [(x(a), y(b)) for a, b in story.front(space, device, tuple(BUDGETS_MS))]
        parts.append(curve(corners, COLOURS[space]))
    parts += [dot(x(at), y(top1), css, style=style or None, data_tip=words) for at, top1, css, style, words in points]
    return svg(WIDTH, HEIGHT, label, f"{len(points)} networks", parts)


# The networks.


def networks(story: Story) -> str:
    """Every searched network of the first seed, block by block."""
    shown = []
    for calibration, budgets in BUDGETS_MS.items():
        for space in SPACES:
            for device in budgets:
                rows = story.searched(Target(space, calibration, device))
                if rows:
                    shown.append(network(story, rows[0]))
    if not shown:
        return f"<p>{NOT_RUN}</p>"
    return (
        "<p>Colour: kernel size; height: expansion; the bar below: share of the predicted time on the device searched "
        "for. Point at a block for its time on every device and its kernels.</p>"
        "<p class='legend'><span><i class='swatch k0'></i>3×3</span><span><i class='swatch k1'></i>5×5</span>"
        f"<span><i class='swatch k2'></i>7×7</span></p>{''.join(shown)}"
    )


def network(story: Story, row: Row) -> str:
    """One searched network: its heading and its boxes."""
    architecture = Architecture.from_dict(json.loads(str(row["architecture"])))
    shown: dict[str, dict[str, Any]] = json.loads(str(row["blocks"]))
    device = str(row["device"])
    times = {name: block["ms"][DEVICES.index(device)] for name, block in shown.items()}
    segments = lower(architecture, RESOLUTION, NUM_CLASSES)
    most = max(times.values())
    blocks = iter([block for stage in architecture.stages for block in stage])
    parts = []
    for place, segment in enumerate(segments):
        block = next(blocks) if segment.slot is not None else None
        x, middle = PITCH * place, 34.0
        height = 26.0 if block is None else 20.0 + 8.0 * block.expand_ratio
        kernel = "fixed" if block is None else f"kernel k{architecture.space.kernels.index(block.kernel_size)}"
        tip = tooltip(segment.name, shown[segment.name], device)
        top = middle - height / 2
        shape = rect(x, top, BOX, height, f"box {kernel}", tip, radius=6, tabindex=0, role="img", aria_label=tip)
        parts.append(shape)
        words = segment.name if block is None else f"k{block.kernel_size}e{block.expand_ratio}"
        parts.append(text(x + BOX / 2, middle + 4, words, "label tiny"))
        parts.append(rect(x, 76, BOX, 5, "track", radius=2))
        parts.append(rect(x, 76, BOX * times[segment.name] / most, 5, "time", radius=2))
    latencies = ", ".join(f"{each} {ms(number(row, f'{each}_ms'))}" for each in DEVICES)
    budget = f"{number(row, 'budget_ms'):g} ms ({row['calibration']})"
    heading = f"{LABELS[str(row['space'])]} for {device}, {budget}, seed {row['seed']}"
    reached = story.training(row)
    top_1 = spread(reached, 2) + " %" * bool(reached)
    about = f"{number(row, 'macs') / 1e6:.0f}M MACs; measured scale: {latencies}; top-1 {top_1}"
    drawn = svg(max(PAGE_WIDTH, PITCH * len(segments)), 84, heading, str(architecture), parts, role="group")
    return f"<h3>{escape(heading)}</h3><p class='faint'>{escape(about)}</p>{drawn}"


def tooltip(name: str, block: Mapping[str, Any], device: str) -> str:
    """A block's time on every device, and its kernels on the one searched for."""
    totals = [f"{each}: {ms(value)}" for each, value in zip(DEVICES, block["ms"], strict=True)]
    kernels = [f"{kernel}: {ms(value)}" for kernel, value in block["kernels"]]
    return "\n".join([name.replace("_", ", "), *totals, "", f"kernels on {device}:", *kernels])


def figure_5() -> str:
    """The SVG beside the results, where that experiment has been run."""
    if not FIGURE_5.exists():
        return f"<p>{NOT_RUN}: python -m experiments.fig5</p>"
    drawn = FIGURE_5.read_text(encoding="utf-8")
    return drawn[drawn.index("<svg") :]
