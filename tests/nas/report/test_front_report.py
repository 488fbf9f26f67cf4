"""The front's table and page say what uses the budgets and on which scale the ms are. No search runs here."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from nas.report.__main__ import main
from nas.report.front import Row, front_table, load_front, render_front, write_front
from search_space.errors import BadFile

PROVENANCE: dict[str, Any] = {"seconds": {"shared": 1.0}}
ROWS = [
    Row(
        f"{device}-{budget}ms",
        device,
        budget,
        0.9 * budget,
        0.9,
        True,
        300_000_000,
        5_000_000,
        2**20,
        0.9,
        test,
        "k3e3",
    )
    for device, budget, test in (("vpu", 30, 0.9), ("vpu", 45, 0.95), ("cpu", 20, 0.8))
]


def test_plain_rows_say_nothing_of_scale_or_upper_end(tmp_path: Path) -> None:
    write_front(tmp_path, ROWS, PROVENANCE)
    both = front_table(tmp_path) + (tmp_path / "report.html").read_text()
    assert "not real time" not in both and "upper end" not in both
    assert "vpu: predicted 40.5 ms of 45 ms (90.0% used), 300M MACs" in both


@pytest.mark.parametrize("calibration", ["table3", "table3_nn_meter"])
def test_another_calibration_is_not_real_time(tmp_path: Path, calibration: str) -> None:
    rows = [replace(row, calibration=calibration) for row in ROWS]
    write_front(tmp_path, rows, PROVENANCE)
    note = f", calibration={calibration}: not real time"
    lines = front_table(tmp_path).splitlines()[:-1]
    assert len(lines) == 3 and all(f"(90.0% used{note}), " in line for line in lines)
    page = (tmp_path / "report.html").read_text()
    assert f"3 budgets on 2 devices, one supernet{note}</h1>" in page
    assert page.count(f">predicted ms{note}<") == 2  # a picture a device
    assert f"<td>40.50 ms{note}</td>" in page


def test_only_the_rows_on_another_scale_are_named() -> None:
    page = render_front([*ROWS[:2], replace(ROWS[2], calibration="table3")], PROVENANCE)
    assert page.count(">predicted ms<") == 1 and page.count(">predicted ms, calibration=table3") == 1
    assert "<td>40.50 ms</td>" in page and "<td>18.00 ms, calibration=table3: not real time</td>" in page


def test_with_confidence_the_upper_end_uses_the_budget(tmp_path: Path) -> None:
    rows = [replace(row, used=0.989, confidence=0.9) for row in ROWS]
    write_front(tmp_path, rows, PROVENANCE)
    assert "vpu: predicted 40.5 ms of 45 ms (98.9% used by the upper end at confidence 0.9), " in front_table(tmp_path)
    page = (tmp_path / "report.html").read_text()
    assert "Budgets are used by the upper end at confidence 0.9." in page
    assert page.count("<td>98.9 % by the upper end at confidence 0.9</td>") == 3


def test_a_front_of_before_is_read(tmp_path: Path) -> None:
    write_front(tmp_path, ROWS, PROVENANCE)
    content = json.loads((tmp_path / "front.json").read_text())
    for target in content["targets"]:
        del target["confidence"], target["calibration"]
    (tmp_path / "front.json").write_text(json.dumps(content))
    assert load_front(tmp_path) == ROWS


HOSTILE = "<script>alert('x')</script>\"'&{{ rows }}"


def test_hostile_strings_stay_text() -> None:
    rows = [replace(row, folder=HOSTILE, device=HOSTILE, architecture=HOSTILE, calibration=HOSTILE) for row in ROWS]
    page = render_front(rows, {"seconds": {HOSTILE: 1.0}, "command": HOSTILE, "git_commit": HOSTILE})
    assert "<script" not in page and "script-src" not in page
    assert page.count("&lt;script&gt;alert(") >= 5 * len(rows)


def test_the_command_renders_a_front_again(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_front(tmp_path, ROWS, PROVENANCE)
    page = (tmp_path / "report.html").read_text()
    (tmp_path / "report.html").unlink()
    assert main([str(tmp_path)]) == 0
    assert (tmp_path / "report.html").read_text() == page
    assert capsys.readouterr().out.strip() == str(tmp_path / "report.html")
    (tmp_path / "front.json").write_text('{"schema": 1, "targets": [{"folder": "vpu-30ms"}]}')
    assert main([str(tmp_path)]) == 2
    message = capsys.readouterr().err
    assert "front.json" in message and message.count("\n") == 1


@pytest.mark.parametrize(("field", "value"), [("budget_ms", -1), ("test", 1.5), ("device", 3), ("macs", None)])
def test_a_field_that_cannot_be_is_named(tmp_path: Path, field: str, value: object) -> None:
    write_front(tmp_path, ROWS, PROVENANCE)
    content = json.loads((tmp_path / "front.json").read_text())
    content["targets"][1][field] = value
    (tmp_path / "front.json").write_text(json.dumps(content))
    with pytest.raises(BadFile, match=rf"front\.json.*{field}"):
        load_front(tmp_path)
