"""What the page says of a network's answers and of its kernels; a run without the files renders as before."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from latency_models.support import KernelSupport, Support
from nas.report.answers import MOST_CLASSES, MOST_PAIRS, matrix
from nas.report.page import render_report
from nas.report.run import load_run
from nas.run.confusion import FILE, Confusion, Mistake
from search_space.reading import to_plain
from tests.nas.report.test_report import HOSTILE, Page, write_sample
from tests.nas.run.test_confusion import answered

SUPPORT = Support(
    0.41,
    (
        KernelSupport("layer_norm", 1, "derived", 0, 0.41, 0.41, 0.6),
        KernelSupport("dwconv", 7, "fitted", 12, 0.5, 0.1, 0.3),
        KernelSupport("linear", 1, "measured", 1, 0.0001, 0.0, 0.0),
    ),
)


def rendered(folder: Path) -> Page:
    return Page(render_report(load_run(folder)))


def test_without_the_files_of_this_version_the_page_has_no_such_sections(tmp_path: Path) -> None:
    write_sample(tmp_path)
    page = rendered(tmp_path)
    assert "What is taken for what" not in page.text and "Time by kind of kernel" not in page.text
    assert "Beside the baselines" not in page.text
    assert not [tag for tag, _ in page.elements if tag == "img"]


def test_the_matrix_has_every_count_and_the_mistakes_their_pictures(tmp_path: Path) -> None:
    write_sample(tmp_path)
    found, _, _ = answered()
    found.save(tmp_path)
    page = rendered(tmp_path)
    shown = [a["data-tip"] for tag, a in page.elements if tag == "td" and "data-tip" in a]
    assert len(shown) == len(found.counts)
    for label, answer, images in found.counts:
        of = found.images_of()[label]
        assert f"{images} of {of} images of {found.name(label)}\nanswer {found.name(answer)}" in shown
    pictures = [a["src"] for tag, a in page.elements if tag == "img"]
    assert pictures == [f"data:image/jpeg;base64,{mistake.picture}" for mistake in found.surest]
    assert all(mistake.name in page.text for mistake in found.surest)
    policy = next(a["content"] for tag, a in page.elements if a.get("http-equiv") == "Content-Security-Policy")
    assert "img-src data:;" in policy  # no picture from anywhere else
    assert len(render_report(load_run(tmp_path)).encode()) < 600_000


def test_of_many_classes_the_most_confused_pairs_are_listed(tmp_path: Path) -> None:
    write_sample(tmp_path)
    names = tuple(f"kind {number}" for number in range(MOST_CLASSES + 1))
    wrong = tuple((n, (n + 1) % len(names), n + 1) for n in range(len(names)))
    right = tuple((n, n, 50) for n in range(len(names)))
    confusion = Confusion(names, tuple(sorted(right + wrong)))
    assert matrix(confusion) is None
    confusion.save(tmp_path)
    text = rendered(tmp_path).text
    pairs = re.findall(r"kind (\d+) kind (\d+) (\d+) of (\d+) images", text)
    expected = [(n, (n + 1) % len(names), n + 1, 51 + n) for n in reversed(range(len(names)))][:MOST_PAIRS]
    assert [tuple(map(int, pair)) for pair in pairs] == expected
    assert "The surest mistakes" not in text


def test_a_class_without_test_images_has_a_column_and_no_row() -> None:
    found = matrix(Confusion(("a", "b", "a"), ((0, 2, 3), (0, 0, 1))))
    assert found is not None and found.answers == ("a (0)", "b", "a (2)")
    assert [name for name, _ in found.rows] == ["a (0)"]
    assert [(cell.images, cell.share, cell.right) for cell in found.rows[0][1]] == [
        (1, 0.25, True), (0, 0.0, False), (3, 0.75, False)
    ]  # fmt: skip


def test_hostile_names_stay_text(tmp_path: Path) -> None:
    write_sample(tmp_path)
    Confusion((HOSTILE, "b"), ((0, 1, 2),), (Mistake(0, 1, 0.9, 0.1, HOSTILE),)).save(tmp_path)
    page = rendered(tmp_path)
    assert page.text.count(HOSTILE) == 4  # twice in the matrix, as label and as the image's name
    assert len([tag for tag, _ in page.elements if tag == "script"]) == 1 and "no picture" in page.text


def test_a_wrong_file_is_refused_in_one_line(tmp_path: Path) -> None:
    from nas.report.__main__ import main

    write_sample(tmp_path)
    (tmp_path / FILE).write_text("{")
    assert main([str(tmp_path)]) == 2


def test_time_by_kernel_says_what_prices_rest_on(tmp_path: Path) -> None:
    record = write_sample(tmp_path)
    record["latency"]["vpu"] |= {"latency_ms": 20.0, "support": to_plain(SUPPORT)}
    record["latency"]["cpu"]["support"] = to_plain(SUPPORT)
    (tmp_path / "architecture.json").write_text(json.dumps(record))
    text = rendered(tmp_path).text
    section = text[text.index("Time by kind of kernel") : text.index("The course of the search")]
    assert "On vpu, prices of 41 % of the time are derived" in section
    assert "7x7 depthwise 50.0 % 10.00 ms fitted, 12 rows 30.0 % LayerNorm 41.0 % 8.20 ms derived 60.0 %" in section
    assert "linear 0.01 % 0.002 ms – 0.0 %" in section
    assert "beside the kernels 9.0 % 1.80 ms of the whole network 10.0 %" in section
    assert "cpu: " in section and "gpu: " not in section  # of gpu the file does not say it


def test_large_groups_of_settings_are_folded(tmp_path: Path) -> None:
    record = write_sample(tmp_path)
    settings: dict[str, Any] = {"train": {f"option{n}": n for n in range(20)}, "out": None}
    record["provenance"]["settings"] = settings
    (tmp_path / "architecture.json").write_text(json.dumps(record))
    html = render_report(load_run(tmp_path))
    (inside,) = re.findall(r"<details><summary>settings: 20 values</summary>(.*?)</details>", html, re.DOTALL)
    assert all(f"<td>train.option{n}</td><td>{n}</td>" in inside for n in range(20))
    assert "option3" not in html.replace(inside, "") and "python 3.11.7, torch 2.13.0" in html


def test_the_network_stands_beside_what_needs_no_network(tmp_path: Path) -> None:
    record = write_sample(tmp_path)
    record["accuracy"] |= {"largest_class": 0.25}
    (tmp_path / "architecture.json").write_text(json.dumps(record))
    assert "this network 97.3 % a logistic regression on 16x16 pixels not measured always" in rendered(tmp_path).text
    record["accuracy"] |= {"baseline": 0.9}
    (tmp_path / "architecture.json").write_text(json.dumps(record))
    page = rendered(tmp_path)
    bars = [a["style"] for tag, a in page.elements if tag == "i" and "width:" in a.get("style", "")]
    assert bars == ["width:97.30%", "width:90.00%", "width:25.00%"]


@pytest.mark.parametrize("space", ["quadranet", "quadranet_t"])
def test_wide_drawings_stand_in_boxes_that_scroll(tmp_path: Path, space: str) -> None:
    """On a phone a drawing keeps its size, and its letters theirs."""
    write_sample(tmp_path, space)
    html = render_report(load_run(tmp_path))
    drawings = re.findall(r'(<[^<>]*>)\s*<svg viewBox="0 0 (\d+)[^>]*style="--width:(\d+)px"', html)
    assert len(drawings) >= 8
    for box, width, said in drawings:
        assert width == said
        assert "scroll" in box or int(width) <= 368 or 'class="wide"' in box, box
