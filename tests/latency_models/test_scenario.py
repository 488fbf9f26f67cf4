"""Scenarios: other guesses at kinds that were never timed, taken for true one by one, and chosen by a measurement."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path

import pytest

from device_profiles import DeviceProfile, Scenario, load_profile, save_profile
from device_profiles.header import parse_header, render_header
from latency_models import fit_latency_model
from latency_models.calibrate import main
from latency_models.scenario import assume, settle
from search_space import load_space, lower
from search_space.errors import BadFile, UnknownName
from search_space.lower import Segment
from tests import ROOT


@pytest.fixture(scope="module")
def profile() -> DeviceProfile:
    return load_profile("vpu")


@pytest.fixture(scope="module")
def network() -> tuple[Segment, ...]:
    return lower(load_space("quadranet").smallest(), 224, 10)


def predicted(profile: DeviceProfile, network: tuple[Segment, ...]) -> float:
    return fit_latency_model(profile).predict(network).latency_ms


def test_a_header_with_scenarios_is_read_back_and_one_without_is_written_as_before(profile: DeviceProfile) -> None:
    assert parse_header(render_header(profile.header), "here") == profile.header
    without = render_header(replace(profile.header, scenarios={}))
    assert "scenarios" not in without and parse_header(without, "here").scenarios == {}


def test_a_scenario_prices_only_kinds_that_the_profile_prices(profile: DeviceProfile) -> None:
    models = {kind: model for kind, model in profile.header.models.items() if kind != "gelu"}
    rendered = render_header(replace(profile.header, models=models))
    with pytest.raises(BadFile, match=r"here: scenarios.one_pass prices 'gelu', which `models` does not"):
        parse_header(rendered, "here")


def test_unknown_features_of_a_scenario_are_refused(profile: DeviceProfile) -> None:
    bad = {"bad": Scenario({"gelu": {"outputs": 1.0}}, "a slip of the pen")}
    with pytest.raises(BadFile, match="unknown feature 'outputs'"):
        fit_latency_model(replace(profile, header=replace(profile.header, scenarios=bad)))


def test_an_assumed_scenario_prices_rows_and_forms_alike(profile: DeviceProfile) -> None:
    assumed = assume(profile, "one_pass")
    models = assumed.header.models
    assert assumed.header.scenarios == {} and len(assumed.rows) == len(profile.rows)
    model = fit_latency_model(assumed)
    changed = [row for row in assumed.rows if row.kernel.price_kind in ("gelu", "layer_norm")]
    assert changed
    for row in changed:
        assert row.latency_ms == pytest.approx(model.form_ms(row.kernel), rel=1e-4)
    others = [row for row in profile.rows if row.kernel.price_kind not in ("gelu", "layer_norm")]
    assert set(others) <= set(assumed.rows)
    assert models["conv_1x1"] == profile.header.models["conv_1x1"]
    with pytest.raises(UnknownName, match="Did you mean 'one_pass'"):
        assume(profile, "onepass")


def test_what_is_settled_is_priced_the_same_and_less_uncertain(
    profile: DeviceProfile, network: tuple[Segment, ...]
) -> None:
    before, after = (fit_latency_model(p).predict(network) for p in (profile, settle(profile)))
    assert after.latency_ms == before.latency_ms
    assert before.low_ms < after.low_ms and after.high_ms < before.high_ms


@pytest.mark.parametrize(("chosen", "factor"), [("one_pass", 1.04), ("slow_gelu", 0.97), ("as priced", 1.02)])
def test_one_timed_network_chooses_the_scenario(
    chosen: str,
    factor: float,
    profile: DeviceProfile,
    network: tuple[Segment, ...],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    known = {"architecture": load_space("quadranet").smallest().to_dict(), "resolution": 224, "num_classes": 10}
    (tmp_path / "architecture.json").write_text(json.dumps(known), encoding="utf-8")
    truth = settle(profile) if chosen == "as priced" else assume(profile, chosen)
    measured_ms = factor * predicted(truth, network)
    assert main(["device=vpu", "architecture=architecture.json", f"measured_ms={measured_ms}"]) == 0
    assert f"'{chosen}' is nearest" in capsys.readouterr().out
    saved = load_profile("vpu")
    assert saved.header.scenarios == {} and saved.header.models == truth.header.models
    assert saved.header.calibration["measured"].factor == pytest.approx(factor, rel=1e-3)
    assert predicted(saved, network) == pytest.approx(measured_ms, rel=1e-3)
    assert chosen in saved.header.accuracy["calibrated"]


def test_a_network_that_no_scenario_changes_chooses_none(
    profile: DeviceProfile, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    known = {"architecture": load_space("proxyless").smallest().to_dict(), "resolution": 224, "num_classes": 10}
    (tmp_path / "architecture.json").write_text(json.dumps(known), encoding="utf-8")
    assert main(["device=vpu", "architecture=architecture.json", "measured_ms=20"]) == 0
    assert "nearest" not in capsys.readouterr().out
    assert load_profile("vpu").header.scenarios == profile.header.scenarios


def test_a_scenario_in_a_file_is_found_by_the_predictor(
    profile: DeviceProfile, network: tuple[Segment, ...], tmp_path: Path
) -> None:
    saved = save_profile(tmp_path / "vpu", profile.header, profile.rows)
    assert saved.digest == profile.digest
    assert predicted(saved, network) == predicted(profile, network)


def test_the_table_of_the_docs_is_what_the_profile_says(profile: DeviceProfile) -> None:
    text = (ROOT / "docs" / "latency.md").read_text(encoding="utf-8")
    row = r"^\| the (\w+)(?: in scenario `(\w+)`| network) \| ([\d.]+) \| ([\d.]+) \| (\d+ %)"
    rows = re.findall(row, text, re.MULTILINE)
    assert len(rows) == 6
    space = load_space("quadranet")
    ends = {"smallest": space.smallest(), "largest": space.largest()}
    for end, scenario, ms, interval, derived in rows:
        model = fit_latency_model(assume(profile, scenario) if scenario else profile)
        segments = lower(ends[end], 224, 1000)
        found = model.predict(segments)
        assert (f"{found.latency_ms:.3g}", f"{found.low_ms:.1f}..{found.high_ms:.1f}") == (ms, interval)
        assert f"{100 * model.support(segments).derived:.0f} %" == derived
