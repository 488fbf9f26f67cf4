"""README's table of what adding a thing touches: every row names kinds that a toy from outside the package proves."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import pytest

import device_profiles
from nas.run.plan import plan_search
from nas.run.settings import SearchSettings
from tests import ROOT

CONTRACTS = {  # kind in README -> where its toy is; None: below
    "device": None,
    "space": None,
    "data set": "test_data_sets.py",
    "strategy": "test_strategies.py",
    "penalty": "test_penalties.py",
    "runtime": "test_runtimes.py",
    "target": "test_targets.py",
    "source of weights": "test_weight_sources.py",
    "logger": "test_loggers.py",
    "block family": "test_block_families.py",
    "searcher": "test_searchers.py",
}


def kinds() -> list[str]:
    """The first column of README's table, a cell may name several."""
    table = (ROOT / "README.md").read_text(encoding="utf-8").split("## Adding to it")[1].split("\n## ")[0]
    cells = re.findall(r"^\| ([^|]+) \|", table, re.MULTILINE)[1:]  # the first is the heading
    return [kind.strip() for cell in cells if set(cell) - {"-"} for kind in cell.split(",")]


def test_every_kind_in_readme_has_a_toy() -> None:
    assert kinds() and set(kinds()) == set(CONTRACTS)
    for file in filter(None, CONTRACTS.values()):
        text = (ROOT / "tests" / "contracts" / file).read_text(encoding="utf-8")
        assert re.search(r"\btoy\b", text, re.IGNORECASE), f"{file} adds no toy from outside the package"
    files = {path.name for path in (ROOT / "tests" / "contracts").glob("test_*.py")}
    assert files == set(filter(None, CONTRACTS.values())), "a contract that README does not name"


def test_a_device_is_two_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shipped = Path(device_profiles.__file__).parent / "data" / "cpu"
    folder = tmp_path / "device_profiles" / "toy"
    shutil.copytree(shipped, folder)
    header = folder / "device.yaml"
    header.write_text(header.read_text().replace("device: cpu\n", "device: toy\n", 1))
    monkeypatch.chdir(tmp_path)
    assert {path.name for path in folder.iterdir()} == {"device.yaml", "kernels.csv"}
    toy, cpu = (plan_search(SearchSettings(device=name, budget_ms=30.0)) for name in ("toy", "cpu"))
    assert toy.table.minimum_ms == cpu.table.minimum_ms and toy.profile.name == "toy"


def test_a_space_is_one_file(tmp_path: Path) -> None:
    space = tmp_path / "toy.yaml"
    space.write_text(
        "name: toy\nfamily: mbconv\nstem_width: 16\nfirst_width: 16\nhead_width: 64\n"
        "stages: [{width: 16, max_blocks: 2, stride: 2}, {width: 24, max_blocks: 2, stride: 2}]\n"
        "kernel_sizes: [3, 5]\nexpand_ratios: [2, 3]\n"
    )
    plan = plan_search(SearchSettings(device="cpu", budget_ms=30.0, space=str(space)))
    assert plan.space.name == "toy" and plan.space.architecture_count > 100
