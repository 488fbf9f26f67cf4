"""One self-contained HTML page about a search run, from the files of its folder alone.

Reads architecture.json, search.csv and gates.csv; `python -m nas.report FOLDER` renders a run again.
Not for measuring or predicting: what the files do not say stands on the page as "not measured".
The page's frame, style and script are in report.html; here is one small function per figure.
"""

from __future__ import annotations

import argparse
import csv
import io
import json
import math
import re
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from html import escape
from importlib import resources
from pathlib import Path
from typing import Any, NoReturn

from nas.command.summary import NOT_REAL, scale_note
from search_space import Architecture, SearchSpace, Segment, UserError, cost_of, lower
from search_space.errors import BadFile
from search_space.files import write_whole

SCHEMA = 1
SEARCH_COLUMNS = (
    *("step", "phase", "epoch", "train_loss", "gate_loss", "val_accuracy"),
    *("expected_ms", "budget_ms", "multiplier", "gate_entropy", "seconds"),
)
GATE_COLUMNS = ("step", "slot", "stage", "block", "candidate", "probability")
PHASES = {"warmup": "warm-up", "weights": "weights", "search": "search", "trials": "trials", "finetune": "fine-tuning"}
EXPECTED = (
    "Until the search phase ends, expected latency is the mean over the gates' probabilities, not the latency of one "
    "network; in fine-tuning it is that of the network found."
)
OF_TRIALS = "Latency is that of the network that was trained or tried at the step; accuracy is with inherited weights."
FILES = {
    "model.onnx": "the trained network, at the training resolution",
    "weights.safetensors": "its weights",
    "latency_{resolution}.onnx": "the same graph at deployment resolution, for timing: not trained for it",
    "architecture.json": "the network as a value, its cost, predictions and provenance",
    "search.csv": "one row per logged step",
    "gates.csv": "the gate probabilities, once per epoch",
    "trials.csv": "the networks that were tried, with their accuracy",
}
UNKNOWN = "not measured"
ALL = 1 + 1e-9  # of a budget
PAGE_WIDTH = 1100  # of the figures' own units; the page scales them
MOST_POINTS, MOST_SNAPSHOTS = 1000, 100  # drawn per line and per slider; the files hold all


# Reading and checking.


@dataclass(frozen=True, slots=True)
class Fields:
    """Checked access to architecture.json: absent is None, a wrong type is a `BadFile`."""

    data: Mapping[str, Any]

    def get(self, *keys: str) -> Any:
        value: Any = self.data
        for depth, key in enumerate(keys):
            if not isinstance(value, dict):
                _bad("architecture.json", f"'{'.'.join(keys[:depth])}' is not an object")
            value = value.get(key)
            if value is None:
                return None
        return value

    def number(self, *keys: str) -> float | None:
        value = self.get(*keys)
        if value is None:
            return None
        if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < math.inf:
            _bad("architecture.json", f"'{'.'.join(keys)}' is {str(value)[:40]!r}, not a finite number >= 0")
        return float(value)

    def text(self, *keys: str) -> str | None:
        value = self.get(*keys)
        return None if value is None else str(value)

    def needed(self, *keys: str) -> float:
        value = self.number(*keys)
        if value is None:
            _bad("architecture.json", f"it has no '{'.'.join(keys)}'")
        return value

    def segments_ms(self, device: str) -> dict[str, float]:
        """Milliseconds of every segment on a device; empty where the file has none."""
        names = self.get("latency", device, "by_segment_ms") or {}
        if not isinstance(names, dict):
            _bad("architecture.json", f"'latency.{device}.by_segment_ms' is not an object")
        return {name: self.needed("latency", device, "by_segment_ms", name) for name in names}


@dataclass(frozen=True, slots=True)
class Step:
    """One row of search.csv: its step, phase and the values that were measured there."""

    step: float
    phase: str
    values: Mapping[str, float]


@dataclass(frozen=True, slots=True)
class Snapshot:
    """Gate probabilities at one step: `probabilities[slot][candidate]`."""

    step: float
    probabilities: tuple[Mapping[str, float], ...]


@dataclass(frozen=True)
class Run:
    """Everything the page says, read and checked."""

    fields: Fields
    architecture: Architecture
    segments: tuple[Segment, ...]
    steps: tuple[Step, ...]
    snapshots: tuple[Snapshot, ...]
    gate_path: tuple[str, ...] | None
    files: frozenset[str]

    @property
    def device(self) -> str:
        """The device searched for."""
        return self.fields.text("budget", "device") or ""

    @property
    def devices(self) -> list[str]:
        """All devices with a prediction, the one searched for first."""
        others = [name for name in self.fields.get("latency") or {} if name != self.device]
        return [self.device, *others]

    @property
    def has_zeros(self) -> bool:
        """Whether slots of the space were left out."""
        return sum(map(len, self.architecture.stages)) < len(self.architecture.space.slots)

    @property
    def used(self) -> float:
        """The share of the budget that is used, by what keeps it: see `confidence`."""
        used = self.fields.number("budget", "used")
        return self.fields.needed("budget", "predicted_ms") / self.budget_ms if used is None else used

    @property
    def budget_ms(self) -> float:
        return self.fields.needed("budget", "budget_ms")

    @property
    def confidence(self) -> float | None:
        """Where it is set, the interval's upper end keeps the budget, not the prediction."""
        return self.fields.number("budget", "confidence") or None

    @property
    def budget_words(self) -> str:
        """'30 ms', and by what it is kept where that is not the prediction."""
        return f"{self.budget_ms:g} ms" + (", kept by the upper end" if self.confidence else "")

    def scale_note(self, device: str) -> str:
        """', calibration=NAME: not real time' where the device's times are so."""
        keys = ("budget",) if device == self.device else ("latency", device)
        return scale_note(self.fields.text(*keys, "calibration") or "measured")

    def title(self, device: str) -> str:
        return self.fields.text("latency", device, "title") or device

    def share(self, device: str, segment: str) -> float | None:
        times = self.fields.segments_ms(device)
        total = sum(times.values())
        return times[segment] / total if segment in times and total > 0 else None


def _bad(name: str, wrong: str) -> NoReturn:
    raise BadFile(f"{name}: {wrong}")


def _reject_constant(constant: str) -> NoReturn:
    raise ValueError(f"{constant} is not JSON")


def load_run(folder: Path) -> Run:
    """Read a run folder. Raises `BadFile`, one line naming the file and what is wrong with it."""
    if not folder.is_dir():
        raise BadFile(f"no run folder '{folder}'")
    try:
        data = json.loads(_load_text(folder / "architecture.json"), parse_constant=_reject_constant)
    except (ValueError, RecursionError) as error:
        _bad("architecture.json", f"not valid JSON, perhaps truncated ({error})")
    if not isinstance(data, dict) or data.get("schema") != SCHEMA:
        _bad("architecture.json", f"it is not of schema {SCHEMA}; write it again with this version")
    fields = Fields(data)
    for keys in (("budget", "budget_ms"), ("budget", "predicted_ms"), ("resolution", "deployment"), ("num_classes",)):
        if fields.needed(*keys) <= 0:
            _bad("architecture.json", f"'{'.'.join(keys)}' is not above 0")
    if not fields.text("budget", "device"):
        _bad("architecture.json", "it has no 'budget.device'")
    for name, kind in (("latency", dict), ("provenance", dict), ("notes", list)):
        if not isinstance(data.get(name) or kind(), kind):
            _bad("architecture.json", f"'{name}' is not {'a list' if kind is list else 'an object'}")
    try:
        architecture = Architecture.from_dict(fields.get("architecture") or {})
        segments = lower(architecture, int(data["resolution"]["deployment"]), int(data["num_classes"]))
        cost_of(segments)  # fails where a width is no number
    except UserError as error:
        _bad("architecture.json", str(error))
    except TypeError as error:
        _bad("architecture.json", f"'architecture.space' has a field of a wrong type ({error})")
    steps = parse_steps(_load_text(folder / "search.csv"))
    snapshots = parse_snapshots(_load_text(folder / "gates.csv"), architecture.space)
    files = frozenset(path.name for path in folder.iterdir() if path.is_file())
    path = _parse_gate_path(fields.get("gate_path"), architecture)
    return Run(fields, architecture, segments, steps, snapshots, path, files)


def _load_text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except FileNotFoundError as error:
        raise BadFile(f"{path.name}: there is no such file in '{path.parent}'") from error
    except (OSError, UnicodeDecodeError) as error:
        raise BadFile(f"{path.name}: cannot be read ({error})") from error


def _parse_rows(text: str, name: str, columns: Sequence[str]) -> Iterable[tuple[str, dict[str, str]]]:
    """Rows of a CSV with where they stand; a cut-off file ends inside a line."""
    if not text.endswith("\n"):
        _bad(name, "empty" if not text else "truncated: its last line does not end")
    if "\0" in text:
        _bad(name, "not a text file")
    rows = csv.reader(io.StringIO(text))
    header = next(rows, [])
    if missing := [column for column in columns if column not in header]:
        _bad(name, f"it has no column '{missing[0]}'; it needs {', '.join(columns)}")
    for row in rows:
        where = f"line {rows.line_num}"
        if len(row) != len(header):
            _bad(name, f"{where} has {len(row)} cells, the header {len(header)}")
        yield where, dict(zip(header, row, strict=True))


def _parse_cell(name: str, where: str, column: str, cell: str) -> float:
    try:
        value = float(cell)
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        _bad(name, f"{where}: {column} is {cell[:40]!r}, not a finite number")
    return value


def parse_steps(text: str) -> tuple[Step, ...]:
    """The rows of search.csv."""
    steps: list[Step] = []
    for where, row in _parse_rows(text, "search.csv", SEARCH_COLUMNS):
        values = {
            column: _parse_cell("search.csv", where, column, row[column])
            for column in SEARCH_COLUMNS
            if column != "phase" and row[column]
        }
        if "step" not in values:
            _bad("search.csv", f"{where} has no step")
        if steps and values["step"] < steps[-1].step:
            _bad("search.csv", f"{where}: step {values['step']:g} stands after step {steps[-1].step:g}")
        steps.append(Step(values["step"], row["phase"], values))
    return tuple(steps)


def parse_snapshots(text: str, space: SearchSpace) -> tuple[Snapshot, ...]:
    """The snapshots of gates.csv, every slot with all of its candidates."""
    found: dict[float, list[dict[str, float]]] = {}
    for where, row in _parse_rows(text, "gates.csv", GATE_COLUMNS):
        step, slot, p = (_parse_cell("gates.csv", where, key, row[key]) for key in ("step", "slot", "probability"))
        if slot not in range(len(space.slots)):
            _bad("gates.csv", f"{where}: slot {slot:g} is not one of 0..{len(space.slots) - 1} of '{space.name}'")
        if row["candidate"] not in map(str, space.slots[int(slot)].candidates) or not 0 <= p <= 1:
            _bad("gates.csv", f"{where}: {row['candidate'][:40]!r} with {p:g} is no candidate of slot {slot:g}")
        found.setdefault(step, [{} for _ in space.slots])[int(slot)][row["candidate"]] = p
    for step, slots in found.items():
        for slot_number, gates in enumerate(slots):
            if len(gates) != len(space.slots[slot_number].candidates) or abs(sum(gates.values()) - 1) > 0.01:
                _bad("gates.csv", f"step {step:g}, slot {slot_number}: probabilities are missing or do not sum to 1")
    return tuple(Snapshot(step, tuple(slots)) for step, slots in sorted(found.items()))


def _parse_gate_path(path: Any, architecture: Architecture) -> tuple[str, ...] | None:
    """The optional 'gate_path': the chosen candidate of every slot, Zeros where they stood."""
    if path is None:
        return None
    slots = architecture.space.slots
    if isinstance(path, list) and len(path) == len(slots):
        stages: list[list[str]] = [[] for _ in architecture.stages]
        for slot, choice in zip(slots, path, strict=True):
            if choice != "zero":
                stages[slot.stage].append(choice)
        if stages == [[str(block) for block in blocks] for blocks in architecture.stages]:
            return tuple(path)
    _bad("architecture.json", "'gate_path' is not a path of this architecture")


# Drawing: pure, strings from values. Every text goes through escape.


def ms(value: float | None) -> str:
    """'29.71 ms', or 'not measured'."""
    if value is None:
        return UNKNOWN
    return f"{value:.1f} ms" if value >= 100 else f"{value:.2f} ms" if value >= 1 else f"{value:.3g} ms"


def count(value: float | None) -> str:
    """'312.0 M' and its like."""
    if value is None:
        return UNKNOWN
    for factor, unit in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if value >= factor:
            return f"{value / factor:.2f} {unit}" if value < 10 * factor else f"{value / factor:.1f} {unit}"
    return f"{value:g}"


def mebibytes(value: float | None) -> str:
    """'4.02 MiB' of a number of bytes."""
    return UNKNOWN if value is None else f"{value / 2**20:.2f} MiB"


def at_most(fields: Fields, name: str) -> str:
    """'; limit 3.00 M', or nothing where the network had no such limit."""
    limit = fields.number("budget", "limits", name)
    return "" if limit is None else f"; limit {mebibytes(limit) if name == 'peak_activation' else count(limit)}"


def percent(value: float | None, digits: int = 1) -> str:
    """'98.9 %' of a share of 1."""
    return UNKNOWN if value is None else f"{100 * value:.{digits}f} %"


def predicted_words(run: Run, device: str) -> str:
    """'29.71 ms', with ', not real time' where a calibration makes it so."""
    unreal = f", {NOT_REAL}" if run.scale_note(device) else ""
    return f"{ms(run.fields.number('latency', device, 'latency_ms'))}{unreal}"


def interval(fields: Fields, device: str) -> str:
    """'24.1 to 38.0 ms (90 % interval)'."""
    low, high = (fields.number("latency", device, key) for key in ("low_ms", "high_ms"))
    coverage = fields.number("latency", device, "coverage")
    if low is None or high is None:
        return UNKNOWN
    of = "" if coverage is None else f" ({100 * coverage:g} %)"
    return f"{ms(low).removesuffix(' ms')} to {ms(high)}{of}"


def svg(width: float, height: float, label: str, description: str, body: str, attributes: str = 'role="img"') -> str:
    """A picture of width x height pixels, which the page scales; label and description are read aloud."""
    about = f'aria-label="{escape(label)}" {attributes}'
    return f'<svg viewBox="0 0 {width:g} {height:g}" {about}><desc>{escape(description)}</desc>{body}</svg>'


def rect(x: float, y: float, width: float, height: float, css: str, tip: str = "", radius: float = 0) -> str:
    """A box from its upper left corner, in pixels; `tip` shows under the mouse, `radius` rounds the corners."""
    more = f' data-tip="{escape(tip)}"' if tip else ""
    box = f'x="{x:.2f}" y="{y:.2f}" width="{max(width, 0):.2f}" height="{height:.2f}"'
    return f'<rect {box} rx="{radius:g}" class="{css}"{more}/>'


def text(x: float, y: float, words: str, css: str = "", anchor: str = "middle") -> str:
    """Words on the baseline y; x is their start, middle or end, as `anchor` says. Pixels."""
    return f'<text x="{x:.2f}" y="{y:.2f}" class="{css}" text-anchor="{anchor}">{escape(words)}</text>'


def line(x1: float, y1: float, x2: float, y2: float, css: str) -> str:
    """A straight line between two points in pixels."""
    return f'<line x1="{x1:.2f}" y1="{y1:.2f}" x2="{x2:.2f}" y2="{y2:.2f}" class="{css}"/>'


def whisker(low: float, high: float, y: float) -> str:
    """An interval from low to high at height y, with ends of 10 pixels; all in pixels."""
    return line(low, y, high, y, "whisker") + "".join(line(end, y - 5, end, y + 5, "whisker") for end in (low, high))


@dataclass(frozen=True, slots=True)
class Scale:
    """Values low..high on pixels start..end; `log` in decades."""

    low: float
    high: float
    start: float
    end: float
    log: bool = False

    def __call__(self, value: float) -> float:
        """The pixel of a value."""
        low, high, at = (math.log10(x) if self.log else x for x in (self.low, self.high, value))
        return self.start + (at - low) / ((high - low) or 1) * (self.end - self.start)

    def ticks(self, number: int = 5) -> list[float]:
        """Round values inside the scale."""
        if self.log:
            decades = range(math.floor(math.log10(self.low)), math.ceil(math.log10(self.high)) + 1)
            found = [f * 10.0**d for d in decades for f in (1, 2, 5) if self.low <= f * 10.0**d <= self.high]
            if len(found) > 2:
                return found
        rough = ((self.high - self.low) or 1) / number
        power = 10.0 ** math.floor(math.log10(rough))
        step = next(factor * power for factor in (1, 2, 5, 10) if factor * power >= rough * 0.999)
        first, last = math.ceil(self.low / step - 1e-9), math.floor(self.high / step + 1e-9)
        return [round(n * step, 12) for n in range(first, last + 1)]


def gauge(run: Run) -> str:
    """The prediction with its interval against the budget, and what keeps it."""
    f = run.fields
    budget, predicted, scale = run.budget_ms, f.needed("budget", "predicted_ms"), run.scale_note(run.device)
    low, high = (f.number("latency", run.device, key) for key in ("low_ms", "high_ms"))
    x = Scale(0, 1.06 * max(budget, predicted, high or 0), 8, PAGE_WIDTH - 20)
    parts = [rect(x(0), 26, x(x.high) - x(0), 18, "track", radius=3)]
    parts.append(rect(x(0), 26, x(predicted) - x(0), 18, "over" if run.used > ALL else "gauge", radius=3))
    if low is not None and high is not None:
        parts.append(whisker(x(low), x(high), 35))
    words = f"budget {run.budget_words}{scale}"
    half = 4 * len(words)  # about half their width
    parts.append(line(x(budget), 18, x(budget), 50, "budget"))
    parts.append(text(min(max(x(budget), half), PAGE_WIDTH - half), 13, words, "strong"))
    parts += [line(x(t), 46, x(t), 50, "axis") + text(x(t), 64, f"{t:g} ms", "faint") for t in x.ticks(8)]
    words = f"predicted {ms(predicted)}, interval {interval(f, run.device)}, of a budget of {run.budget_words}{scale}"
    return svg(PAGE_WIDTH, 70, "Predicted latency against the budget", words, "".join(parts))


def headline(run: Run) -> str:
    """The result in one line, the gauge and the key figures."""
    f = run.fields
    budget, predicted = run.budget_ms, f.needed("budget", "predicted_ms")
    low, high = f.number("budget", "space_min_ms"), f.number("budget", "space_max_ms")
    by = f" by the interval's upper end, which keeps it at confidence {run.confidence:g}" if run.confidence else ""
    facts = [f"{percent(run.used)} of the budget is used{by}; interval {interval(f, run.device)}."]
    if (reach := f.number("latency", run.device, "high_ms")) is not None and reach > ALL * budget >= predicted:
        facts.append("The prediction keeps the budget; its interval reaches above it.")
    if low is not None and high is not None:
        reaches = "have upper ends of" if run.confidence else "are predicted at"
        facts.append(f"Networks of this space {reaches} {ms(low)} to {ms(high)} on this device.")
    if f.get("budget", "binds") is False:
        facts.append("The budget does not bind.")
    images = f.number("accuracy", "test_images")
    train = f.number("resolution", "training")
    peak = f.number("cost", "peak_activation_bytes")
    at = f"at {f.needed('resolution', 'deployment'):g} pixels"
    about = [
        "" if images is None else f"{images:g} test images of {f.text('accuracy', 'data') or 'unnamed data'}",
        f.text("accuracy", "measured_on"),
        "" if train is None else f"at {train:g} pixels",
    ]
    tiles = [
        ("Test accuracy", percent(f.number("accuracy", "test")), ", ".join(filter(None, about))),
        ("MACs", count(f.number("cost", "macs")), at + at_most(f, "macs")),
        ("Parameters", count(f.number("cost", "params")), f"{f.needed('num_classes'):g} classes{at_most(f, 'params')}"),
        ("Peak activation", mebibytes(peak), f"batch 1, {at}{at_most(f, 'peak_activation')}"),
    ]
    cells = "".join(
        f'<div class="tile"><dt>{escape(name)}</dt><dd>{escape(value)}<small>{escape(note)}</small></dd></div>'
        for name, value, note in tiles
    )
    return (
        f"<h1>{escape(ms(predicted))} predicted of a {budget:g} ms budget on {escape(run.title(run.device))}"
        f"{escape(run.scale_note(run.device))}</h1>"
        f'<p class="lead">{escape(" ".join(facts))}</p>{gauge(run)}<dl class="tiles">{cells}</dl>'
    )


@dataclass(frozen=True, slots=True)
class Box:
    """One drawn piece of the network; `segment` is empty for a slot left out."""

    segment: str
    css: str
    lines: tuple[str, ...]
    height: float
    tip: str
    width: float = 44


def box_groups(run: Run) -> list[tuple[tuple[str, str] | None, list[Box]]]:
    """The network as drawn, in order: a stage's two heading lines (None beside the stages) and boxes."""
    space = run.architecture.space
    segments = {segment.name: segment for segment in run.segments}
    groups: list[tuple[tuple[str, str] | None, list[Box]]] = [(None, [_fixed_box(run, segments["stem"])])]
    for stage, (choices, place) in enumerate(zip(run.architecture.stages, space.stages, strict=True), start=1):
        if f"down{stage}" in segments:
            groups.append((None, [_fixed_box(run, segments[f"down{stage}"])]))
        boxes = []
        for block, choice in enumerate(choices, start=1):
            segment = segments[f"stage{stage}_block{block}"]
            kernel = f"{choice.kernel_size}×{choice.kernel_size}"
            css = f"kernel k{sorted(space.kernel_sizes).index(choice.kernel_size) % 5}"
            height = 38 + 42 * choice.expand_ratio / max(space.expand_ratios)
            words = f"stage {stage}, block {block}: kernel {kernel}, expansion {choice.expand_ratio}"
            lines = (kernel, f"e{choice.expand_ratio}")
            boxes.append(Box(segment.name, css, lines, height, f"{words}\n{_segment_facts(run, segment)}"))
        size = f"{place.width} ch, {_size(segments[f'stage{stage}_block{len(choices)}'])}"
        groups.append(((f"Stage {stage}", size), _with_zeros(run, stage, boxes)))
    return [*groups, (None, [_fixed_box(run, segments["head"])])]


def _fixed_box(run: Run, segment: Segment) -> Box:
    """The stem, a down-sampling or the head."""
    down = segment.name.startswith("down")
    name = "down-sampling" if down else segment.name
    tip = f"{name}, to {segment.nodes[-1].spec.out_channels} ch, {_size(segment)}\n{_segment_facts(run, segment)}"
    return Box(segment.name, "fixed", ("↓2" if down else name,), 46, tip, width=24 if down else 42)


def _size(segment: Segment) -> str:
    last = segment.nodes[-1].spec
    return f"{last.out_height}×{last.out_width}"


def _segment_facts(run: Run, segment: Segment) -> str:
    cost = cost_of([segment])
    facts = [f"{count(cost.macs)} MACs, {count(cost.params)} parameters"]
    for device in run.devices:
        share = run.share(device, segment.name)
        of = "" if share is None else f" ({percent(share)})"
        facts.append(f"{device}: {ms(run.fields.segments_ms(device).get(segment.name))}{of}")
    return "\n".join(facts)


def _with_zeros(run: Run, stage: int, boxes: list[Box]) -> list[Box]:
    """The stage's boxes with its left-out slots: where they stood if known, else at the end."""
    zero = Box("", "zero", ("zero",), 46, f"stage {stage}: a slot left out (Zero)")
    if run.gate_path is None:
        return boxes + [zero] * (run.architecture.space.stages[stage - 1].max_blocks - len(boxes))
    rest = iter(boxes)
    slots = zip(run.architecture.space.slots, run.gate_path, strict=True)
    return [zero if choice == "zero" else next(rest) for slot, choice in slots if slot.stage == stage - 1]


def architecture_figure(run: Run) -> str:
    """Stages left to right, wrapped; box height is expansion, colour is kernel, the bar below is time."""
    gap, pad, middle, bar, row_height = 7.0, 7.0, 86.0, 133.0, 176.0
    shares = {segment.name: run.share(run.device, segment.name) for segment in run.segments}
    most = max((share for share in shares.values() if share is not None), default=0)
    parts: list[str] = []
    x, y = 0.0, 0.0
    for heading, boxes in box_groups(run):
        rows = math.ceil(len(boxes) / ((PAGE_WIDTH - 2 * pad + gap) // (44 + gap)))
        per_row = math.ceil(len(boxes) / rows)
        for start in range(0, len(boxes), per_row):
            piece = boxes[start : start + per_row]
            inner = sum(box.width for box in piece) + gap * (len(piece) - 1)
            width = max(inner + 2 * pad, 92) if heading else inner
            if x + width > PAGE_WIDTH:
                x, y = 0.0, y + row_height
            link = line(max(0, x - gap), y + middle, x + width, y + middle, "link")
            if heading:
                more = " (continued)" if start else ""
                parts.append(rect(x, y, width, row_height - 14, "panel", radius=8))
                parts.append(text(x + 9, y + 17, heading[0] + more, "strong", "start"))
                parts.append(text(x + 9, y + 32, heading[1], "faint", "start"))
            parts.append(link)
            left = x + (width - inner) / 2
            for box in piece:
                parts.append(_draw_box(box, left, y + middle, shares.get(box.segment), most, y + bar))
                left += box.width + gap
            x += width + gap
    words = f"kernel and expansion of every block, | between stages: {run.architecture}"
    return svg(PAGE_WIDTH, y + row_height - 13, "The network, stage by stage", words, "".join(parts), 'role="group"')


def _draw_box(box: Box, x: float, middle: float, share: float | None, most: float, bar_y: float) -> str:
    """A box, its words and, where it was predicted, its share of the time below."""
    centre = x + box.width / 2
    shape = rect(x, middle - box.height / 2, box.width, box.height, f"box {box.css}", box.tip, radius=7)
    parts = [shape.replace("<rect", f'<rect tabindex="0" role="img" aria-label="{escape(box.tip)}"')]
    for number, words in enumerate(box.lines):
        at = middle + 4.5 + 15 * (number - (len(box.lines) - 1) / 2)
        parts.append(text(centre, at, words, "label" if number == 0 else "label second"))
    if share is not None and most > 0:
        parts.append(rect(x, bar_y, box.width, 5, "track", radius=2))
        parts.append(rect(x, bar_y, box.width * share / most, 5, "time", radius=2))
        if box.width >= 40:
            parts.append(text(centre, bar_y + 18, percent(share), "tiny"))
    return "".join(parts)


def architecture_legend(run: Run) -> str:
    space = run.architecture.space
    colours = "".join(
        f'<span><i class="swatch k{n % 5}"></i>kernel {k}×{k}</span>' for n, k in enumerate(sorted(space.kernel_sizes))
    )
    ratios = ", ".join(f"e{ratio}" for ratio in sorted(space.expand_ratios))
    zeros = '<span><i class="swatch zero"></i>slot left out (Zero)</span>' if run.has_zeros else ""
    known = "" if run.fields.segments_ms(run.device) else f": {UNKNOWN}"
    bar = f'<span><i class="swatch time"></i>share of the time on {escape(run.device)}{known}</span>'
    return f'<p class="legend">{colours}<span>height: expansion ({ratios})</span>{zeros}{bar}</p>'


def time_figure(run: Run) -> str:
    """One bar per device, a piece per segment, stages named below."""
    x = Scale(0, 1, 170, PAGE_WIDTH - 4)
    parts: list[str] = []
    for number, device in enumerate(run.devices):
        y = 4 + 58 * number
        times = run.fields.segments_ms(device)
        total = sum(times.values())
        parts.append(text(0, y + 15, device, "strong", "start"))
        parts.append(text(0, y + 31, predicted_words(run, device), "faint", "start"))
        if total <= 0:
            parts.append(text(x.start, y + 18, f"by segment: {UNKNOWN}", "faint", "start"))
            continue
        done = 0.0
        groups: dict[str, tuple[float, float]] = {}  # where a stage's pieces start and end
        for name, value in times.items():
            found = re.fullmatch(r"stage(\d+)_block(\d+)", name)
            group = f"stage {found[1]}" if found else name
            label = f"{group}, block {found[2]}" if found else name
            css = f"piece s{(int(found[1]) - 1) % 6}" if found else "piece fixed"
            start, end = x(done / total), x((done + value) / total)
            tip = f"{label}\n{device}: {ms(value)} ({percent(value / total)})"
            parts.append(rect(start, y, end - start, 24, css, tip))
            groups[group] = (groups.get(group, (start, end))[0], end)
            done += value
        for group, (start, end) in groups.items():
            share = percent((end - start) / (x.end - x.start), 0)
            words = f"{group} · {share}"
            if end - start > 28:
                words = words if end - start > 6.4 * len(words) else share
                parts.append(line(start + 1, y + 29, end - 1, y + 29, "axis"))
                parts.append(text((start + end) / 2, y + 42, words, "small"))
    words = "share of every segment in the predicted time, one bar per device"
    return svg(PAGE_WIDTH, 58 * len(run.devices), "Where the time goes", words, "".join(parts))


def thin(values: Sequence[Any], most: int) -> list[Any]:
    """At most that many values, evenly spaced, first and last among them."""
    if len(values) <= most:
        return list(values)
    return [values[round(i * (len(values) - 1) / (most - 1))] for i in range(most)]


@dataclass(frozen=True, slots=True)
class Series:
    """A line of a chart: points are (step, value)."""

    name: str
    css: str
    points: list[tuple[float, float]]


def series(run: Run, column: str, name: str, css: str, factor: float = 1.0) -> Series:
    """A column of search.csv times `factor`, in the chart's units: ms or %, not pixels."""
    points = [(s.step, factor * s.values[column]) for s in run.steps if column in s.values]
    return Series(name, css, thin(points, MOST_POINTS))


def line_chart(run: Run, title: str, unit: str, lines: Sequence[Series], width: float, from_zero: bool = False) -> str:
    """Lines over steps, `width` pixels wide, with the phases shaded; the page's script adds the read-out."""
    height, left, right, top, bottom = 232.0, 50.0, width - 12, 40.0, 196.0
    drawn = [s for s in lines if s.points]
    head = text(0, 14, title + (f" ({unit})" if unit else ""), "strong", "start")
    values = [value for s in drawn for _, value in s.points]
    if not values:
        return svg(width, 60, title, UNKNOWN, head + text(0, 40, UNKNOWN, "faint", "start"))
    low, high = min(values), max(values)
    low = min(0.0, low) if from_zero else low
    room = (high - low or abs(high) or 1.0) * 0.06
    x = Scale(run.steps[0].step, max(run.steps[-1].step, run.steps[0].step + 1), left, right)
    y = Scale(low if from_zero and low == 0 else low - room, high + room, bottom, top)
    parts = [head, _phase_bands(run.steps, x, top, bottom)]
    parts += [line(left, y(t), right, y(t), "grid") for t in y.ticks()]
    parts += [text(left - 7, y(t) + 4, f"{t:g}", "faint", "end") for t in y.ticks()]
    parts.append(line(left, bottom, right, bottom, "axis"))
    parts += [text(x(t), bottom + 16, f"{t:g}", "faint") for t in x.ticks(max(6, int(width // 110)))]
    parts.append(text((left + right) / 2, bottom + 33, "step", "faint"))
    at = right
    for s in reversed(drawn):
        corners = " ".join(f"{x(step):.1f},{y(value):.1f}" for step, value in s.points)
        parts.append(f'<polyline points="{corners}" class="curve {s.css}"/>')
        if len(s.points) <= 25 and "dashed" not in s.css:
            parts += [f'<circle cx="{x(a):.1f}" cy="{y(b):.1f}" r="3" class="dot {s.css}"/>' for a, b in s.points]
        if len(lines) > 1:
            parts.append(text(at, 14, s.name, "small", "end"))
            at -= 6.8 * len(s.name) + 8
            parts.append(line(at - 18, 10, at, 10, f"curve {s.css}"))
            at -= 34
    parts.append('<g class="cursor"></g>')
    data = {
        "x": [x.low, x.high, left, right],
        "y": [y.low, y.high, bottom, top],
        "unit": unit if unit in ("ms", "%") else "",
        "lines": [[s.name, s.css, [[a, float(f"{b:.4g}")] for a, b in s.points]] for s in drawn],
    }
    attributes = f'role="img" class="chart" data-chart="{escape(json.dumps(data, allow_nan=False))}"'
    ends = ", ".join(f"{s.name} from {s.points[0][1]:.4g} to {s.points[-1][1]:.4g}" for s in drawn)
    return svg(width, height, f"{title} over steps", ends, "".join(parts), attributes)


def _phase_bands(steps: Sequence[Step], x: Scale, top: float, bottom: float) -> str:
    """Every phase as a shaded band from its first step to the next phase's."""
    starts = [step for i, step in enumerate(steps) if i == 0 or steps[i - 1].phase != step.phase]
    ends = [step.step for step in starts[1:]] + [steps[-1].step]
    parts = []
    for number, (start, end) in enumerate(zip(starts, ends, strict=True)):
        left, right = x(start.step), x(end)
        name = PHASES.get(start.phase, start.phase)
        parts.append(rect(left, top - 14, right - left, bottom - top + 14, "band odd" if number % 2 else "band"))
        if right - left > 6 * len(name):
            parts.append(text(left + 5, top - 3, name, "tiny", "start"))
    return "".join(parts)


def course_figures(run: Run) -> str:
    """Latency against the budget, accuracy, losses, multiplier and entropy."""
    if not run.steps:
        return '<p class="faint">search.csv holds no steps.</p>'
    half = PAGE_WIDTH / 2 - 14
    latency = [series(run, "expected_ms", "expected", "c0"), series(run, "budget_ms", "budget", "dashed")]
    losses = [series(run, "train_loss", "weights", "c0"), series(run, "gate_loss", "gates", "c1")]
    accuracy = [series(run, "val_accuracy", "accuracy", "c0", 100)]
    multiplier = [series(run, "multiplier", "multiplier", "c0")]
    entropy = [series(run, "gate_entropy", "entropy", "c0")]
    latency_title = ("Expected latency" if run.snapshots else "Latency") + run.scale_note(run.device)
    charts = [
        line_chart(run, latency_title, "ms", latency, PAGE_WIDTH),
        line_chart(run, "Validation accuracy", "%", accuracy, half),
        line_chart(run, "Loss", "", losses, half),
    ]
    if run.snapshots:
        charts += [
            line_chart(run, "Latency multiplier", "", multiplier, half, from_zero=True),
            line_chart(run, "Gate entropy", "1 undecided, 0 decided", entropy, half, from_zero=True),
        ]
    drawn = "".join(f"<figure>{chart}</figure>" for chart in charts)
    thinned = f'<p class="faint">Lines show at most {MOST_POINTS} points; search.csv holds all.</p>'
    meaning = EXPECTED if run.snapshots else OF_TRIALS
    if run.confidence:
        meaning += f" All by the interval's upper end, which keeps the budget at confidence {run.confidence:g}."
    meaning = f'<p class="faint">{meaning}</p>'
    return f'{meaning}<div class="charts">{drawn}</div>{thinned if len(run.steps) > MOST_POINTS else ""}'


def chosen_candidates(run: Run) -> tuple[str, ...]:
    """The chosen candidate of every slot.

    An architecture does not know where its Zeros stood; where the file has no 'gate_path', the
    placing most probable under the last snapshot stands in (the caption says so).
    """
    if run.gate_path is not None:
        return run.gate_path
    chosen: list[str] = []
    for stage, blocks in enumerate(run.architecture.stages):
        slots = [i for i, slot in enumerate(run.architecture.space.slots) if slot.stage == stage]
        best: dict[int, tuple[float, list[str]]] = {0: (0.0, [])}  # blocks placed -> (log-probability, choices)
        for slot in slots:
            gates = run.snapshots[-1].probabilities[slot]
            after: dict[int, tuple[float, list[str]]] = {}
            for placed, (score, choices) in best.items():
                moves = [(placed, "zero")] + ([(placed + 1, str(blocks[placed]))] if placed < len(blocks) else [])
                for now, choice in moves:
                    if choice in gates:
                        option = (score + math.log(max(gates[choice], 1e-12)), [*choices, choice])
                        after[now] = max(after.get(now, option), option)
            best = after
        chosen += best[len(blocks)][1]
    return tuple(chosen)


def gates_section(run: Run) -> str:
    """Nothing where no gates were trained."""
    if not run.snapshots:
        return ""
    head = '<section aria-labelledby="gate-probabilities">\n<h2 id="gate-probabilities">Gate probabilities</h2>'
    return f"{head}\n{gates_figure(run)}\n</section>"


def gates_figure(run: Run) -> str:
    """Heat map of the last snapshot, slots by candidates, with a slider over the others."""
    space = run.architecture.space
    names = list(dict.fromkeys(str(candidate) for slot in space.slots for candidate in slot.candidates))
    left, top, height = 46.0, 38.0, 22.0
    width = min(62.0, (PAGE_WIDTH - left - 10 * len(space.stages)) / len(space.slots))
    chosen, last = chosen_candidates(run), run.snapshots[-1]
    parts = [text(left - 8, top + height * (row + 0.5) + 4, name, "small", "end") for row, name in enumerate(names)]
    outlines = []
    for number, slot in enumerate(space.slots):
        x = left + width * number + 10 * slot.stage
        if slot.index == 0:
            parts.append(text(x, 13, f"Stage {slot.stage + 1}", "strong", "start"))
        parts.append(text(x + width / 2, top - 7, str(slot.index + 1), "tiny"))
        for row, name in enumerate(names):
            if name in last.probabilities[number]:
                p = last.probabilities[number][name]
                tip = f"stage {slot.stage + 1}, block {slot.index + 1}: {name}"
                y = top + height * row
                cell = rect(x + 1, y + 1, width - 2, height - 2, "cell", f"{tip}\nprobability {p:.3f}", radius=2)
                key = f'data-gate="{number},{row}" data-name="{tip}" fill-opacity="{p:.3f}"'
                parts.append(cell.replace("<rect", f"<rect {key}"))
                if name == chosen[number]:
                    outlines.append(rect(x + 0.5, y + 0.5, width - 1, height - 1, "chosen", radius=3))
    snapshots = thin(run.snapshots, MOST_SNAPSHOTS)
    data = [[s.step, [[round(g.get(n, -1), 3) for n in names] for g in s.probabilities]] for s in snapshots]
    final = len(snapshots) - 1
    words = f"at step {last.step:g}; the network found takes {' '.join(chosen)}"
    body = "".join(parts + outlines)
    figure = svg(PAGE_WIDTH, top + height * len(names) + 2, "Gate probabilities, slots by candidates", words, body)
    guess = ""
    if run.has_zeros and run.gate_path is None:
        guess = "The files do not say in which slot of a stage a Zero stood: the most probable placing is outlined."
    return (
        '<p class="faint">One column per slot, one row per candidate. The network found is the best choice within the '
        "budget, so it need not take the most probable candidate everywhere.</p>"
        f'<p class="slider"><label for="snapshot">Snapshot</label> <input id="snapshot" type="range" min="0" '
        f'max="{final}" value="{final}" data-snapshots="{escape(json.dumps(data, allow_nan=False))}"> '
        f'<output for="snapshot">step {last.step:g}</output></p><div id="gates">{figure}</div>'
        f'<p class="legend"><span><i class="swatch ramp"></i>probability 0 to 1</span>'
        f'<span><i class="swatch chosen"></i>candidate of the network found</span></p>'
        f'<p class="faint">{guess}</p>'
    )


def device_figure(run: Run) -> str:
    """Predictions and intervals of all devices on one logarithmic axis."""
    keys = ("latency_ms", "low_ms", "high_ms")
    rows = {device: [run.fields.number("latency", device, key) for key in keys] for device in run.devices}
    budget = run.budget_ms
    known = [value for row in rows.values() for value in row if value is not None and value > 0] + [budget]
    x = Scale(min(known) / 1.3, max(known) * 1.3, 170, PAGE_WIDTH - 20, log=True)
    bottom = 34.0 * len(rows) + 8
    parts = [line(x(t), 4, x(t), bottom, "grid") + text(x(t), bottom + 16, f"{t:g}", "faint") for t in x.ticks()]
    parts.append(text((x.start + x.end) / 2, bottom + 34, "predicted latency, ms (logarithmic)", "faint"))
    for number, (device, (middle, low, high)) in enumerate(rows.items()):
        y = 24 + 34.0 * number
        parts.append(text(0, y + 4, device, "strong" if device == run.device else "small", "start"))
        if run.scale_note(device):
            parts.append(text(0, y + 17, NOT_REAL, "tiny", "start"))
        if device == run.device:
            parts.append(line(x(budget), y - 15, x(budget), y + 15, "budget"))
            words = f"budget {run.budget_words}"
            side, anchor = (-5, "end") if x(budget) > PAGE_WIDTH - 60 - 6 * len(words) else (5, "start")
            parts.append(text(x(budget) + side, y - 8, words, "tiny", anchor))
        if low and high:
            parts.append(whisker(x(low), x(high), y))
        if middle:
            parts.append(f'<circle cx="{x(middle):.2f}" cy="{y:.2f}" r="5" class="dot c0"/>')
        else:
            parts.append(text(x.start + 6, y + 4, UNKNOWN, "faint", "start"))
    words = "; ".join(f"{device} {predicted_words(run, device)}, {interval(run.fields, device)}" for device in rows)
    return svg(PAGE_WIDTH, bottom + 40, "Predicted latency on every device", words, "".join(parts))


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    cells = "".join(f'<th scope="col">{escape(name)}</th>' for name in head)
    body = "".join("<tr>" + "".join(f"<td>{escape(cell)}</td>" for cell in row) + "</tr>" for row in rows)
    return f"<table><thead><tr>{cells}</tr></thead><tbody>{body}</tbody></table>"


def device_table(run: Run) -> str:
    rows = []
    for device in run.devices:
        about = [run.fields.text("latency", device, key) or UNKNOWN for key in ("title", "runtime", "precision")]
        budget = run.budget_words if device == run.device else "–"
        rows.append([device, *about, predicted_words(run, device), interval(run.fields, device), budget])
    return table(("Name", "Device", "Runtime", "Precision", "Predicted", "Interval", "Budget"), rows)


def notes_list(run: Run) -> str:
    items = "".join(f"<li>{escape(str(note))}</li>" for note in run.fields.get("notes") or [])
    return f"<ul>{items}</ul>" if items else '<p class="faint">The files hold no notes.</p>'


def provenance_table(run: Run) -> str:
    rows = [("network", str(run.architecture)), ("space", run.architecture.space.name)]
    for name, value in (run.fields.get("provenance") or {}).items():
        rows.append((re.sub(r" s$", " (s)", name.replace("_", " ")), ", ".join(_flat(value)) or "not recorded"))
    return table(("Fact", "Value"), rows)


def _flat(value: Any, name: str = "") -> Iterable[str]:
    """A JSON value as 'outer.inner value' words; null is left out."""
    if isinstance(value, dict):
        for key, inner in value.items():
            yield from _flat(inner, f"{name}.{key}" if name else key)
    elif value is not None:
        yield f"{name} {value}".strip()


def file_list(run: Run) -> str:
    items = []
    for pattern, about in FILES.items():
        name = pattern.format(resolution=f"{run.fields.needed('resolution', 'deployment'):g}")
        if name == "trials.csv" and name not in run.files:
            continue  # of discrete strategies only
        shown = f'<a href="{name}">{name}</a>' if name in run.files else f"<span>{name} (not in this folder)</span>"
        items.append(f"<li>{shown}<small>{escape(about)}</small></li>")
    return f'<ul class="files">{"".join(items)}</ul>'


def render_page(run: Run, template: str) -> str:
    """Fill the template's {{places}}; what is filled in is not searched again."""
    device, space, predicted = run.device, run.architecture.space.name, run.fields.needed("budget", "predicted_ms")
    at = f"{run.fields.needed('resolution', 'deployment'):g}"
    figures = {
        "title": escape(f"{space} on {device}: {ms(predicted)}{run.scale_note(device)}"),
        "kicker": escape(f"Network found in the space {space} for {device}, predicted at {at} × {at} pixels"),
        "headline": headline(run),
        "architecture": architecture_legend(run) + architecture_figure(run),
        "time": time_figure(run),
        "course": course_figures(run),
        "gates": gates_section(run),
        "devices": device_table(run) + device_figure(run),
        "notes": notes_list(run),
        "provenance": provenance_table(run),
        "files": file_list(run),
    }
    return re.sub(r"\{\{(\w+)\}\}", lambda place: figures[place[1]], template)


def render_report(folder: Path) -> str:
    """The page of a run folder as one string. Raises `BadFile`."""
    template = resources.files("nas.report").joinpath("page.html").read_text(encoding="utf-8")
    return render_page(load_run(folder), template)


def write_report(folder: Path) -> Path:
    """Write FOLDER/report.html, whole or not at all, and return its path. Raises `BadFile`, `CannotWrite`."""
    path = folder / "report.html"
    write_whole(path, render_report(folder))
    return path


def main(arguments: Sequence[str] | None = None) -> int:
    """The command: 0 and the path of the page, or 2 and one line on what is wrong."""
    parser = argparse.ArgumentParser(prog="python -m nas.report", description="Render a run's report.html again.")
    parser.add_argument("folder", type=Path, metavar="FOLDER", help="a run folder, as the search printed it")
    try:
        print(write_report(parser.parse_args(arguments).folder))
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
