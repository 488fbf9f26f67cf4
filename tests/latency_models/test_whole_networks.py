"""Laws of a device known by a few networks: mixes are recovered, what is claimed is honest, bad files are refused."""

from __future__ import annotations

import json
import random
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from device_profiles import Calibration, DeviceProfile, FusionRules, Kernel, load_profile
from latency_models import LatencyModel, fit_latency_model, fuse
from latency_models.fit.whole_networks import Measurement, _Mix, few_profile, mix, pieces
from latency_models.fit.whole_networks_file import profile_from_few, read_measurements
from search_space import Architecture, Kind, LayerSpec, UserError, available_spaces, load_space, lower
from search_space.errors import BadFile

DEVICES = ("cpu", "cpu_2420mhz", "cpu_int8", "gpu", "gpu_eager_fp32", "vpu")
KNOWN = [load_profile(device) for device in DEVICES]
MODELS = {profile.name: fit_latency_model(profile) for profile in KNOWN}
HIDDEN = {"cpu": 0.3, "gpu": 2.0}
CONSTANT_MS = 1.5


def hidden_ms(architecture: Architecture, resolution: int = 224, classes: int = 1000) -> float:
    """A device that is 0.3 cpu + 2 gpu + 1.5 ms."""
    segments = lower(architecture, resolution, classes)
    return sum(w * MODELS[name].predict(segments).latency_ms for name, w in HIDDEN.items()) + CONSTANT_MS


def architectures(count: int, seed: int, spaces: Sequence[str] = ("quadranet", "proxyless")) -> list[Architecture]:
    rng = random.Random(seed)
    return [load_space(rng.choice(spaces)).random_architecture(rng) for _ in range(count)]


def measured(count: int, noise: float = 0.0, seed: int = 0) -> list[Measurement]:
    rng = np.random.default_rng(seed)
    return [
        Measurement(a, 224, 1000, hidden_ms(a) * float(np.exp(noise * rng.normal())))
        for a in architectures(count, seed)
    ]


def model_of(measurements: Sequence[Measurement]) -> LatencyModel:
    header, rows = few_profile("mine", measurements, KNOWN)
    return fit_latency_model(DeviceProfile("mine", header, tuple(rows), "no file"))


def errors(model: LatencyModel, count: int = 40, resolution: int = 224, classes: int = 1000) -> float:
    """Mean absolute relative error on networks that were not measured."""
    found = []
    for architecture in architectures(count, 99):
        predicted = model.predict(lower(architecture, resolution, classes)).latency_ms
        found.append(abs(predicted / hidden_ms(architecture, resolution, classes) - 1))
    return float(np.mean(found))


def test_a_mix_is_recovered() -> None:
    rng = np.random.default_rng(0)
    known = np.exp(rng.normal(size=(4, 200)))
    weights, constant = mix(known, 0.3 * known[0] + 2 * known[2] + 1.5)
    np.testing.assert_allclose(weights, [0.3, 0, 2, 0], atol=0.02)
    assert constant == pytest.approx(1.5, abs=0.05)


def test_one_measurement_gives_one_device_scaled() -> None:
    known = np.array([[10.0], [3.0]])
    weights, constant = mix(known, np.array([6.0]))
    assert weights @ known[:, 0] + constant == pytest.approx(6.0)
    np.testing.assert_allclose(weights, [0.6, 0.0], atol=1e-9)
    assert constant == pytest.approx(0.0, abs=1e-9)


@pytest.mark.parametrize("count", [1, 2, 3, 10])
def test_weights_are_never_negative_and_time_keeps_its_unit(count: int) -> None:
    """Whatever the times; a device a thousand times slower has weights a thousand times larger."""
    rng = np.random.default_rng(count)
    for _ in range(50):
        known, times = np.exp(rng.normal(size=(5, count))), np.exp(rng.normal(size=count))
        weights, constant = mix(known, times)
        assert (weights >= 0).all() and constant >= 0
        slower, slower_constant = mix(known, 1000 * times)
        np.testing.assert_allclose(slower, 1000 * weights, rtol=1e-6, atol=1e-9)
        assert slower_constant == pytest.approx(1000 * constant, rel=1e-6, abs=1e-9)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("space_name", available_spaces())
def test_a_coarse_kernel_falls_into_the_kernels_of_the_device(device: str, space_name: str) -> None:
    """Kernels by the rules of a mix with the gpu, which merges the most, taken apart are each device's kernels."""
    model = MODELS[device]
    coarse = _Mix((model, MODELS["gpu"]), (1.0, 1.0), 0.0).fusion
    for architecture in architectures(5, 1, (space_name,)):
        for segment in lower(architecture, 224, 1000):
            own = sum(model.kernel_price(kernel).ms for kernel in fuse(segment.nodes, model.fusion))
            split = sum(
                model.kernel_price(piece).ms
                for kernel in fuse(segment.nodes, coarse)
                for piece in pieces(kernel, model.fusion)
            )
            assert split == pytest.approx(own, rel=1e-9)


def test_a_folded_layer_is_no_piece() -> None:
    rules = FusionRules(frozenset({Kind.SCALE}), {Kind.CONV: frozenset({Kind.GELU})})
    spec = LayerSpec(Kind.CONV, 8, 16, 10, 10, 3, 2, 1)
    kernel = Kernel(spec, (Kind.SCALE, Kind.GELU, Kind.ADD), 2)
    after = LayerSpec(Kind.ADD, 16, 16, 5, 5)
    assert list(pieces(kernel, rules)) == [Kernel(spec, (Kind.GELU,), 1), Kernel(after, (), 2)]


def test_the_hidden_device_is_recovered() -> None:
    model = model_of(measured(20))
    assert errors(model) < 0.005
    assert errors(model, resolution=160) < 0.03  # by the forms: no row stands for these kernels
    shares = model.profile.header.accuracy["mix"]
    assert "cpu" in shares and "gpu" in shares and "ms" in shares


def test_noise_costs_little_more_than_itself() -> None:
    assert errors(model_of(measured(20, noise=0.03))) < 0.03


def test_three_networks_are_enough_for_an_answer_and_its_honest_interval() -> None:
    model = model_of(measured(3))
    assert errors(model) < 0.15
    assert model.coverage == 0.5
    assert model.profile.header.interval.networks == 3
    assert "at most 0.50" in model.profile.header.interval.rule
    with pytest.raises(UserError, match="out of reach"):
        fit_latency_model(model.profile, confidence=0.9)


def test_everything_is_labelled_derived_with_its_source() -> None:
    model = model_of(measured(5))
    header = model.profile.header
    assert {row.origin for row in model.profile.rows} == {"derived"} == {m.origin for m in header.models.values()}
    assert {row.count for row in model.profile.rows} == {0}
    assert header.sources[0].name == "whole networks timed by the user"
    assert any(source.name.startswith("profile cpu ") for source in header.sources)
    segments = lower(measured(1)[0].architecture, 224, 1000)
    assert header.fitted_range["resolution"] == (224, 224) and header.fitted_range["network_ms"][0] > 0
    constant = model.runtime_price.ms / model.predict(segments).latency_ms
    assert model.support(segments).derived == pytest.approx(1 - constant)


def test_too_few_networks_are_refused() -> None:
    with pytest.raises(UserError, match="at least 3"):
        few_profile("mine", measured(2), KNOWN)
    with pytest.raises(UserError, match="2 of them different"):
        few_profile("mine", [*measured(2), measured(1)[0]], KNOWN)


def test_a_known_device_that_cannot_price_the_networks_is_left_out() -> None:
    (cpu,) = (profile for profile in KNOWN if profile.name == "cpu")
    models = {kind: model for kind, model in cpu.header.models.items() if kind != "dwconv"}
    lame = replace(cpu, header=replace(cpu.header, models=models))
    header, _ = few_profile("mine", measured(5), [lame, *(p for p in KNOWN if p.name != "cpu")])
    assert " cpu +" not in f" {header.accuracy['mix']} +"
    with pytest.raises(UserError, match="no known device"):
        few_profile("mine", measured(5), [lame])


def test_the_calibration_of_a_known_device_reaches_every_form() -> None:
    """The same times from `cpu` and from `cpu` at ten times its own: the same mix of ms, kinds without a row too."""
    (cpu,) = (profile for profile in KNOWN if profile.name == "cpu")
    slower = replace(cpu, header=replace(cpu.header, calibration={"measured": Calibration(10.0)}))
    times = [m._replace(latency_ms=MODELS["cpu"].predict(lower(*m[:3])).latency_ms) for m in measured(5)]
    plain, scaled = (few_profile("mine", times, [known])[0].models for known in (cpu, slower))
    assert {"pool", "concat", "relu6", "batch_norm"} <= plain.keys() == scaled.keys()
    for kind, form in plain.items():
        assert scaled[kind].coefficients == pytest.approx(form.coefficients, rel=1e-3), kind


def write(folder: Path, rows: Sequence[Mapping[str, object]], columns: str = "architecture,latency_ms") -> Path:
    """A CSV and the architecture files that it names; a row's architecture is a value to be written."""
    lines = [columns]
    for i, row in enumerate(rows):
        (folder / f"a{i}.json").write_text(json.dumps(row["architecture"]))
        lines.append(",".join([f"a{i}.json", *(str(row[c]) for c in columns.split(",")[1:])]))
    path = folder / "few.csv"
    path.write_text("\n".join(lines) + "\n")
    return path


def test_a_profile_from_a_file_predicts_as_the_mix(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    times = measured(8)
    path = write(tmp_path, [{"architecture": m.architecture.to_dict(), "latency_ms": m.latency_ms} for m in times])
    out = tmp_path / "device_profiles"
    said = profile_from_few(path, "mine", out)
    assert "8 whole networks" in said and "mix: " in said and "leave_one_network_out" in said
    loaded = fit_latency_model(load_profile("mine"))
    direct = model_of(times)
    for architecture in architectures(10, 5):
        segments = lower(architecture, 224, 1000)
        assert loaded.predict(segments).latency_ms == pytest.approx(direct.predict(segments).latency_ms, rel=1e-5)
    before = (out / "mine" / "device.yaml").read_bytes(), (out / "mine" / "kernels.csv").read_bytes()
    profile_from_few(path, "mine", out)  # again: it is known now, but knows nothing of its own
    assert before == ((out / "mine" / "device.yaml").read_bytes(), (out / "mine" / "kernels.csv").read_bytes())
    with pytest.raises(UserError, match="'cpu' was measured"):
        profile_from_few(path, "cpu", out)


def test_sizes_come_from_the_row_then_the_result_then_the_defaults(tmp_path: Path) -> None:
    plain = architectures(1, 0)[0].to_dict()
    result = {"schema": 1, "architecture": plain, "num_classes": 10, "resolution": {"deployment": 96, "training": 32}}
    rows = [{"architecture": plain, "latency_ms": 5}, {"architecture": result, "latency_ms": "7.5"}]
    assert [row[1:] for row in read_measurements(write(tmp_path, rows))] == [(224, 1000, 5.0), (96, 10, 7.5)]
    columns = "architecture,latency_ms,resolution,num_classes"
    sized = [{**rows[1], "resolution": 128, "num_classes": ""}]
    assert [row[1:] for row in read_measurements(write(tmp_path, sized, columns))] == [(128, 10, 7.5)]


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"latency_ms": "fast"}, "row 3: latency_ms is 'fast'"),
        ({"latency_ms": "-1"}, "row 3: latency_ms is '-1'"),
        ({"latency_ms": "nan"}, "row 3: latency_ms is 'nan'"),
        ({"architecture": []}, "row 3: '.*' holds no object"),
        ({"architecture": {"space": 1}}, "row 3: architecture: space is 1"),
        ({"resolution": "0"}, "row 3: resolution is '0'"),
        ({"resolution": "8"}, "row 3: resolution 8 is too small"),
        ({"num_classes": "1"}, "row 3: a classifier needs"),
        ({"same": True}, "row 3: the network of row 2 again"),
    ],
)
def test_a_bad_row_is_named(change: dict[str, object], said: str, tmp_path: Path) -> None:
    first, second = (
        {"architecture": a.to_dict(), "latency_ms": 5, "resolution": 224, "num_classes": 1000}
        for a in architectures(2, 0)
    )
    second |= {"architecture": first["architecture"]} if "same" in change else change
    with pytest.raises(BadFile, match=said):
        read_measurements(write(tmp_path, [first, second], "architecture,latency_ms,resolution,num_classes"))


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "empty; it needs the columns architecture,latency_ms"),
        ("architecture,ms\n", "row 1: no column latency_ms"),
        ("architecture,latency_ms,colour\n", "row 1: unknown column 'colour'"),
        ("architecture,latency_ms\na.json\n", "row 2: 1 fields where 2 are needed"),
        ("architecture,latency_ms\nnone.json,3\n", "row 2: no file"),
        ("architecture;latency_ms\n\nnone.json;3", "row 3: no file"),  # of a spreadsheet
    ],
)
def test_a_bad_file_is_named(text: str, said: str, tmp_path: Path) -> None:
    path = tmp_path / "few.csv"
    path.write_text(text)
    with pytest.raises(BadFile, match=said):
        read_measurements(path)
    with pytest.raises(BadFile, match="no file"):
        read_measurements(tmp_path / "none.csv")
