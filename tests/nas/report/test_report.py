"""The report page: complete, well-formed, self-contained and deaf to hostile text; each bad file has its message."""

from __future__ import annotations

import csv
import errno
import json
import math
import os
import random
import re
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from nas.report.__main__ import main
from nas.report.figures.course import thin
from nas.report.figures.svg import Scale, element, text
from nas.report.page import render_report, write_report
from nas.report.run import load_run
from nas.report.words import ms
from nas.run.distributed import Place
from nas.run.folder import run_folder
from nas.run.log import GATES_LOG, SEARCH_LOG
from nas.run.resume import Begun
from search_space import Architecture, cost_of, load_space, lower
from search_space.errors import BadFile, CannotWrite
from tests import ROOT

DEVICES = {
    "vpu": ("Intel Myriad X (NCS2)", "OpenVINO 2019R2", "fp16", 1.0),
    "cpu": ("Cortex-A76 (Pixel 4)", "TFLite 2.1", "fp32", 3.1),
    "gpu": ("NVIDIA A100", "TensorRT 8", "fp16", 0.045),
}
VOID = {"meta", "input", "br", "hr", "img", "link"}


def sample_record(space_name: str, seed: int, depth: int | None = None) -> dict[str, Any]:
    """A made-up but plausible architecture.json; `depth` fills every stage up to so many blocks."""
    rng = random.Random(seed)
    space = load_space(space_name)
    blocks = [
        [
            rng.choice(choices)
            for _ in range(
                rng.randint(stage.least_blocks, stage.max_blocks)
                if depth is None
                else min(stage.max_blocks, max(stage.least_blocks, depth))
            )
        ]
        for stage, choices in zip(space.stages, space.stage_choices, strict=True)
    ]
    architecture = Architecture(space, tuple(map(tuple, blocks)))
    segments = lower(architecture, 224, 10)
    cost = cost_of(segments)
    latency = {}
    for device, (title, runtime, precision, factor) in DEVICES.items():
        times = {s.name: factor * (0.25 + cost_of([s]).macs / 2e7) * rng.uniform(0.8, 1.3) for s in segments}
        total = sum(times.values())
        latency[device] = {
            "latency_ms": total, "low_ms": 0.82 * total, "high_ms": 1.25 * total, "coverage": 0.9,
            "title": title, "runtime": runtime, "precision": precision, "by_segment_ms": times,
            "profile_hash": "ab12cd34",
        }  # fmt: skip
    predicted = latency["vpu"]["latency_ms"]
    budget = math.ceil(predicted * 1.01)
    return {
        "schema": 1,
        "architecture": architecture.to_dict(),
        "num_classes": 10,
        "resolution": {"deployment": 224, "training": 64},
        "input": {"mean": [0.5] * 3, "std": [0.5] * 3, "class_names": [str(digit) for digit in range(10)]},
        "cost": {"macs": cost.macs, "params": cost.params, "peak_activation_bytes": cost.peak_activation_bytes},
        "budget": {
            "device": "vpu", "budget_ms": float(budget), "predicted_ms": predicted, "used": predicted / budget,
            "binds": True, "space_min_ms": 0.6 * predicted, "space_max_ms": 2.7 * predicted,
        },
        "latency": latency,
        "accuracy": {
            "test": 0.973, "test_images": 360, "validation": 0.969, "data": "digits",
            "measured_on": "model.onnx in onnxruntime",
        },
        "notes": [
            "Trained at 64 pixels, timed at 224: accuracy at 64 does not say which kernel size helps at 224.",
            "Digits is far easier than ImageNet; expect the order of networks to change there.",
        ],
        "provenance": {
            "seed": seed, "versions": {"python": "3.11.7", "torch": "2.13.0"}, "profile_hash": "ab12cd34",
            "git_commit": None, "wall_time_s": 140.2, "started": "2026-03-01T10:00:00+00:00",
            "command": f"python -m nas.search space={space_name} device=vpu budget_ms={budget}",
        },
    }  # fmt: skip


def write_sample(
    folder: Path, space_name: str = "quadranet", seed: int = 0, depth: int | None = None
) -> dict[str, Any]:
    """Write the three files of a run and return architecture.json's content."""
    rng = random.Random(seed)
    folder.mkdir(parents=True, exist_ok=True)
    record = sample_record(space_name, seed, depth)
    (folder / "architecture.json").write_text(json.dumps(record))
    space, budget = load_space(space_name), record["budget"]["budget_ms"]
    with (folder / "search.csv").open("w", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(SEARCH_LOG.names)
        for step in range(0, 600, 4):
            phase = "warmup" if step < 160 else "search" if step < 440 else "finetune"
            done = max(0, step - 160) / 280
            searching = phase == "search"
            loss = 2.3 * math.exp(-step / 150) + 0.1 + rng.uniform(-0.03, 0.05)
            rows.writerow([
                step, phase, step // 40, f"{loss:.4f}", f"{loss * 1.15:.4f}" if searching else "",
                f"{0.97 - 0.8 * math.exp(-step / 120):.4f}" if step % 40 == 0 else "",
                f"{budget * (1.02 + 0.5 * math.exp(-5 * done)) + rng.uniform(-0.2, 0.2):.3f}" if searching else "",
                budget, f"{min(1.8, 0.2 + 3 * done):.3f}" if searching else "",
                f"{0.99 * math.exp(-2 * done):.4f}" if searching else "", f"{step * 0.21:.2f}",
            ])  # fmt: skip
    with (folder / "gates.csv").open("w", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(GATES_LOG.names)
        liking = [[rng.gauss(0, 1) for _ in slot.candidates] for slot in space.slots]
        for step in range(160, 440, 40):
            for number, slot in enumerate(space.slots):
                weights = [math.exp(like * (step - 120) / 100) for like in liking[number]]
                for candidate, weight in zip(slot.candidates, weights, strict=True):
                    p = weight / sum(weights)
                    rows.writerow([step, number, slot.stage + 1, slot.index + 1, candidate, f"{p:.5f}"])
    return record


def rendered(folder: Path) -> str:
    """The page of a run's folder."""
    return render_report(load_run(folder))


class Page(HTMLParser):
    """Checks nesting and collects attributes and text."""

    def __init__(self, html: str) -> None:
        super().__init__(convert_charrefs=True)
        self.open: list[str] = []
        self.elements: list[tuple[str, dict[str, str]]] = []
        self.words: list[str] = []
        self.feed(html)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        assert len({name for name, _ in attrs}) == len(attrs), f"attribute twice in {tag}"
        self.elements.append((tag, {name: value or "" for name, value in attrs}))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, {name: value or "" for name, value in attrs}))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open[-1:] not in (["script"], ["style"]):
            self.words.append(data)

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.words).split())

    @property
    def tips(self) -> list[str]:
        return [attributes["data-tip"] for _, attributes in self.elements if "data-tip" in attributes]


MACRO = str(ROOT / "experiments/spaces/nas_bench_macro.yaml")
SAMPLES = [
    ("quadranet", None),
    ("proxyless", None),
    ("quadranet_t", 99),
    ("quadranet", 1),
    ("efficientnet_lite0", None),
    ("efficientnet_lite0_quadratic", None),
    (MACRO, None),
    (MACRO, 0),
]


@pytest.mark.parametrize(("space", "depth"), SAMPLES)
def test_every_block_and_device_is_on_a_well_formed_page(tmp_path: Path, space: str, depth: int | None) -> None:
    record = write_sample(tmp_path, space, seed=1, depth=depth)
    html = rendered(tmp_path)
    page = Page(html)
    blocks = [tip for tip in page.tips if "kernel" in tip]
    stages = record["architecture"]["stages"]
    assert len(blocks) == sum(map(len, stages))
    for stage_number, stage in enumerate(stages, start=1):
        for number, block in enumerate(stage, start=1):
            kernel, _, form = block[1:].partition("e")
            ratio, _, convolutions = form.partition("q")
            name = f"stage {stage_number}, block {number}: kernel {kernel}×{kernel}, expansion {ratio}"
            name += f", quadratic with {convolutions} depthwise convolutions\n" if convolutions else "\n"
            assert f">e{form}<" in html
            (tip,) = [tip for tip in blocks if tip.startswith(name)]
            assert all(f"\n{device}: " in tip for device in DEVICES)
    slots = sum(stage["max_blocks"] for stage in record["architecture"]["space"]["stages"])
    assert sum("left out (Zero)" in tip for tip in page.tips) == slots - len(blocks)
    for title, runtime, _, _ in DEVICES.values():
        assert title in page.text and runtime in page.text
    assert "{{" not in html
    assert all(note in page.text for note in record["notes"])


@pytest.mark.parametrize(("space", "depth"), SAMPLES)
def test_the_drawing_stays_on_the_page(tmp_path: Path, space: str, depth: int | None) -> None:
    write_sample(tmp_path, space, depth=depth)
    width = 0.0
    for tag, attributes in Page(rendered(tmp_path)).elements:
        if tag == "svg":
            width = float(attributes["viewbox"].split()[2])
            assert attributes["aria-label"]
        elif tag == "rect":
            assert float(attributes["x"]) >= 0
            assert float(attributes["x"]) + float(attributes["width"]) <= width + 0.01


def test_feature_map_sizes_are_the_lowered_ones(tmp_path: Path) -> None:
    for space, sizes in {"quadranet": (56, 28, 14, 7), "proxyless": (56, 28, 14, 14, 7, 7)}.items():
        write_sample(tmp_path, space)
        text = Page(rendered(tmp_path)).text
        assert tuple(int(size) for size in re.findall(r"\d+ ch, (\d+)×\1", text)) == sizes


def test_nothing_is_fetched(tmp_path: Path) -> None:
    write_sample(tmp_path)
    html = rendered(tmp_path)
    page = Page(html)
    assert not {tag for tag, _ in page.elements} & {"link", "img", "iframe", "object", "embed", "audio", "video"}
    assert all("src" not in attributes for _, attributes in page.elements)
    links = {attributes["href"] for _, attributes in page.elements if "href" in attributes}
    assert links == {"architecture.json", "search.csv", "gates.csv"}
    (tmp_path / "latency_224.onnx").touch()
    assert 'href="latency_224.onnx"' in rendered(tmp_path)
    assert "url(" not in html and "@import" not in html and "fetch(" not in html
    assert set(re.findall(r"https?://[^\"'\s<]*", html)) == {"http://www.w3.org/2000/svg"}  # a name, never fetched


HOSTILE = "<script>alert('x')</script>\"'&{{gates}}"


def test_hostile_strings_stay_text(tmp_path: Path) -> None:
    record = write_sample(tmp_path)
    plain = len(Page(rendered(tmp_path)).elements)
    record["accuracy"] |= {"data": HOSTILE, "measured_on": HOSTILE}
    record["notes"] = [HOSTILE] * 2
    record["provenance"] |= {"command": HOSTILE, "versions": {HOSTILE: {HOSTILE: HOSTILE}}}
    record["latency"]["vpu"] |= {"title": HOSTILE, "runtime": HOSTILE}
    record["latency"][HOSTILE] = record["latency"].pop("cpu")
    record["architecture"]["space"]["name"] = HOSTILE
    (tmp_path / "architecture.json").write_text(json.dumps(record))
    html = rendered(tmp_path)
    page = Page(html)
    assert len(page.elements) == plain
    assert html.count("<script>") == 1
    assert page.text.count(HOSTILE) >= 8


def test_what_was_not_measured_is_said_so(tmp_path: Path) -> None:
    record = write_sample(tmp_path)
    record |= {"accuracy": None, "provenance": {}, "notes": []}
    record["latency"] = {"cpu": record["latency"]["cpu"] | {"by_segment_ms": {}}}
    (tmp_path / "architecture.json").write_text(json.dumps(record))
    for name in ("search.csv", "gates.csv"):
        header = (tmp_path / name).read_text().splitlines()[0]
        (tmp_path / name).write_text(header + "\n")
    page = Page(rendered(tmp_path))
    assert page.text.count("not measured") >= 10
    assert "Gate probabilities" not in page.text and "holds no steps" in page.text and "hold no notes" in page.text
    for device in ("vpu", "cpu"):
        assert all(f"{device}: not measured" in tip for tip in page.tips if "kernel" in tip)


def test_charts_without_a_value_say_so(tmp_path: Path) -> None:
    write_sample(tmp_path)
    empty = [f"{step},search,1" + "," * 8 for step in range(3)]
    (tmp_path / "search.csv").write_text("\n".join([",".join(SEARCH_LOG.names), *empty]) + "\n")
    page = Page(rendered(tmp_path))
    assert page.words.count("not measured") == 5 * 2  # a chart each, and what is read aloud of it


def test_with_confidence_the_page_says_what_the_upper_end_uses(tmp_path: Path) -> None:
    record = write_sample(tmp_path)
    plain = Page(rendered(tmp_path)).text
    assert "Networks of this space are predicted at" in plain and "upper end" not in plain
    record["budget"] |= {
        "budget_ms": 45.0, "predicted_ms": 24.5, "used": 0.989, "kept_ms": 44.505, "confidence": 0.9,
        "space_min_ms": 37.32, "space_max_ms": 136.0,
    }  # fmt: skip
    record["latency"]["vpu"] |= {"latency_ms": 24.5, "low_ms": 13.5, "high_ms": 44.505, "coverage": 0.8}
    (tmp_path / "architecture.json").write_text(json.dumps(record))
    page = Page(rendered(tmp_path))
    assert (
        "98.9 % of the budget is used by the interval's upper end, which keeps it at confidence 0.9; "
        "interval 13.50 to 44.51 ms (80 %). "
        "Networks of this space have upper ends of 37.32 ms to 136.0 ms on this device."
    ) in page.text
    assert "54." not in page.text.split("Test accuracy")[0]
    assert "budget 45 ms, kept by the upper end" in page.words
    assert "All by the interval's upper end" in page.text
    assert not [a for _, a in page.elements if a.get("class") == "over"]


def test_limits_stand_beside_what_they_limit(tmp_path: Path) -> None:
    record = write_sample(tmp_path)
    assert "; limit" not in rendered(tmp_path)
    record["budget"]["limits"] = {"macs": 3e8, "params": 4_500_000.0, "peak_activation": 3 * 2**20}
    (tmp_path / "architecture.json").write_text(json.dumps(record))
    text = Page(rendered(tmp_path)).text
    for words in ("at 224 pixels; limit 300.0 M", "10 classes; limit 4.50 M", "at 224 pixels; limit 3.00 MiB"):
        assert words in text


def test_what_is_used_above_the_budget_is_drawn_so(tmp_path: Path) -> None:
    record = write_sample(tmp_path)
    record["budget"] |= {"used": 1.02, "kept_ms": 1.02 * record["budget"]["budget_ms"], "confidence": 0.9}
    (tmp_path / "architecture.json").write_text(json.dumps(record))
    page = Page(rendered(tmp_path))
    assert len([a for _, a in page.elements if a.get("class") == "over"]) == 2  # the wide gauge and the narrow one


def test_another_calibration_is_not_real_time(tmp_path: Path) -> None:
    record = write_sample(tmp_path)
    assert "not real time" not in rendered(tmp_path)
    record["budget"] |= {"calibration": "table3", "confidence": None}
    for device, calibration in {"vpu": "table3", "cpu": "table3", "gpu": "measured"}.items():
        record["latency"][device]["calibration"] = calibration
    (tmp_path / "architecture.json").write_text(json.dumps(record))
    html = rendered(tmp_path)
    page = Page(html)
    note = ", calibration=table3: not real time"
    budget, title = record["budget"]["budget_ms"], DEVICES["vpu"][0]
    for tag in ("title", "h1"):
        (words,) = re.findall(f"<{tag}>(.*?)</{tag}>", html)
        assert words.endswith(note)
    assert f"budget {budget:g} ms{note}" in page.words and f"on {title}{note}" in page.text
    for device, row in record["latency"].items():
        time, unreal = ms(row["latency_ms"]), device != "gpu"
        assert page.words.count(f"{time}, not real time") == 2 * unreal  # beside its segments and in the table
        assert page.words.count(time) == 2 * (not unreal)


def test_the_chosen_candidate_of_every_slot_is_outlined(tmp_path: Path) -> None:
    record = write_sample(tmp_path, seed=3)
    page = Page(rendered(tmp_path))
    space = load_space("quadranet")
    outlined = [attributes for _, attributes in page.elements if attributes.get("class") == "chosen"]
    assert len(outlined) == len(space.slots)
    assert "most probable placing" in page.text
    (words,) = [words for words in page.words if "the network found takes " in words]
    chosen = words.split("the network found takes ")[1].split()
    stages: list[list[str]] = [[] for _ in space.stages]
    for slot, choice in zip(space.slots, chosen, strict=True):
        if choice != "zero":
            stages[slot.stage].append(choice)
    assert stages == record["architecture"]["stages"]
    (tmp_path / "architecture.json").write_text(json.dumps(record | {"gate_path": chosen}))
    assert "most probable placing" not in Page(rendered(tmp_path)).text
    (tmp_path / "architecture.json").write_text(json.dumps(record | {"gate_path": ["zero"] * len(chosen)}))
    with pytest.raises(BadFile, match=r"architecture\.json: gate_path 'zero zero"):
        rendered(tmp_path)


def test_a_snapshot_per_slider_place(tmp_path: Path) -> None:
    write_sample(tmp_path)
    (slider,) = [a for tag, a in Page(rendered(tmp_path)).elements if tag == "input"]
    snapshots = json.loads(slider["data-snapshots"])
    assert [step for step, _ in snapshots] == list(range(160, 440, 40))
    assert slider["value"] == slider["max"] == str(len(snapshots) - 1)
    for _, slots in snapshots:
        for probabilities in slots:
            assert sum(p for p in probabilities if p >= 0) == pytest.approx(1, abs=0.01)


@pytest.mark.parametrize("name", ["architecture.json", "search.csv", "gates.csv"])
def test_missing_truncated_or_empty_file(tmp_path: Path, name: str) -> None:
    write_sample(tmp_path)
    whole = (tmp_path / name).read_bytes()
    for content in (whole[: len(whole) // 2], whole[:-3], b"", b"\xff\xfe\x00"):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(BadFile, match=name) as caught:
            rendered(tmp_path)
        assert "\n" not in str(caught.value)
    (tmp_path / name).unlink()
    with pytest.raises(BadFile, match=name):
        rendered(tmp_path)


def test_gates_cut_between_two_lines(tmp_path: Path) -> None:
    write_sample(tmp_path)
    lines = (tmp_path / "gates.csv").read_text().splitlines(keepends=True)
    (tmp_path / "gates.csv").write_text("".join(lines[:-9]))
    with pytest.raises(BadFile, match=r"gates\.csv.*step 400.*slot 14"):
        rendered(tmp_path)


def _set(*keys: str, value: Any) -> Callable[[dict[str, Any]], None]:
    def change(record: dict[str, Any]) -> None:
        for key in keys[:-1]:
            record = record[key]
        record[keys[-1]] = value

    return change


# What the file's reader lets pass and a page cannot say; what it refuses, its own tests have.
BAD_RECORDS = [
    (_set("budget", value=None), "budget"),
    (_set("budget", "budget_ms", value=0.0), "budget"),
    (_set("resolution", "deployment", value=8), "resolution 8"),
    (_set("gate_path", value=["k3e3"]), "gate_path 'k3e3'"),
    (_set("schema", value=2), "schema 2"),
    (_set("architecture", "stages", value=[["k9e6"]] * 4), "'k9e6'"),
]


@pytest.mark.parametrize(("change", "named"), BAD_RECORDS, ids=[named for _, named in BAD_RECORDS])
def test_wrong_fields_are_named(tmp_path: Path, change: Callable[[dict[str, Any]], None], named: str) -> None:
    record = write_sample(tmp_path)
    change(record)
    (tmp_path / "architecture.json").write_text(json.dumps(record))
    with pytest.raises(BadFile) as caught:
        rendered(tmp_path)
    assert "architecture.json" in str(caught.value) and named in str(caught.value)
    assert "\n" not in str(caught.value)


BAD_CELLS = [
    ("search.csv", 3, "nan", ("row 2", "train_loss", "'nan'")),
    ("search.csv", 0, "", ("row 2", "step")),
    ("search.csv", 0, "9999", ("row 3", "step 4", "9999")),
    ("gates.csv", 1, "99", ("row 2", "slot", "99", "0..15")),
    ("gates.csv", 4, "zero", ("row 2", "'zero'")),
    ("gates.csv", 5, "1.5", ("row 2", "probability", "1.5")),
]


@pytest.mark.parametrize(("name", "column", "cell", "named"), BAD_CELLS, ids=[" ".join(case[3]) for case in BAD_CELLS])
def test_wrong_cells_are_named(tmp_path: Path, name: str, column: int, cell: str, named: tuple[str, ...]) -> None:
    write_sample(tmp_path)
    lines = (tmp_path / name).read_text().splitlines()
    cells = lines[1].split(",")
    cells[column] = cell
    lines[1] = ",".join(cells)
    (tmp_path / name).write_text("\n".join(lines) + "\n")
    with pytest.raises(BadFile, match=name) as caught:
        rendered(tmp_path)
    assert all(words in str(caught.value) for words in named)


def test_the_same_files_give_the_same_page(tmp_path: Path) -> None:
    write_sample(tmp_path)
    assert rendered(tmp_path) == rendered(tmp_path)


def test_written_whole_or_not_at_all(tmp_path: Path) -> None:
    write_sample(tmp_path)
    path = write_report(tmp_path)
    page = path.read_text(encoding="utf-8")
    assert path == tmp_path / "report.html" and page == rendered(tmp_path)
    (tmp_path / "gates.csv").unlink()
    with pytest.raises(BadFile):
        write_report(tmp_path)
    assert path.read_text(encoding="utf-8") == page
    assert not list(tmp_path.glob("*.partial"))


def test_a_full_disk_keeps_the_old_page_and_says_how_to_resume(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    begun = Begun("search", {}, None, datetime.now(UTC))
    with (
        pytest.raises(
            CannotWrite, match=r"cannot write '.*report\.html': No space.*; fix that and resume it with resume="
        ),
        run_folder(str(tmp_path / "run"), "unused", begun, None, Place()) as folder,
    ):
        write_sample(folder)
        page = write_report(folder).read_text(encoding="utf-8")
        write_sample(folder, seed=1)
        monkeypatch.setattr(os, "fsync", full)
        write_report(folder)
    assert (folder / "report.html").read_text(encoding="utf-8") == page
    assert not list(folder.glob("*.partial"))


def test_a_page_of_values_needs_no_files(tmp_path: Path) -> None:
    write_sample(tmp_path)
    run = load_run(tmp_path)
    assert not list(tmp_path.glob("report.html"))
    before = run.log.copy(), run.gates.copy()
    page = render_report(replace(run, files=frozenset()))
    assert "search.csv (not in this folder)" in page and 'href="search.csv"' not in page
    assert before[0].equals(run.log) and before[1].equals(run.gates)


def test_elements_escape_all_that_is_no_element() -> None:
    inner = text(0, 1.234, "<b>", "x")
    assert inner == '<text x="0.00" y="1.23" class="x" text-anchor="middle">&lt;b&gt;</text>'
    assert element("g", inner, "&", data_tip="\"'<", role=None) == f'<g data-tip="&#34;&#39;&lt;">{inner}&amp;</g>'


def test_the_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_sample(tmp_path)
    assert main([str(tmp_path)]) == 0
    assert capsys.readouterr().out.strip() == str(tmp_path / "report.html")
    assert main([str(tmp_path / "nowhere")]) == 2
    caught = capsys.readouterr()
    assert caught.out == ""
    assert re.fullmatch(r"error: no run folder '.*nowhere'\n", caught.err)


def _leaves(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [path, *[leaf for key, inner in items for leaf in _leaves(inner, (*path, key))]]


def test_any_junk_renders_or_is_refused(tmp_path: Path) -> None:
    record = write_sample(tmp_path, "proxyless")
    places = [path for path in _leaves(record) if path and "by_segment_ms" not in path[:-1]]
    rng = random.Random(0)
    outcomes = {"rendered": 0, "refused": 0}
    for _ in range(150):
        changed = json.loads(json.dumps(record))
        *outer, last = rng.choice(places)
        inner = changed
        for key in outer:
            inner = inner[key]
        inner[last] = rng.choice([None, 0, -1, 1e12, 1e-12, "x", "", [], {}, True, [{}], {"x": []}])
        (tmp_path / "architecture.json").write_text(json.dumps(changed))
        try:
            Page(rendered(tmp_path))
            outcomes["rendered"] += 1
        except BadFile as error:
            outcomes["refused"] += 1
            # gates.csv, where it is not of the space that stands there now
            assert re.search("architecture.json|gates.csv", str(error)) and "\n" not in str(error)
    assert min(outcomes.values()) > 10


@pytest.mark.parametrize(("low", "high"), [(0, 1), (0, 31.8), (-0.02, 1.97), (1e-5, 3e-5), (97.1, 97.3), (5, 5)])
def test_ticks_are_few_and_inside(low: float, high: float) -> None:
    ticks = Scale(low, high, 0, 100).ticks()
    assert len(ticks) <= 6
    assert all(low - 1e-9 <= tick <= high + 1e-9 for tick in ticks)
    assert len(ticks) >= 2 or low == high


def test_thinning_keeps_both_ends() -> None:
    assert thin(range(5), 10) == [0, 1, 2, 3, 4]
    thinned = thin(range(1_000), 7)
    assert (thinned[0], thinned[-1], len(thinned)) == (0, 999, 7)
