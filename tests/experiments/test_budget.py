"""The budgets' experiment: its jobs, its table from made-up rows, and a trial of it from end to end."""

from __future__ import annotations

from pathlib import Path

import pytest

from experiments.budget import DEVICES, KINDS, SHARES, jobs_of, main, render
from experiments.results import NOT_MEASURED, Provenance, Results, Row, load_results

SHIPPED = Path(__file__).parents[2] / "experiments" / "results" / "budget.json"
PROVENANCE = Provenance("python -m experiments.budget", "today", None, "a machine", 1, None, {})


def row(used: float, kind: str = "single", device: str = "cpu", share: float = SHARES[0], binds: bool = True) -> Row:
    return {
        "job": f"{kind} {device} {share} {used}", "kind": kind, "device": device, "seed": 0, "share": share,
        "used": used, "binds": binds, "expected_first": 1.2, "expected_mean_of_last_third": 0.99, "run_s": 5.0,
    }  # fmt: skip


def test_every_budget_device_and_seed_has_a_job_of_its_own_name() -> None:
    jobs = jobs_of(KINDS, "quadranet", 3, False)
    assert len({job.name for job in jobs}) == len(jobs) == 3 * len(DEVICES) * (1 + len(SHARES))
    for kind in KINDS:
        cells = [(j.device, s, j.seed) for j in jobs_of([kind], "quadranet", 3, False) for s in j.shares]
        assert len(set(cells)) == len(cells) == 3 * len(DEVICES) * len(SHARES)
    assert [job.seed for job in jobs] == sorted(job.seed for job in jobs)


def test_the_table_counts_what_is_over_and_says_what_was_not_measured() -> None:
    rows = (row(0.98), row(1.001, share=SHARES[1]), row(0.9, share=SHARES[2]), row(0.5, binds=False))
    table = render(Results("budget", PROVENANCE, {"space": "quadranet"}, rows))
    (cpu,) = [line for line in table.splitlines() if line.startswith("| single | cpu")]
    assert cpu == "| single | cpu | 3 | 1 | 100.10% | 98.00% | 90.00% | 1 | 1.20 to 1.20 | 0.990 to 0.990 | 5 |"
    assert NOT_MEASURED in table.split("| single | gpu")[1].splitlines()[0]


def test_a_trial_keeps_its_budgets_and_is_gone_on_with(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "budget.json"
    assert main(["--quick", "kinds=front", f"out={out}"]) == 0
    found = load_results(out, "budget").rows
    assert [r["kind"] for r in found] == ["front", "front"]
    assert all(0.97 <= float(r["used"] or 0) <= 1 for r in found)

    assert main(["--quick", "kinds=front", f"out={out}"]) == 0
    assert load_results(out, "budget").rows == found
    assert main(["kinds=all"]) == 2
    assert "'all' is none of front, single" in capsys.readouterr().err


def test_no_shipped_network_is_over_its_budget() -> None:
    rows = [r for r in load_results(SHIPPED, "budget").rows if r["binds"]]
    assert len(rows) >= 60 and max(float(r["used"] or 0) for r in rows) <= 1
