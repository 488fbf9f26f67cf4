"""Times of a Raspberry Pi 5 beside those of the A76's profiles."""

from __future__ import annotations

import csv
from pathlib import Path

import pytest

from experiments.raspberry_pi import MOST, PI, main, off
from experiments.results import FOLDER, load_results
from tests import SHARED

FIELD = SHARED / "latency" / "field" / "raspberry_pi5_networks.csv"


def test_the_table_is_what_the_command_finds(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "found.json"
    assert main([f"out={out}"]) == 0
    rows = load_results(out, "raspberry_pi").rows
    assert rows == load_results(FOLDER / "raspberry_pi.json", "raspberry_pi").rows
    assert "They make no profile: by the factor of the others a network is up to 46 % off" in capsys.readouterr().out
    assert sum(abs(off(row)) > MOST for row in rows) == 3
    # two networks of one precision would each be predicted by the other's factor
    fp32 = {str(row["network"]): row for row in rows if row["precision"] == "fp32"}
    others = [fp32[name] for name in ("SqueezeNet 1.0", "ResNet-18")]
    factor = (others[0]["pi_ms"] / others[0]["a76_ms"] * others[1]["pi_ms"] / others[1]["a76_ms"]) ** 0.5
    assert fp32["MobileNetV2"]["without_ms"] == pytest.approx(factor * fp32["MobileNetV2"]["a76_ms"], abs=1e-3)


@pytest.mark.skipif(not FIELD.is_file(), reason="the collected table is not here (NAS_SHARED)")
def test_the_facts_are_those_of_the_collected_table() -> None:
    with FIELD.open(encoding="utf-8", newline="") as file:
        known = list(csv.DictReader(file))
    times = {float(row[column]) for row in known for column in ("latency_ms", "fp32_latency_ms") if row[column]}
    assert {one.ms for one in PI} <= times
