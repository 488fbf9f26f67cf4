"""The tables of `experiments.table3`, drawn from its results file alone; its page shows the same."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean

from experiments.profiles.paper_scale import SCALES, TABLE_III, PublishedRow
from experiments.results import NOT_MEASURED, Results, Row, earlier_profiles, markdown, number
from experiments.table3_story import NOT_RUN, PAPER, Story, Target, spread
from experiments.table3_work import BUDGETS_MS, COMPARED, DEVICES, SPACES, nearest_feasible

LABELS = {"proxyless": "Proxyless", "quadranet": "QuadraNet"}
SPACE_OF = {"ProxylessNAS": "proxyless", "MobileNetV2": "proxyless", "MobileNetV3-like": "proxyless",
            "QuadraNet-like": "quadranet", "ConvNeXt-like": "quadranet"}  # fmt: skip
MACS_WITHIN, LATENCY_WITHIN, GAIN = 0.20, 0.25, 0.5  # the marks: shares of the published, points of top-1


@dataclass(frozen=True)
class Table:
    """Cells as they are shown, a line as long as the header; the note stands below, '' for none."""

    title: str
    header: Sequence[str]
    lines: Sequence[Sequence[str]]
    note: str = ""


def tables(results: Results) -> list[Table]:
    """Those of the calibrations that have been begun."""
    story = Story(results)
    scales = [scale for scale in SCALES if scale in story.begun]
    found = [paper_table(story, scale) for scale in scales]
    found += [scale_table(story)] if scales else []
    found += [measured_table(story)] if COMPARED in story.begun else []
    found += [gain_table(story)] if story.begun else []
    found += [worth_table(story)] if COMPARED in story.begun else []
    return found + ([matrix_table(story)] if story.begun else [])


def not_begun(results: Results) -> str:
    """In one sentence, '' where every calibration has been begun."""
    missing = [calibration for calibration in BUDGETS_MS if calibration not in Story(results).begun]
    return f"{NOT_RUN.capitalize()}: the budgets of calibration {', '.join(missing)}." if missing else ""


def render(results: Results) -> str:
    """Everything as Markdown."""
    parts = [introduction(results)]
    for table in tables(results):
        parts.append(f"### {table.title}\n\n{markdown(table.header, table.lines)}\n\n{table.note}".rstrip())
    parts.append("### Marks\n\n" + "\n".join(f"- {mark}" for mark in marks(Story(results))))
    return "\n\n".join(part for part in [*parts, not_begun(results), cost(results), str(results.provenance)] if part)


def cost(results: Results) -> str:
    """In one sentence."""
    found = Story(results).cost()
    words = [f"{minutes:.1f} CPU minutes in {count} jobs of kind '{kind}'" for kind, (count, minutes) in found.items()]
    return f"So far {', '.join(words) or 'no search and no training'}.{_left(results)}"


def _left(results: Results) -> str:
    """What the networks that are known and not trained will take, at the pace of those that are; '' without one."""
    trainings = [row for row in results.rows if row["kind"] == "training" and row.get("s_per_1000_images")]
    if not trainings:
        return ""
    pace, last = fmean(number(row, "s_per_1000_images") for row in trainings), trainings[-1]
    trained = {row["network"] for row in results.rows if row["kind"] == "training"}
    networks = {row["network"] for row in results.rows if row["kind"] in ("searched", "random", "free", "published")}
    hours = pace * number(last, "train_images") / 1000 * number(last, "epochs") / 3600
    unit = "seconds" if last["on"] == "cuda" else "CPU seconds"
    return (
        f" A training takes {pace:.2f} {unit} per 1,000 images, {hours:.2f} hours in all; "
        f"{len(networks - trained)} of {len(networks)} networks known are not trained."
    )


def introduction(results: Results) -> str:
    """What the figures of all tables are, from the settings: where latency and top-1 come from, and what ± is."""
    s = results.settings
    images = "all its train images" if s["limit"] is None else f"{s['limit']} of its train images"
    epochs = "the recipe's" if s["epochs"] is None else s["epochs"]
    held = ", those that choose among them" if s.get("every_image") else ""
    return (
        f"Latencies are predictions of the device profiles at 224 pixels, batch 1, 1000 classes. Top-1 is measured on "
        f"the test images of {s['data']} at {s['resolution']} pixels ({images}{held}; a supernet for the three "
        f"devices, {s['warmup']} + {s['search']} epochs, then every network from scratch: recipe {s['recipe']}, "
        f"{epochs} epochs). '{NOT_RUN}': the same command resumes. "
        f"±: standard deviation over seeds. {earlier_profiles(s)}"
    ).rstrip()


def paper_table(story: Story, scale: str) -> Table:
    """Table III, the published value and the deviation from it in every cell."""
    lines = []
    for (space, device), paper in PAPER.items():
        target = Target(space, scale, device)
        rows, infeasible = story.searched(target), story.infeasible(target)
        if infeasible is None:
            loose = "" if all(row["binds"] for row in rows) else " (does not bind)"
            lines.append([paper.name, *_costs(story, rows, paper), _used(rows) + loose, *_top1(story, rows, paper)])
        else:
            words = f"infeasible: the fastest network takes {infeasible:.1f} ms"
            published = [f"- ({value:g})" for value in (paper.macs / 1e6, *(paper.latency_ms[d] for d in DEVICES))]
            lines.append([paper.name, *published, words, "-", f"- ({paper.top1})"])
            name = f"{paper.name} at {nearest_feasible(infeasible):g} ms"
            lines.append([name, *_costs(story, rows), _used(rows), spread(story.top1(rows), 2), "-"])
    budgets = ", ".join(f"{device} {budget:g} ms" for device, budget in BUDGETS_MS[scale].items())
    left_out = f", {', '.join(SCALES[scale])} priced at nothing" if SCALES[scale] else ""
    header = ("network", "MACs M", "CPU ms", "VPU ms", "GPU ms", "of its budget", f"top-1 % on {_images(story)}",
              "top-1 % on ImageNet")  # fmt: skip
    return Table(
        f"Table III on the paper's scale (calibration={scale})",
        header,
        lines,
        f"In brackets: published, and how far from it. Milliseconds on the paper's scale: one factor a device on "
        f"measured ones ({story.results.settings[f'factors_{scale}']}){left_out}; fitted to the published table "
        f"without any search. Budgets: {budgets}; where one cannot be kept, 'at' names the nearest that can.",
    )


def _costs(story: Story, rows: Sequence[Row], paper: PublishedRow | None = None) -> list[str]:
    """MACs and ms by device on the paper's scale, each beside the published one."""
    values = [([number(row, "macs") / 1e6 for row in rows], None if paper is None else paper.macs / 1e6, 0)]
    for device in DEVICES:
        found = [number(row, f"{device}_scaled_ms") for row in rows]
        values.append((found, None if paper is None else paper.latency_ms[device], 2 if device == "gpu" else 1))
    return [_beside(found, published, digits) for found, published, digits in values]


def _beside(values: Sequence[float], published: float | None, digits: int) -> str:
    """'312 (333, -6 %)'."""
    if published is None:
        return spread(values, digits)
    off = f", {100 * (fmean(values) / published - 1):+.0f} %" if values else ""
    return f"{spread(values, digits)} ({published:g}{off})"


def _used(rows: Sequence[Row]) -> str:
    return spread([number(row, "kept_ms") / number(row, "budget_ms") for row in rows], 3)


def _top1(story: Story, rows: Sequence[Row], paper: PublishedRow) -> tuple[str, str]:
    """On the images at hand, and on ImageNet: a folder of images is taken for it."""
    reached = spread(story.top1(rows), 2)
    return reached, f"{reached if _images(story) == 'imagefolder' else NOT_MEASURED} ({paper.top1})"


def _images(story: Story) -> str:
    return str(story.results.settings["data"])


def scale_table(story: Story) -> Table:
    """How far random networks of the published MACs are from the published latencies, on either scale."""
    rows = {
        (row["calibration"], row["name"], row["device"]): row for row in story.results.rows if row["kind"] == "scale"
    }
    columns = [(scale, device) for scale in SCALES for device in DEVICES]

    def off(scale: str, name: str, device: str) -> float | None:
        row = rows.get((scale, name, device))
        return None if row is None else number(row, "typical_ms") / number(row, "published_ms") - 1

    cells = {
        (name, *column): off(column[0], name, column[1]) for name in (p.name for p in TABLE_III) for column in columns
    }
    lines = []
    for paper in TABLE_III:
        found = (cells[(paper.name, *column)] for column in columns)
        lines.append([paper.name, *(NOT_RUN if value is None else f"{round(value, 2) + 0.0:+.0%}" for value in found)])
    sizes = [[abs(v) for p in TABLE_III if (v := cells[(p.name, *column)]) is not None] for column in columns]
    lines.append(["mean deviation", *(f"{fmean(size):.0%}" if size else NOT_RUN for size in sizes)])
    return Table(
        "How the published latencies may have been priced",
        ("random networks of the MACs of", *(f"{device}, {scale}" for scale, device in columns)),
        lines,
        "The median prediction for random networks of a published network's space and MACs, against its published ms; "
        "no search is involved. The factor makes every column right on average; what is left is the shape. nn-Meter "
        f"has no predictor of {', '.join(SCALES['table3_nn_meter'])}: leaving these out is a guess at what the paper "
        "did, which its own table bears out on vpu and gpu and cannot tell on cpu. It is no time that a device would "
        "need.",
    )


def measured_table(story: Story) -> Table:
    """The networks searched in each space under budgets of calibration 'measured': MACs, ms, budget used, top-1."""
    lines = []
    for device, budget_ms in BUDGETS_MS["measured"].items():
        for space in SPACES:
            rows = story.searched(Target(space, "measured", device))
            lines.append([
                f"{LABELS[space]}, {device} {budget_ms:g} ms",
                spread([number(row, "macs") / 1e6 for row in rows], 0),
                *(spread([number(row, f"{d}_ms") for row in rows], 3 if d == "gpu" else 1) for d in DEVICES),
                _used(rows),
                spread(story.top1(rows), 2),
            ])  # fmt: skip
    header = ("searched for", "MACs M", "CPU ms", "VPU ms", "GPU ms", "of its budget", "top-1 %")
    return Table("Under budgets that bind in real milliseconds (calibration=measured)", header, lines)


def gain_table(story: Story) -> Table:
    """Top-1 of both spaces under every budget, and their difference in points beside the published one.

    Source of the published one: Table III of the paper, for the budgets of its two scales.
    """
    lines = []
    for calibration in story.begun:
        for device, budget_ms in BUDGETS_MS[calibration].items():
            top1 = [spread(story.top1(story.searched(Target(space, calibration, device))), 2) for space in SPACES]
            gains = story.gains(calibration, device)
            words = "not comparable: one budget is infeasible" if gains is None else _points(gains)
            published = "-"
            if calibration in SCALES:
                published = f"{PAPER['quadranet', device].top1 - PAPER['proxyless', device].top1:+.1f}"
            lines.append([f"{device} {budget_ms:g} ms, {calibration}", *top1, words, published])
    header = ("budget", "Proxyless top-1 %", "QuadraNet top-1 %", "QuadraNet is better by, points", "published")
    return Table("The quadratic space against ProxylessNAS' at the same budget", header, lines)


def _points(values: Sequence[float]) -> str:
    words = spread(values, 2)
    return words if words.startswith(("-", NOT_RUN)) else f"+{words}"


def worth_table(story: Story) -> Table:
    """Searched, random and published networks under the same budgets and training."""
    lines = []
    for device, budget_ms in BUDGETS_MS[COMPARED].items():
        found = {space: story.searched(Target(space, COMPARED, device)) for space in SPACES}

        def line(
            name: str, rows: Sequence[Row], space: str, d: str = device, budget: float = budget_ms,
            found: dict[str, list[Row]] = found,
        ) -> list[str]:  # fmt: skip
            searched, own = story.top1(found[space]), story.top1(rows)
            apart = NOT_RUN if not (searched and own) else f"{fmean(searched) - fmean(own):+.2f}"
            return [
                f"{d} {budget:g} ms",
                name,
                spread([number(row, "macs") / 1e6 for row in rows], 0),
                spread([number(row, f"{d}_ms") for row in rows], 3 if d == "gpu" else 1),
                spread(own, 2),
                "" if rows is found[space] else apart,
            ]

        for space in SPACES:
            drawn = story.rows("random", Target(space, COMPARED, device))
            lines.append(line(f"{LABELS[space]}, searched", found[space], space))
            lines.append(line(f"{LABELS[space]}, random", drawn, space))
            if story.results.settings.get("every_image"):  # so that validation chooses among no random ones
                free = story.rows("free", Target(space, COMPARED, device))
                lines.append(line(f"{LABELS[space]}, most parameters, at no cost", free, space))
            else:
                lines.append(line(f"{LABELS[space]}, best random by validation", _best(story, drawn), space))
        for family, space in SPACE_OF.items():
            for row in story.rows("published", Target(family, COMPARED, device)):
                lines.append(line(str(row["name"]), [row], space))
    header = ("budget", "network", "MACs M", "ms", "top-1 %", "searched is better by, points")
    return Table(
        "Was the search worth it?",
        header,
        lines,
        "Random networks use as much of the budget as searched ones. Of every published family the largest that keeps "
        "the budget; QuadraNet12 are 12 blocks (2,2,6,2) of the published form scaled by width, '-linear' the same "
        "with one depthwise convolution, as ConvNeXt has; MobileNetV3-like is MobileNetV3-Large without "
        "squeeze-and-excitation, with ReLU6 (211M MACs at width 1; the published one has 219M with them). The last "
        "column: the searched network of the same kind of block against it.",
    )


def _best(story: Story, rows: Sequence[Row]) -> list[Row]:
    """Of each seed the one with the best validation accuracy, once all of that seed are trained."""
    found = []
    for seed in dict.fromkeys(row["seed"] for row in rows):
        own = [row for row in rows if row["seed"] == seed]
        if all(story.training(row) for row in own):
            found.append(max(own, key=lambda row: story.training(row, "validation")[0]))
    return found


def matrix_table(story: Story) -> Table:
    """Every searched network on every device, and what it loses there to those searched for it."""
    lines = []
    for calibration in story.begun:
        for space in SPACES:
            for device in DEVICES:
                rows = story.searched(Target(space, calibration, device))
                losses = [None if d == device else story.loss(rows, space, d, tuple(BUDGETS_MS)) for d in DEVICES]
                lines.append([
                    f"{LABELS[space]} for {device} ({calibration})",
                    *(spread([number(row, f"{d}_ms") for row in rows], 3 if d == "gpu" else 1) for d in DEVICES),
                    *("-" if loss is None else f"{loss:+.2f}" for loss in losses),
                ])  # fmt: skip
    header = ("searched", *(f"{d} ms" for d in DEVICES), *(f"loses on {d}, points" for d in DEVICES))
    return Table(
        "Specialisation: every network on every device",
        header,
        lines,
        "Measured scale. 'Loses': top-1 below that of networks of the same space searched for that device at the same "
        "latency on it, between two of their budgets; '-' where the latency is not between them, or they are not "
        "trained.",
    )


def marks(story: Story) -> list[str]:
    """What was hoped for, each with what was found."""
    searched = [row for row in story.results.rows if row["kind"] == "searched"]
    used = [number(row, "kept_ms") / number(row, "budget_ms") for row in searched if row["binds"]]
    return [
        "Searches under budgets that bind use 0.97 to 1.00 of them: "
        + (f"{min(used):.3f} to {max(used):.3f} in {len(used)} searches" if used else NOT_RUN),
        *(f"{scale}: {mark}" for scale in SCALES if scale in story.begun for mark in _marks_on(story, scale)),
    ]


def _marks_on(story: Story, scale: str) -> list[str]:
    """What was hoped for under the paper's budgets."""
    six = [(paper, rows) for paper, _, rows in story.six(scale) if rows]
    macs = {p.name: fmean(number(row, "macs") for row in rows) / p.macs - 1 for p, rows in six}
    off = [abs(ratio - 1) for ratio in story.off_device(scale)]
    beaten = story.beaten_at_home(scale)
    gains = [fmean(gain) for device in DEVICES if (gain := story.gains(scale, device))]
    named = ", ".join(f"{name} {share:+.0%}" for name, share in macs.items())
    return [
        f"MACs within {MACS_WITHIN:.0%} of the published: "
        + (f"{sum(abs(m) <= MACS_WITHIN for m in macs.values())} of {len(macs)} ({named})" if macs else NOT_RUN),
        f"Off-device latencies within {LATENCY_WITHIN:.0%} of the published on average: "
        + (f"{fmean(off):.0%} over {len(off)} of 12" if off else NOT_RUN),
        "No network is beaten on its own device by another of its space that is no less accurate: "
        + (NOT_RUN if beaten is None else "; ".join(beaten) or "none is"),
        f"QuadraNet above Proxyless by {GAIN} points or more on average at the paper's budgets: "
        + (f"{fmean(gains):+.2f} over {len(gains)} of 3 devices" if gains else NOT_RUN),
    ]
