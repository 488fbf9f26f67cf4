"""The page about several targets says what uses the budgets and on which scale the ms are. No search runs here."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from nas.report.__main__ import main
from nas.report.front import render_front
from nas.run.front_table import FrontRow, load_front, load_front_table, save_front_table
from search_space.errors import BadFile

PROVENANCE: dict[str, Any] = {"search_s": 1.0}
ROWS = [
    FrontRow(
        folder=f"{device}-{budget}ms",
        device=device,
        budget_ms=budget,
        predicted_ms=0.9 * budget,
        used=0.9,
        binds=True,
        macs=300_000_000,
        params=5_000_000,
        peak_activation_bytes=2**20,
        validation=0.9,
        test=test,
        architecture="k3e3",
    )
    for device, budget, test in (("vpu", 30.0, 0.9), ("vpu", 45.0, 0.95), ("cpu", 20.0, 0.8))
]


def test_plain_rows_say_nothing_of_scale_or_upper_end() -> None:
    page = render_front(ROWS, PROVENANCE)
    assert "not real time" not in page and "upper end" not in page
    assert "<td>40.50 ms</td>" in page and "Shared search: 1 s" in page


@pytest.mark.parametrize("calibration", ["table3", "table3_nn_meter"])
def test_another_calibration_is_not_real_time(calibration: str) -> None:
    page = render_front([replace(row, calibration=calibration) for row in ROWS], PROVENANCE)
    note = f", calibration={calibration}: not real time"
    assert f"3 budgets on 2 devices, one supernet{note}</h1>" in page
    assert page.count(f">predicted ms{note}<") == 4  # for each device a wide picture and a narrow one
    assert f"<td>40.50 ms{note}</td>" in page


def test_only_the_rows_on_another_scale_are_named() -> None:
    page = render_front([*ROWS[:2], replace(ROWS[2], calibration="table3")], PROVENANCE)
    assert page.count(">predicted ms<") == 2 and page.count(">predicted ms, calibration=table3") == 2
    assert "<td>40.50 ms</td>" in page and "<td>18.00 ms, calibration=table3: not real time</td>" in page


def test_with_confidence_the_upper_end_uses_the_budget() -> None:
    page = render_front([replace(row, used=0.989, confidence=0.9) for row in ROWS], PROVENANCE)
    assert "Budgets are used by the upper end at confidence 0.9." in page
    assert page.count("<td>98.9 % by the upper end at confidence 0.9</td>") == 3


def test_rows_come_back_as_they_were_written(tmp_path: Path) -> None:
    rows = [*ROWS, replace(ROWS[0], folder="other", confidence=0.9, validation=None, test=None, used=1 / 3)]
    save_front_table(tmp_path, rows)
    assert load_front(tmp_path) == rows
    table = load_front_table(tmp_path)
    assert list(table["folder"]) == [row.folder for row in rows] and table["test"].isna().sum() == 1


def test_targets_without_accuracy_have_no_picture() -> None:
    page = render_front([replace(row, validation=None, test=None) for row in ROWS], PROVENANCE)
    assert "<circle" not in page and page.count("Accuracy not measured") == 2 and "not measured</td>" in page


HOSTILE = "<script>alert('x')</script>\"'&{{ rows }}"


def test_hostile_strings_stay_text() -> None:
    rows = [replace(row, folder=HOSTILE, device=HOSTILE, architecture=HOSTILE, calibration=HOSTILE) for row in ROWS]
    page = render_front(rows, {"search_s": HOSTILE, "command": HOSTILE, "git_commit": HOSTILE})
    assert "<script" not in page and "script-src" not in page
    assert page.count("&lt;script&gt;alert(") >= 5 * len(rows)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("", r"front\.csv.*empty"),
        ("folder,device\n", r"front\.csv row 1: no column budget_ms"),
    ],
)
def test_a_damaged_front_is_one_line(
    content: str, said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "front.csv").write_text(content)
    with pytest.raises(BadFile, match=said):
        load_front(tmp_path)
    assert main([str(tmp_path)]) == 2
    assert capsys.readouterr().err.count("\n") == 1
