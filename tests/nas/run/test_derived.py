"""A derived price never sounds like a measured one, in any place where a latency stands; and confidence counts it."""

from __future__ import annotations

import json
from dataclasses import asdict, replace
from pathlib import Path

import pytest

from device_profiles import load_profile, save_profile
from latency_models.support import KernelSupport, Support
from nas.command.summary import one_network
from nas.compare import _compared
from nas.report.front import render_front
from nas.report.page import render_report
from nas.report.run import Run
from nas.run.chosen import LatencyModels, chosen_by_search, thin_candidates
from nas.run.front_table import FRONT, FrontRow, load_front, save_front_table
from nas.run.log import GATES_LOG, SEARCH_LOG
from nas.run.plan import plan_search
from nas.run.result import SearchResult, load_result, save_result
from nas.run.settings import SearchSettings
from search_space import UserError
from search_space.tables import make_table
from tests.nas.run.test_result import sample_result

WORDS = "mostly derived prices (52 %)"
GELU = KernelSupport("gelu", 1, "derived", 0, 0.52, 0.52, 0.7)
FEW = KernelSupport("dwconv", 7, "fitted", 7, 0.25, 0.2, 0.1)
MUCH = Support(0.52, (GELU, FEW), ("image of 64 pixels a side (fitted: 224)",))
LITTLE = Support(0.05, (replace(GELU, share=0.05, untimed=0.05, width=0.05),))


def result_with(support: Support | None) -> SearchResult:
    result = sample_result()
    return replace(result, latency={name: replace(row, support=support) for name, row in result.latency.items()})


def page_of(result: SearchResult) -> str:
    log, gates = (make_table([], schema) for schema in (SEARCH_LOG, GATES_LOG))
    return render_report(Run.of(result, log, gates, frozenset()))


@pytest.mark.parametrize(("support", "said"), [(MUCH, True), (LITTLE, False), (None, False)])
def test_the_last_lines_of_a_search(support: Support | None, said: bool) -> None:
    lines = one_network(result_with(support), Path("runs/mine")).splitlines()
    assert (WORDS in lines[-1]) == said and ("derived" in lines[-1]) == said
    width = "note: GELU is 70 % of the interval's width: it was not measured on this device; time the network there: "
    command = "python -m latency_models.calibrate device=vpu architecture=runs/mine/architecture.json measured_ms="
    assert (f"{width}{command}" in lines[0]) == said


def test_candidates_that_rest_on_little_are_named_at_the_end_and_on_the_page() -> None:
    result = result_with(LITTLE)
    assert result.budget is not None and not result.budget.thin
    first, *_ = (str(block) for stage in result.architecture.stages for block in stage)
    count = [str(block) for stage in result.architecture.stages for block in stage].count(first)
    named = replace(result, budget=replace(result.budget, thin={first: 0.144}))
    words = f"{first} ({count} block{'s' * (count > 1)}) 14 %"
    said = f"of the predicted time, this is derived or rests on fewer than 20 measured rows: {words}"
    assert f"note: {said}" in one_network(named, Path("x")).splitlines()
    assert words in page_of(named) and "rests on fewer than" not in page_of(result) + one_network(result, Path("x"))


@pytest.mark.parametrize(("support", "said"), [(MUCH, True), (LITTLE, False), (None, False)])
def test_pages_and_tables(support: Support | None, said: bool, tmp_path: Path) -> None:
    result = result_with(support)
    page = page_of(result)
    assert page.count(WORDS) == said
    share = {MUCH: "52 % of the time", LITTLE: "5 % of the time", None: "not stated"}[support]
    assert page.count(f"<td>{share}</td>") == 2  # a row a device
    row = FrontRow.of(result, ".")
    assert row.derived == (support.derived if support else None)
    assert (f"{WORDS}</td>" in render_front([row])) == said
    save_front_table(tmp_path, [row])
    assert load_front(tmp_path) == [row]
    save_result(result, tmp_path / "architecture.json")
    assert load_result(tmp_path / "architecture.json") == result
    assert (f"ms, {WORDS}" in _compared([tmp_path], None)) == said


def test_files_of_earlier_versions_are_read(tmp_path: Path) -> None:
    path, record = tmp_path / "architecture.json", result_with(MUCH).to_dict()
    for row in record["latency"].values():
        del row["support"]
    path.write_text(json.dumps(record))
    assert load_result(path) == result_with(None)
    save_front_table(tmp_path, [FrontRow.of(load_result(path), ".")])
    table = (tmp_path / FRONT.name).read_text().splitlines()
    assert table[0].endswith(",derived")
    (tmp_path / FRONT.name).write_text("\n".join(line.rpartition(",")[0] for line in table) + "\n")
    assert load_front(tmp_path)[0].derived is None


def test_notes_name_width_rows_and_range() -> None:
    assert [note.partition(": ")[2].partition("; time")[0] for note in MUCH.notes("vpu")] == [
        "GELU is 70 % of the interval's width: it was not measured on this device",
        "of the predicted time, this is derived or rests on fewer than 20 measured rows: GELU 52 % (derived), "
        "7x7 depthwise 20 % (7 rows)",
        "outside of what its profile was fitted to: image of 64 pixels a side (fitted: 224)",
    ]


@pytest.mark.parametrize("judged", [10.0, 1.0])
def test_confidence_refuses_a_budget_that_derived_prices_keep_on_paper(
    judged: float, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The shipped `cpu` with a derived LayerNorm that takes most of the time and may be off tenfold.

    Three times what the fastest network is predicted to take is far more than it needs, but for such a doubt.
    """
    cpu = load_profile("cpu")
    planted = {"coefficients": {"output_elements": 60.0}, "origin": "derived", "support": {}, "widen": judged}
    norm = replace(cpu.header.models["layer_norm"], **planted, judged="planted")  # type: ignore[arg-type]
    rows = [row for row in cpu.rows if row.kernel.price_kind != "layer_norm"]
    models = {**cpu.header.models, "layer_norm": norm}
    save_profile(
        tmp_path / "doubted", replace(cpu.header, device="doubted", models=models, kernel_rows=len(rows)), rows
    )
    monkeypatch.setenv("NAS_DEVICE_PROFILES", str(tmp_path))
    fastest = plan_search(SearchSettings(device="doubted", budget_ms=1e4)).table.minimum_ms
    asked = SearchSettings(device="doubted", budget_ms=3 * fastest)
    plan = plan_search(asked)
    assert any("mostly derived prices" in note for note in plan.notes)
    path = plan.space.path(plan.space.smallest())
    chosen = chosen_by_search(plan, path, plan.num_classes, LatencyModels.of([plan]))
    support = chosen.latency["doubted"].support
    assert support is not None and support.derived > 0.5 and support.kernels[0].kind == "layer_norm"
    by_candidate = thin_candidates(plan.model, chosen.architecture, chosen.segments)
    assert list(by_candidate) == [str(chosen.architecture.stages[0][0])]
    assert chosen.budget is not None and chosen.budget.thin == by_candidate
    fixed = [segment for segment in chosen.segments if segment.slot is None]
    of_fixed = (
        plan.model.support(fixed).thin * plan.model.predict(fixed).latency_ms / chosen.latency["doubted"].latency_ms
    )
    assert support.thin == pytest.approx(of_fixed + sum(by_candidate.values()))
    if judged > 1:
        with pytest.raises(UserError, match=r"budget_ms=.* cannot be met: .*upper end at confidence 0\.9"):
            plan_search(replace(asked, confidence=0.9))
    else:
        assert plan_search(replace(asked, confidence=0.9)).table.minimum_ms < asked.budget_ms


def test_the_row_of_a_front_has_every_column() -> None:
    assert tuple(asdict(FrontRow.of(result_with(MUCH), "."))) == FRONT.names
