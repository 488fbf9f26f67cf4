"""Published times of boards without a profile beside those of the shipped profiles."""

from __future__ import annotations

import csv
from pathlib import Path

import pytest

from device_profiles import load_profile
from experiments.other_boards import MOST, NPU, PI, PI5, layers_of, main, off, priced_ms
from experiments.results import FOLDER, load_results
from latency_models import fit_latency_model
from tests import SHARED

FIELD = SHARED / "latency" / "field"


def test_the_table_is_what_the_command_finds(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "found.json"
    assert main([f"out={out}"]) == 0
    rows = load_results(out, "other_boards").rows
    assert rows == load_results(FOLDER / "other_boards.json", "other_boards").rows
    said = capsys.readouterr().out
    assert "Raspberry Pi 5, fp32, by cpu_2420mhz: no profile. A network is up to 46 % off" in said
    assert "NPU, float, by a mix of 6 profiles: no profile. A network is up to 36 % off by the others" in said
    assert sum(abs(off(row)) > MOST for row in rows if row["board"] == PI5 and row["by"] != "cpu") == 3
    # two networks of one precision would each be predicted by the other's factor
    slower = {str(row["network"]): row for row in rows if row["by"] == "cpu_2420mhz"}
    others = [slower[name] for name in ("SqueezeNet 1.0", "ResNet-18")]
    factor = (others[0]["ms"] / others[0]["known_ms"] * others[1]["ms"] / others[1]["known_ms"]) ** 0.5
    assert slower["MobileNetV2"]["without_ms"] == pytest.approx(factor * slower["MobileNetV2"]["known_ms"], abs=1e-3)


def test_the_profile_says_how_far_the_pi_is_from_it() -> None:
    rows = load_results(FOLDER / "other_boards.json", "other_boards").rows
    factors = [row["ms"] / row["known_ms"] for row in rows if row["by"] == "cpu_2420mhz"]
    caveat = load_profile("cpu_2420mhz").header.caveats[0]
    assert f"Three networks on a Pi 5 took {min(factors):.2f} to {max(factors):.2f} times" in caveat


def test_a_list_of_layers_is_priced_as_the_network_that_was_measured() -> None:
    layers = layers_of()
    cpu, vpu = (fit_latency_model(load_profile(device)) for device in ("cpu", "vpu"))
    assert priced_ms(cpu, layers["MobileNetV2"]()) == pytest.approx(27.4264, rel=0.05)
    assert priced_ms(cpu, layers["MobileNetV3-Large"]()) == pytest.approx(21.8831, rel=0.1)
    assert priced_ms(vpu, layers["ResNet-50"]()) == pytest.approx(58, rel=0.1)


@pytest.mark.skipif(not FIELD.is_dir(), reason="the collected tables are not here (NAS_SHARED)")
def test_the_facts_are_those_of_the_collected_tables() -> None:
    def rows(name: str) -> list[dict[str, str]]:
        with (FIELD / name).open(encoding="utf-8", newline="") as file:
            return list(csv.DictReader(file))

    of_pi = rows("raspberry_pi5_networks.csv")
    times = {float(row[column]) for row in of_pi for column in ("latency_ms", "fp32_latency_ms") if row[column]}
    assert {one.ms for one in PI} <= times
    on_npu = {
        (row["model"].replace("_", ""), row["precision"]): float(row["latency_ms"])
        for row in rows("snapdragon_npu_networks.csv")
        if (row["device"], row["runtime"], row["primary_unit"]) == ("Samsung Galaxy S24", "qnn_dlc", "NPU")
    }
    names = {"ConvNeXt-T": "convnexttiny", "SqueezeNet 1.1": "squeezenet11"}
    for one in NPU:
        name = names.get(one.network, one.network.lower().replace("-", ""))
        assert one.ms == on_npu[name, one.precision], one
    listed = {names.get(name, name.lower().replace("-", "")) for name in layers_of()}
    assert len(NPU) == sum(name in listed and precision in ("float", "w8a8") for name, precision in on_npu)
