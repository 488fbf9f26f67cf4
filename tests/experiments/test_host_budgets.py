"""The host's budgets: what the kept results say, and what the table says of a budget that is broken."""

from __future__ import annotations

from dataclasses import replace

import pytest

from experiments.host_budgets import main, render
from experiments.results import FOLDER, load_results


def test_every_measured_time_stands_beside_its_budget() -> None:
    results = load_results(FOLDER / "host_budgets.json", "host_budgets")
    table = render(results)
    assert all(f"| {row['budget_ms']:.2f} |" in table for row in results.rows)
    late = replace(results, rows=[{**row, "scaled_ms": row["budget_ms"] * 1.01} for row in results.rows])  # type: ignore[operator,arg-type]
    assert f"within the budget: 0 of {len(results.rows)}" in render(late)


def test_without_a_profile_of_this_machine_it_says_how_to_get_one(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["device=no_such_host"]) == 2
    assert "no_such_host" in capsys.readouterr().err
