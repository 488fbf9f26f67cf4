"""The shipped supernet: networks of all latencies are drawn, gates are what was measured, the card says what it is."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from experiments.pretrain import LEVELS, draw, fit_scores, held_out, main, regions
from experiments.pretrain_card import render
from experiments.results import FOLDER, load_results
from nas.run.plan import Plan, plan_search
from nas.run.settings import SearchSettings, settings_from_dict
from nas.supernet.origin import origin_of


@pytest.fixture(scope="module")
def plan() -> Plan:
    asked: dict[str, Any] = {"budget_ms": 1000.0, "data": {"name": "digits", "resolution": 32}}
    return plan_search(settings_from_dict(SearchSettings, asked))


def test_every_level_of_latency_is_drawn_as_often(plan: Plan) -> None:
    networks = draw(regions(plan), np.random.default_rng(0), 10 * LEVELS)
    table = plan.table
    share = (table.paths_ms(networks) - table.minimum_ms) / (table.maximum_ms - table.minimum_ms)
    counts, _ = np.histogram(share, LEVELS, (0.0, 1.0 + 1e-9))
    assert len(networks) == 10 * LEVELS and counts.min() >= 9 and counts.max() <= 11
    again = draw(regions(plan), np.random.default_rng(0), 10 * LEVELS)
    assert (networks == again).all()


def test_gates_are_the_points_that_candidates_add(plan: Plan) -> None:
    widths = [len(slot.candidates) for slot in plan.space.slots]
    rng = np.random.default_rng(1)
    networks = draw(regions(plan), rng, 1500)
    points = rng.normal(0.0, 1.0, (len(widths), max(widths)))
    accuracies = 0.6 + points[np.arange(len(widths)), networks].sum(1) / 100
    scores = fit_scores(widths, networks, accuracies)
    found = scores[np.arange(len(widths)), networks].sum(1)
    assert np.corrcoef(found, accuracies)[0, 1] > 0.999
    assert np.polyfit(found, 100 * accuracies, 1)[0] == pytest.approx(1.0, abs=0.02)  # in points
    everywhere, at_equal_latency = held_out(plan, networks, accuracies)
    assert everywhere > 0.99 and at_equal_latency > 0.99
    noise, _ = held_out(plan, networks, rng.normal(0.6, 0.01, len(networks)))
    assert abs(noise) < 0.2  # what the fit has seen does not leak into what it is tested on


def test_the_card_is_that_of_the_file() -> None:
    results = load_results(FOLDER / "pretrain.json", "pretrain")
    path = origin_of("pretrained").path
    assert path.with_suffix(".md").read_text(encoding="utf-8") == render(results) + "\n"
    (supernet,) = (row for row in results.rows if row["kind"] == "supernet")
    assert supernet["bytes"] == path.stat().st_size


@pytest.mark.slow
def test_the_whole_in_miniature(tmp_path: Path) -> None:
    out = tmp_path / "pretrain.json"
    assert main(["--quick", f"out={out}", f"folder={tmp_path / 'run'}"]) == 0
    rows = load_results(out, "pretrain").rows
    assert [row["kind"] for row in rows] == ["supernet", *["found"] * 4]
    origin = origin_of(str(tmp_path / "run" / "supernet.safetensors"))
    assert origin.settings.data.name == "digits" and origin.gates is not None
