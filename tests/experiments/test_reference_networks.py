"""Known networks on every device: their sizes, the table, and earlier profiles beside the present ones."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from experiments.reference_networks import NUM_CLASSES, RESOLUTION, main, networks, render
from experiments.results import FOLDER, load_results
from search_space import cost_of, lower
from tests import ROOT

PUBLISHED = {"MobileNetV2": 3.50e6, "ProxylessNAS-Mobile": 4.08e6, "EfficientNet-Lite0": 4.65e6}


@pytest.mark.parametrize(("name", "params"), PUBLISHED.items())
def test_published_networks_have_their_size(name: str, params: float) -> None:
    assert cost_of(lower(networks()[name], RESOLUTION, NUM_CLASSES)).params == pytest.approx(params, rel=2e-3)


def test_the_shipped_table_holds_both_and_readmes_network_is_the_one_that_readme_shows() -> None:
    results = load_results(FOLDER / "reference_networks.json", "reference_networks")
    assert {row["network"] for row in results.rows} == set(networks())
    assert all("earlier_ms" in row and "now_ms" in row for row in results.rows)
    dear = "README's run (quadranet)"
    assert f"\n{networks()[dear]}\n" in (ROOT / "README.md").read_text(encoding="utf-8")
    of_a76 = {str(row["network"]): row for row in results.rows if row["device"] == "cpu"}
    published = of_a76["MobileNetV2"]
    assert float(published["now_ms"] or 0) == pytest.approx(float(published["earlier_ms"] or 0), rel=0.05)
    assert float(of_a76[dear]["now_ms"] or 0) > 1.4 * float(of_a76[dear]["earlier_ms"] or 0)
    assert "| MobileNetV2 | cpu | " in render(results)


def test_a_trial_with_other_profiles(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    shutil.copytree(ROOT / "device_profiles" / "data" / "vpu", tmp_path / "vpu")
    out = tmp_path / "known.json"
    assert main(["--quick", "devices=vpu", f"earlier={tmp_path}", f"out={out}"]) == 0
    rows = load_results(out, "reference_networks").rows
    assert all(row["earlier_ms"] == row["now_ms"] for row in rows) and len(rows) == len(networks())
    assert main(["devices=cpu", f"earlier={tmp_path}"]) == 2
    assert "no profile of cpu" in capsys.readouterr().err
