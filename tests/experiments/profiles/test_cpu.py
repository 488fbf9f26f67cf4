"""The Cortex-A76's predictors: what they reach on networks they did not see, and the parts that counts rest on."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from device_profiles import Kernel, Lanes, load_profile, save_profile
from experiments.profiles import DATA
from experiments.profiles.cpu import profile as cpu
from experiments.profiles.cpu.evaluation import network_evaluations
from experiments.profiles.cpu.nas_bench import cell_terms, executed, nas_bench_samples
from experiments.profiles.cpu.networks import FORM, FP32, INT8, LANES, by_family, samples
from experiments.profiles.cpu_int8 import profile as cpu_int8
from experiments.profiles.nas_bench_201 import parse_cell
from experiments.profiles.regression import held_out_ratios
from experiments.profiles.tables import square
from latency_models.features import FEATURES
from latency_models.fit.regression import within
from latency_models.model import fit_latency_model
from search_space.layer import Kind, LayerSpec


def test_every_mark_of_fp32_is_reached_and_every_claimed_coverage_holds() -> None:
    sets = cpu.evaluations(DATA)
    assert [len(s.names) for s in sets] == [82, 82, 500, 500]
    for s in sets:
        assert s.reached, f"{s.name}: {s.mape:.2f} %, {s.within(0.1):.1f} % within 10 %, mark {s.mark}"
        assert s.coverage_holds, f"{s.name}: {s.coverage_text()}"


def test_families_with_equal_networks_may_be_left_out_together() -> None:
    """The letters of a name part networks with equal layers, such as preresnet10 and resnet10."""
    networks, families = samples(DATA, FP32), by_family(samples(DATA, FP32))
    names = {sample.group: {sample.group} for sample in families}
    for one, family in zip(networks, families, strict=True):
        for other, its_family in zip(networks, families, strict=True):
            if one.group == other.group and names[family.group] is not names[its_family.group]:
                names[family.group] |= names[its_family.group]
                for name in names[family.group]:
                    names[name] = names[family.group]
    merged = [replace(sample, group=min(map(str, names[sample.group]))) for sample in families]
    assert len({sample.group for sample in merged}) < len(names)
    assert within(held_out_ratios(merged, merged), 0.1) == 100


def test_int8_keeps_its_figures_and_its_claims() -> None:
    one, family = cpu_int8.evaluations(DATA)
    assert one.mape < 5.5 and family.mape < 6.5
    assert one.coverage_holds and family.coverage_holds


def test_a_held_out_network_does_not_move_its_own_prediction(tmp_path: Path) -> None:
    """Ten times the time of all networks of one family: their own predictions stay."""
    for path in DATA.glob("a76_*"):
        (tmp_path / path.name).write_bytes(path.read_bytes())
    table = tmp_path / "a76_tflite_networks.csv"
    header, *lines = table.read_text().splitlines()
    column = header.split(",").index(FP32.column)
    cells = [line.split(",") for line in lines]
    for row in cells:
        if row[0].startswith("regnetx"):
            row[column] = str(10 * float(row[column]))
    table.write_text("\n".join([header, *map(",".join, cells)]))
    before, after = (network_evaluations(folder, FP32)[1] for folder in (DATA, tmp_path))
    own = np.array([name.startswith("regnetx") for name in before.names])
    np.testing.assert_allclose(before.predicted_ms[own], after.predicted_ms[own], rtol=1e-4)
    assert not np.allclose(before.predicted_ms[~own], after.predicted_ms[~own], rtol=1e-3)


def test_a_network_without_a_value_is_left_out(tmp_path: Path) -> None:
    for path in DATA.glob("a76_*"):
        (tmp_path / path.name).write_bytes(path.read_bytes())
    table = tmp_path / "a76_tflite_networks.csv"
    lines = table.read_text().splitlines()
    lines[3] = lines[3].rsplit(",", 1)[0] + ","
    table.write_text("\n".join(lines))
    assert len(samples(tmp_path, INT8)) == len(samples(DATA, INT8)) - 1


def test_int8_is_a_profile_like_any_other(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save_profile(tmp_path / "cpu_int8", *cpu_int8.rebuild(DATA))
    save_profile(tmp_path / "cpu", *cpu.rebuild(DATA))
    monkeypatch.setenv("NAS_DEVICE_PROFILES", str(tmp_path))
    int8, fp32 = load_profile("cpu_int8"), load_profile("cpu")
    assert (int8.header.precision, fp32.header.precision) == ("int8", "fp32")
    assert [row.kernel for row in int8.rows] == [row.kernel for row in fp32.rows]
    dense = [
        (a.latency_ms, b.latency_ms) for a, b in zip(int8.rows, fp32.rows, strict=True) if a.kernel.spec.macs > 1e7
    ]
    assert dense and all(fast < slow for fast, slow in dense)
    kernel = square(Kind.CONV, 96, 96, 28)
    assert fit_latency_model(int8).kernel_price(kernel).ms < fit_latency_model(fp32).kernel_price(kernel).ms


def gemm_macs(kernel: Kernel, lanes: Lanes = LANES) -> float:
    return FEATURES["gemm_macs"](kernel, lanes) * 1e6


def test_a_matrix_product_is_padded_to_its_block() -> None:
    assert gemm_macs(square(Kind.CONV, 12, 12, 7)) == 12 * 16 * 56  # 49 pixels take 7 blocks of 8
    assert gemm_macs(square(Kind.CONV, 16, 32, 8, 3, 2)) == 9 * 16 * 32 * 16
    assert gemm_macs(square(Kind.CONV, 12, 12, 7), Lanes()) == 12 * 12 * 49


def test_a_single_pixel_waits_for_its_weights_alone() -> None:
    assert gemm_macs(square(Kind.CONV, 960, 1280, 1)) == 0
    assert gemm_macs(Kernel(LayerSpec(Kind.LINEAR, 960, 1280, 1, 1))) == 0
    assert FORM["linear"]["weights"] == FORM["conv_1x1"]["weights"]


@given(
    channels=st.tuples(st.integers(5, 64), st.integers(1, 64)),
    size=st.integers(1, 20),
    kernel_size=st.sampled_from([1, 3, 5]),
    grow=st.tuples(st.integers(0, 9), st.integers(0, 9), st.integers(0, 9)),
)
def test_padded_macs_never_fall_when_a_kernel_grows(
    channels: tuple[int, int], size: int, kernel_size: int, grow: tuple[int, int, int]
) -> None:
    small = square(Kind.CONV, *channels, size, kernel_size)
    large = square(Kind.CONV, channels[0] + grow[0], channels[1] + grow[1], size + grow[2], kernel_size)
    assert gemm_macs(small) <= gemm_macs(large)


def cell(*operations: str) -> str:
    """NAS-Bench-201's string of the six edges."""
    named = [f"{name}~{start}" for name, start in zip(operations, (0, 0, 1, 0, 1, 2), strict=True)]
    return f"|{named[0]}|+|{'|'.join(named[1:3])}|+|{'|'.join(named[3:])}|"


SKIP, CONV, POOL, NONE = "skip_connect", "nor_conv_3x3", "avg_pool_3x3", "none"


def values(*operations: str) -> dict[str, float]:
    return cell_terms(executed(parse_cell(cell(*operations)))).values


def test_a_cell_counts_what_lies_on_a_path() -> None:
    empty = values(NONE, NONE, NONE, SKIP, NONE, NONE)
    assert values(CONV, CONV, CONV, SKIP, NONE, NONE) == empty  # nothing of it reaches the output
    one = values(NONE, NONE, NONE, CONV, NONE, NONE)
    macs = sum(5 * 9 * width**2 * size**2 for width, size in ((16, 32), (32, 16), (64, 8)))
    assert (one["mac"] - empty["mac"]) * 1e6 == pytest.approx(macs)
    elements = sum(5 * width * size**2 for width, size in ((16, 32), (32, 16), (64, 8)))
    pooled = values(NONE, NONE, NONE, POOL, NONE, NONE)
    assert (pooled["moved"] - empty["moved"]) * 1e6 == pytest.approx(9 * elements)


def test_a_sum_of_two_absent_edges_runs_and_a_single_absent_edge_does_not() -> None:
    without = values(CONV, NONE, NONE, SKIP, CONV, NONE)
    assert values(CONV, NONE, NONE, SKIP, CONV, CONV)["mac"] > without["mac"]
    assert values(NONE, CONV, CONV, SKIP, CONV, NONE) == values(NONE, CONV, NONE, SKIP, NONE, NONE)


def test_every_row_of_nas_bench_201_is_read() -> None:
    found = nas_bench_samples(DATA)
    assert len(found) == 1000 and min(sample.latency_ms for sample in found) > 0
