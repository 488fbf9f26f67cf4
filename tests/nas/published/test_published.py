"""Published networks within a budget: facts that agree with their sources, and sentences that compare what compares."""

from __future__ import annotations

import csv
from dataclasses import replace
from pathlib import Path

import pytest

from device_profiles import load_profile, save_profile
from experiments.profiles import DATA
from experiments.profiles.cpu.networks import FP32, FP32_2420MHZ, INT8
from latency_models import fit_latency_model
from nas import published
from nas.command.summary import one_network
from nas.published import Published, best_published
from nas.run.result import SearchResult
from search_space import cost_of, load_space, lower
from tests import SHARED
from tests.nas.run.test_derived import page_of
from tests.nas.run.test_result import sample_result

FIELD = SHARED / "latency" / "field" / "timm_cpu_networks.csv"


def rows_of(path: Path) -> list[dict[str, str]]:
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def test_measured_times_are_those_that_the_profiles_were_fitted_to() -> None:
    a76 = {
        row["model"]: row for name in ("networks", "transformers") for row in rows_of(DATA / f"a76_tflite_{name}.csv")
    }
    myriad = {
        row["topology"]: row["avg_ms"] for row in rows_of(DATA / "myriad_networks_sync.csv") if row["batch"] == "1"
    }
    oak = {row["model"]: row["latency_ms"] for row in rows_of(DATA / "myriad_rvc2_networks.csv")}
    columns = {variant.device: variant.column for variant in (FP32, FP32_2420MHZ, INT8)}
    for device, times in published._times().items():
        for row in times.values():
            name = row["name_there"]
            source = a76[name][columns[device]] if device in columns else {**myriad, **oak}[name]
            assert row["latency_ms"] == pytest.approx(float(source)), row


def test_every_time_is_of_a_network_with_an_accuracy_once() -> None:
    networks = [row["network"] for row in published._networks()]
    assert len(set(networks)) == len(networks)
    assert all(set(times) <= set(networks) for times in published._times().values())
    for row in published._networks():
        assert row["space"] or any(row["network"] in times for times in published._times().values()), row


@pytest.mark.skipif(not FIELD.is_file(), reason="the collected table is not here: NAS_SHARED")
def test_accuracies_are_timms() -> None:
    known = {(row["best_tag"], int(row["image_size"])): row for row in rows_of(FIELD) if row["imagenet_top1_best_tag"]}
    for row in published._networks():
        fact = known[row["weights"], row["resolution"]]
        assert row["top1"] == float(fact["imagenet_top1_best_tag"])
        if row["space"]:
            network = load_space(row["space"], row["space_width"]).largest()
            assert cost_of(lower(network, 224, 1000)).params / 1e6 == pytest.approx(float(fact["params_m"]), abs=0.0051)


@pytest.mark.parametrize(
    ("device", "budget_ms", "network", "ms", "measured"),
    [
        ("cpu", 30.0, "MobileNetV3-Large", 21.8831, "there"),
        ("cpu_int8", 15.0, "MobileNetV3-Large", 14.8488, "there"),
        ("vpu", 60.0, "ResNet-50", 58.0, "there"),
        ("vpu", 12.0, "MobileOne-S0", 11.1, "on an OAK camera, another board with this chip"),
    ],
)
def test_the_best_within_a_budget(device: str, budget_ms: float, network: str, ms: float, measured: str) -> None:
    found = best_published(fit_latency_model(load_profile(device)), budget_ms)
    assert found is not None
    assert (found.network, found.latency_ms, found.measured) == (network, ms, measured)


def test_networks_without_a_time_are_predicted_and_keep_the_budget_as_the_search_does() -> None:
    model = fit_latency_model(load_profile("gpu"))
    found = best_published(model, 1.0)
    assert found is not None and found.measured == "" and found.source == ""
    network = load_space("efficientnet_lite2").largest()
    assert found.latency_ms == model.predict(lower(network, 260, 1000)).latency_ms
    doubtful = best_published(model, 1.01 * found.latency_ms, by_upper_end=True)
    assert doubtful is not None and doubtful.top1 < found.top1
    assert best_published(model, 0.01) is None and best_published(model, 1.0, calibration="table3") is None


def test_a_profile_of_the_same_name_that_is_another_has_no_measured_times(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    known = load_profile("cpu")
    save_profile(tmp_path / "cpu", replace(known.header, clock="1 GHz"), known.rows)
    monkeypatch.setenv("NAS_DEVICE_PROFILES", str(tmp_path))
    found = best_published(fit_latency_model(load_profile("cpu")), 30.0)
    assert found is not None and found.measured == ""


def result(best: Published | None, imagenet: bool = False, test: float = 0.7) -> SearchResult:
    found = sample_result()
    assert found.budget is not None and found.accuracy is not None
    names = tuple(f"n{number:08d}" for number in range(1000))
    return replace(
        found,
        budget=replace(found.budget, published=best),
        accuracy=replace(found.accuracy, test=test),
        input=replace(found.input, class_names=names) if imagenet else found.input,
    )


def test_the_sentence_says_what_compares() -> None:
    budget = sample_result().budget
    assert budget is not None
    best = Published("Net", 0.75, "net_100.in1k", 224, 0.9 * budget.predicted_ms, "there", "somewhere")
    words = result(best).published_words
    assert "is Net at 75.0 % of ImageNet (" in words and "measured there; fp32 weights net_100.in1k" in words
    assert words.endswith("which are other images: the two do not compare") and "dominated" not in words
    assert result(best, imagenet=True).published_words.endswith("it is dominated, no faster and less accurate")
    assert result(best, imagenet=True, test=0.76).published_words.endswith("the same classes")
    slower = replace(best, latency_ms=1.1 * budget.predicted_ms, measured="", source="")
    assert result(slower, imagenet=True).published_words.endswith("the same classes")
    assert "ms, predicted; fp32" in result(slower).published_words
    assert result(None).published_words == ""
    assert replace(result(best), accuracy=None).published_words.endswith("the accuracy of yours was not measured")


def test_the_last_lines_and_the_page_say_it_and_the_file_keeps_it() -> None:
    best = Published("Net", 0.75, "net_100.in1k", 224, 1.0, "there", "somewhere")
    named = result(best)
    assert named.published_words in one_network(named, Path("x")).splitlines()
    assert named.published_words[1:] in page_of(named)
    assert SearchResult.from_dict(named.to_dict()) == named
    assert "published network" not in one_network(result(None), Path("x")) + page_of(result(None))
