"""What a budget buys: the largest network of a small space against all of them, the table, and a trial."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from device_profiles import load_profile
from experiments.budget_buys import bought, largest, macs_above, main, render
from experiments.results import FOLDER, load_results
from latency_models import fit_latency_model, latency_table
from nas.choose.limits import limits_of
from nas.run.settings import LimitSettings
from search_space import GatePath, SearchSpace, Stage, cost_of, load_space, lower

SMALL = SearchSpace("small", "quadra", 8, (Stage(8, 2), Stage(16, 2)), kernel_sizes=(3, 7), expand_ratios=(2, 3))
RESULTS = FOLDER / "budget_buys.json"


@pytest.mark.parametrize("score", ["macs", "params"])
def test_it_is_the_largest_of_all_networks(score: str) -> None:
    table = latency_table(fit_latency_model(load_profile("cpu")), SMALL, 224, 1000)
    limits = limits_of(SMALL, 224, 1000, LimitSettings())
    counts = [len(slot.candidates) for slot in SMALL.slots]
    everything = np.array(list(np.ndindex(*counts)))
    budget_ms = (table.minimum_ms + table.maximum_ms) / 2
    within = everything[table.paths_ms(everything) <= budget_ms]
    sizes = limits.total(score, within)
    found = cost_of(lower(largest(score, limits, table, budget_ms), 224, 1000))
    assert 0 < len(within) < len(everything) and getattr(found, score) == sizes.max()


def test_a_budget_below_the_fastest_buys_nothing() -> None:
    model = fit_latency_model(load_profile("cpu"))
    table = latency_table(model, SMALL, 224, 1000)
    row = bought(limits_of(SMALL, 224, 1000, LimitSettings()), model, table, table.minimum_ms / 2)
    assert row == {"budget_ms": table.minimum_ms / 2, "fastest_ms": pytest.approx(table.minimum_ms)}


def test_macs_of_large_maps() -> None:
    """Of maps of 56 to 7 pixels only the last stage is small; all of a network of 14 pixels or fewer is."""
    space = load_space("quadranet")
    segments = lower(space.architecture(GatePath((0,) * len(space.slots))), 224, 1000)
    last = sum(n.spec.macs for s in segments for n in s.nodes if n.spec.out_height <= 7)
    assert macs_above(segments) == cost_of(segments).macs - last and 0 < last < cost_of(segments).macs
    assert macs_above(segments, 224) == 0


def test_shipped_rows_keep_their_budgets_and_lite_buys_more_where_layernorm_is_dear() -> None:
    results = load_results(RESULTS, "budget_buys")
    macs = {(r["space"], r["device"], r["budget_ms"]): float(r.get("macs") or 0) for r in results.rows}
    assert all(float(r["predicted_ms"] or 0) <= float(r["budget_ms"] or 0) for r in results.rows if "macs" in r)
    for (space, device, budget_ms), found in macs.items():
        if space == "quadranet" and device != "gpu_eager_fp32":
            assert macs["quadranet_lite", device, budget_ms] > found
    assert "| cpu_int8, 25 ms | quadranet | none: the fastest takes " in render(results)


def test_a_trial(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "bought.json"
    assert main(["--quick", "devices=vpu", "spaces=quadranet_lite", "budgets=20", f"out={out}"]) == 0
    [row] = load_results(out, "budget_buys").rows
    assert row["device"] == "vpu" and 0 < float(row["predicted_ms"] or 0) <= 20
    for wrong, said in (("budgets=25,x", "numbers of ms above 0"), ("devices=toaster", "toaster"), ("spaces=no", "no")):
        assert main([wrong]) == 2
        assert said in capsys.readouterr().err
