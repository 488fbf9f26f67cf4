"""The host's budgets: what the kept results say, and what the table says of a budget that is broken."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from experiments.host_budgets import main, render
from experiments.results import FOLDER, load_results
from tests import ROOT


@pytest.mark.parametrize("path", sorted(FOLDER.glob("host_budgets*.json")), ids=lambda path: path.stem)
def test_every_measured_time_stands_beside_its_budget(path: Path) -> None:
    results = load_results(path, "host_budgets")
    table = render(results)
    used = [100 * float(row["scaled_ms"] or 0) / float(row["budget_ms"] or 1) for row in results.rows]
    docs = (ROOT / "docs/latency.md").read_text(encoding="utf-8")
    assert f"{min(used):.1f} to {max(used):.1f} %" in docs
    assert all(f"| {row['budget_ms']:.2f} |" in table for row in results.rows)
    late = replace(results, rows=[{**row, "scaled_ms": row["budget_ms"] * 1.01} for row in results.rows])  # type: ignore[operator,arg-type]
    assert f"within the budget: 0 of {len(results.rows)}" in render(late)


def test_without_a_profile_of_this_machine_it_says_how_to_get_one(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["device=no_such_host"]) == 2
    assert "no_such_host" in capsys.readouterr().err
