"""One measurement rescales a profile; the factor of Table III; confidence moves the interval's upper end."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from device_profiles import load_profile
from experiments.profiles.paper_scale import SCALES, TABLE_III, random_choices, table3_scales
from latency_models import fit_latency_model, latency_table
from latency_models.calibrate import main
from latency_models.fuse import fuse
from search_space import UserError, load_space, lower
from search_space.cost import cost_of


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with the JSON of the smallest network."""
    monkeypatch.chdir(tmp_path)
    architecture = load_space("quadranet").smallest().to_dict()
    known = {"architecture": architecture, "resolution": {"deployment": 224, "training": 64}, "num_classes": 10}
    (tmp_path / "architecture.json").write_text(json.dumps(known), encoding="utf-8")
    return tmp_path


def test_the_rescaled_profile_predicts_what_was_measured(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    segments = lower(load_space("quadranet").smallest(), 224, 10)
    before = fit_latency_model(load_profile("cpu")).predict(segments)
    for measured_ms in (30.0, 21.0):  # a second measurement replaces the first
        assert main(["device=cpu", "architecture=architecture.json", f"measured_ms={measured_ms}"]) == 0
        after = fit_latency_model(load_profile("cpu")).predict(segments)
        assert after.latency_ms == pytest.approx(measured_ms, rel=1e-4)
        assert after.high_ms / after.latency_ms == pytest.approx(before.high_ms / before.latency_ms, rel=1e-4)
    assert (here / "device_profiles" / "cpu" / "device.yaml").is_file()
    assert "from now on" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["device=cqu", "architecture=architecture.json", "measured_ms=3"], "Did you mean 'cpu'"),
        (["device=cpu", "architecture=no.json", "measured_ms=3"], "cannot read 'no.json'"),
        (["device=cpu", "architecture=bad.json", "measured_ms=3"], "not JSON"),
        (["device=cpu", "architecture=list.json", "measured_ms=3"], "not the architecture.json"),
        (["device=cpu", "architecture=architecture.json", "measured_ms=nan"], "finite number above 0"),
        (["device=cpu", "architecture=architecture.json", "measured_ms=-3"], "finite number above 0"),
        (["device=cpu", "architecture=architecture.json", "measured_ms=1e7"], "too far apart"),
        (["device=cpu", "architecture=architecture.json"], "missing measured_ms="),
        (
            ["device=cpu", "architecture=architecture.json", "measured_ms=30", "out=bad.json"],
            "cannot make the folder 'bad.json/cpu': Not a directory",
        ),
    ],
)
def test_bad_input_is_one_line_and_writes_nothing(
    here: Path, arguments: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    (here / "bad.json").write_text('{"architecture": ', encoding="utf-8")
    (here / "list.json").write_text("[1, 2]", encoding="utf-8")
    assert main(arguments) == 2
    message = capsys.readouterr().err
    assert said in message and message.count("\n") == 1
    assert not (here / "device_profiles").exists()


@pytest.mark.parametrize("device", ["cpu", "vpu", "gpu"])
def test_the_scales_of_table_iii_are_those_that_ship(device: str) -> None:
    profile = load_profile(device)
    for name, scale in table3_scales(profile).items():
        shipped = profile.header.calibration[name]
        assert scale.factor == pytest.approx(shipped.factor, rel=1e-3) and scale.unpriced == shipped.unpriced
    segments = lower(load_space("quadranet").largest(), 224, 1000)
    ratio = (
        fit_latency_model(profile, "table3").predict(segments).latency_ms
        / fit_latency_model(profile).predict(segments).latency_ms
    )
    assert ratio == pytest.approx(profile.header.calibration["table3"].factor, rel=1e-9)


@pytest.mark.parametrize("row", TABLE_III, ids=lambda row: row.name)
def test_random_networks_have_the_macs_of_their_row(row) -> None:  # type: ignore[no-untyped-def]
    from search_space import GatePath

    space = load_space(row.space)
    choices = random_choices(space, row.macs)
    assert choices.shape == (2000, len(space.slots))
    for path in choices[::200]:
        macs = cost_of(lower(space.architecture(GatePath(tuple(path.tolist()))), 224, 1000)).macs
        assert abs(macs / row.macs - 1) <= 0.05
    assert len(np.unique(choices, axis=0)) > 1000


def test_a_scale_leaves_out_the_kinds_that_it_names_and_no_other() -> None:
    profile = load_profile("vpu")
    whole, lean = fit_latency_model(profile, "table3"), fit_latency_model(profile, "table3_nn_meter")
    ratio = lean.scale.factor / whole.scale.factor
    kinds = set()
    for segment in lower(load_space("quadranet").largest(), 224, 1000):
        for kernel in fuse(segment.nodes, profile.header.fusion):
            left_out = kernel.price_kind in SCALES["table3_nn_meter"]
            kinds.add((kernel.price_kind, left_out))
            wanted = 0.0 if left_out else whole.kernel_price(kernel).ms * ratio
            assert lean.kernel_price(kernel).ms == pytest.approx(wanted)
    assert {kind for kind, left_out in kinds if left_out} == {"layer_norm", "gelu", "mul"}
    assert {"dwconv", "add"} <= {kind for kind, left_out in kinds if not left_out}


def test_beyond_the_edge_the_nearest_networks_stand_in() -> None:
    space = load_space("quadranet")
    assert random_choices(space, 2e9).shape == (2000, 16)


def test_more_confidence_asks_for_more_room_and_too_much_is_refused() -> None:
    profile = load_profile("cpu")
    segments = lower(load_space("quadranet").largest(), 224, 1000)
    ends = [fit_latency_model(profile, confidence=c).predict(segments).high_ms for c in (0.6, 0.8, 0.9, 0.98)]
    assert ends == sorted(ends) and ends[0] < ends[-1]
    assert fit_latency_model(profile, confidence=0.9).predict(segments).coverage == pytest.approx(0.8)
    with pytest.raises(UserError, match="out of reach"):
        fit_latency_model(load_profile("gpu"), confidence=0.99)
    with pytest.raises(UserError, match=r"not between 0\.5 and 1"):
        fit_latency_model(profile, confidence=1.5)
    table = latency_table(fit_latency_model(profile, confidence=0.9), load_space("quadranet"), 224, 1000)
    assert table.upper_end().maximum_ms == pytest.approx(
        fit_latency_model(profile, confidence=0.9).predict(segments).high_ms, rel=1e-9
    )
