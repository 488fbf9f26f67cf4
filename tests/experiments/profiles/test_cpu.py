"""The Cortex-A76's predictors: what they reach on networks they did not see, and the parts that counts rest on."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from device_profiles import Kernel, Lanes, load_profile, save_profile
from experiments.profiles import DATA
from experiments.profiles.cpu import profile as cpu
from experiments.profiles.cpu.evaluation import measured, network_evaluations
from experiments.profiles.cpu.nas_bench import cell_terms, executed, nas_bench_samples
from experiments.profiles.cpu.networks import FORM, FP32, FP32_2420MHZ, INT8, LANES, Variant, by_family, samples, terms
from experiments.profiles.cpu.pairs import differences
from experiments.profiles.cpu.rebuilt import REBUILT
from experiments.profiles.cpu.unlisted import unlisted_layers
from experiments.profiles.cpu_2420mhz import profile as cpu_2420mhz
from experiments.profiles.cpu_int8 import profile as cpu_int8
from experiments.profiles.nas_bench_201 import parse_cell
from experiments.profiles.regression import held_out_ratios
from experiments.profiles.tables import A76_OPS, MovedElements, read_rows, square
from latency_models.features import FEATURES
from latency_models.fit.regression import fit_coefficients, within
from latency_models.model import fit_latency_model
from latency_models.scores import Evaluation
from search_space.layer import Kind, LayerSpec


@pytest.fixture(scope="module")
def fp32() -> list[Evaluation]:
    return cpu.evaluations(DATA)


@pytest.fixture(scope="module")
def int8() -> list[Evaluation]:
    return cpu_int8.evaluations(DATA)


@pytest.fixture(scope="module")
def slower() -> list[Evaluation]:
    return cpu_2420mhz.evaluations(DATA)


def check_marks(sets: list[Evaluation]) -> None:
    """The differences of networks have neither mark nor interval; every other set has both."""
    assert [s.mark for s in sets].count("") == 1
    for s in sets:
        assert s.reached is not False, f"{s.name}: {s.mape:.2f} %, {s.within(0.1):.1f} % within 10 %, mark {s.mark}"
        assert s.coverage_holds is not False, f"{s.name}: {s.coverage_text()}"
        assert (s.coverage_holds is None) == (s.mark == "")


def test_every_mark_of_fp32_is_reached_and_every_claimed_coverage_holds(fp32: list[Evaluation]) -> None:
    assert [len(s.names) for s in fp32] == [82, 82, 23, 28, 19, 500, 500]
    check_marks(fp32)


def test_every_mark_of_int8_is_reached_and_every_claimed_coverage_holds(int8: list[Evaluation]) -> None:
    assert [len(s.names) for s in int8] == [82, 82, 23, 28, 19]
    check_marks(int8)


def test_every_mark_at_the_lower_clock_is_reached_and_every_claimed_coverage_holds(slower: list[Evaluation]) -> None:
    assert [len(s.names) for s in slower] == [82, 82, 23, 28, 19]
    check_marks(slower)


def test_predictions_are_as_good_as_documented(
    fp32: list[Evaluation], slower: list[Evaluation], int8: list[Evaluation]
) -> None:
    """Mean errors in per cent, set by set, as docs/latency.md has them."""
    assert [s.mape for s in fp32] == pytest.approx([1.55, 2.09, 2.11, 0.95, 32.5, 2.30, 2.44], abs=0.05)
    assert [s.mape for s in slower] == pytest.approx([1.51, 2.31, 2.59, 0.86, 31.0], abs=0.05)
    assert [s.mape for s in int8] == pytest.approx([2.90, 3.34, 2.29, 5.52, 22.3], abs=0.05)


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
        (a.latency_ms, b.latency_ms)
        for a, b in zip(int8.rows, fp32.rows, strict=True)
        if a.kernel.spec.kind is Kind.CONV and a.kernel.spec.macs > 1e7 and a.kernel.spec.in_channels > 16
    ]  # with fewer channels the int8 product pays for its outputs alone
    assert dense and all(fast < slow for fast, slow in dense)
    kernel = square(Kind.CONV, 96, 96, 28)
    assert fit_latency_model(int8).kernel_price(kernel).ms < fit_latency_model(fp32).kernel_price(kernel).ms


@pytest.mark.parametrize("variant", [FP32, FP32_2420MHZ, INT8])
def test_the_profile_prices_networks_as_the_fit_does(variant: Variant) -> None:
    """Kernel by kernel through the shipped header: nothing twice, nothing left out."""
    model = fit_latency_model(load_profile(variant.device))
    coefficients = fit_coefficients(measured(DATA, variant).together)
    for name, layers in REBUILT.items():
        fitted = sum(coefficients[term] * value for term, value in terms(layers(), variant).values.items())
        priced = 0.0
        for op in layers():
            if isinstance(op, Kernel):
                priced += model.form_ms(op)
            else:
                assert isinstance(op, MovedElements)
                summed = variant.pools_add_windows and op.op == "pool"
                priced += coefficients["moved"] * (op.window_elements if summed else op.elements) / 1e6
        assert priced == pytest.approx(fitted, rel=1e-3), name


@pytest.mark.parametrize(
    ("variant", "prices"),
    [
        (FP32, {"gelu": 14.54, "layer_norm": 5.59, "softmax": 5.91, "add": 0.96, "mul": 0.96, "batch_norm": 1.28}),
        (INT8, {"gelu": 4.93, "layer_norm": 38.85, "softmax": 4.48, "add": 1.03, "mul": 1.03, "batch_norm": 1.37}),
    ],
)
def test_element_wise_prices_are_fitted_with_doubts_of_their_own(variant: Variant, prices: dict[str, float]) -> None:
    """ns an element, from no kernel but from whole networks, so each says how much networks disagree."""
    profile = load_profile(variant.device)
    model, common = fit_latency_model(profile), profile.header.models["conv_1x1"]
    for kind, ns in prices.items():
        known = profile.header.models[kind]
        kernel = square(Kind(kind), 64, 64, 28, inputs=2 if kind in ("add", "mul") else 1)
        assert model.form_ms(kernel) * 1e6 / kernel.spec.out_elements == pytest.approx(ns, rel=0.005)
        assert known.origin == "fitted" and known.support[1] > 100
        assert known.widen > 1 and "without one family" in known.judged
        assert known.low_factor < common.low_factor and known.high_factor > common.high_factor
    assert "error function" in profile.header.models["gelu"].source
    assert "2022-23" in profile.header.runtime_version


def test_what_no_network_tells_is_derived_and_wide() -> None:
    for device in ("cpu", "cpu_2420mhz", "cpu_int8"):
        models = load_profile(device).header.models
        assert {kind for kind, model in models.items() if model.origin == "derived"} == {"relu6", "hard_swish"}
        assert models["hard_swish"].widen >= 4 and models["relu6"].widen >= 2


@pytest.mark.parametrize("variant", [FP32, INT8])
def test_lists_with_the_unlisted_layers_are_those_of_the_papers(variant: Variant) -> None:
    """Every term but padding, which papers do not have.

    But for MobileNetV2, whose classifier runs as a convolution there, and DenseNet, which pools in two steps there.
    """
    known = {sample.name: sample for sample in samples(DATA, variant)}
    compared = [name for name in REBUILT if name in known and not name.startswith(("mobilenetv2", "densenet"))]
    assert len(compared) == 26
    for name in compared:
        built, listed = terms(REBUILT[name](), variant).values, known[name].terms
        for term in {*built, *listed} - {"padded"}:
            assert built.get(term, 0.0) == pytest.approx(listed.get(term, 0.0), rel=1e-9, abs=1e-9), f"{name}: {term}"


def counted(model: str) -> Counter[str]:
    rows = [row for row in read_rows(DATA, A76_OPS) if row.text("model") == model]
    return Counter(op.price_kind if isinstance(op, Kernel) else op.op for op in unlisted_layers(model, rows))


@pytest.mark.parametrize(
    ("model", "layers"),
    [
        ("mobilenetv2_w1", {"add": 10}),
        ("mobilenet_w1", {}),
        ("mobilenetv3_large_w1", {"add": 10, "mul": 8, "hard_swish": 21}),
        ("mobilenetv3_small_w1", {"add": 6, "mul": 9, "hard_swish": 19}),
        ("mnasnet_a1", {"add": 9, "mul": 8}),
        ("resnet18_wd2", {"add": 8}),
        ("seresnet18", {"add": 8, "mul": 8}),
        ("preresnet18", {"add": 8, "batch_norm": 9, "pad": 17}),
        ("preresnetbc14b", {"add": 4, "batch_norm": 5, "pad": 5}),
        ("resnext26_32x4d", {"add": 8}),
        ("regnety004", {"add": 16, "mul": 16}),
        ("bagnet9", {"add": 16}),
        ("dla46c", {"add": 12}),
        ("densenet169", {"batch_norm": 86}),
        ("squeezeresnet_v1_0", {"add": 4}),
    ],
)
def test_unlisted_layers_by_name(model: str, layers: dict[str, int]) -> None:
    """As many as the papers have."""
    found = counted(model)
    if "pad" not in layers:
        found.pop("pad", None)
    assert found == layers


def test_a_pair_is_the_difference_of_two_networks() -> None:
    networks = samples(DATA, FP32)
    by_name = {sample.name: sample for sample in networks}
    pairs = {pair.name: pair for pair in differences(networks, "mul")}
    pair = pairs["seresnet10 - resnet10"]
    assert len(pairs) == 7 and "seresnet18 - resnet18_wd2" not in pairs
    assert pair.group == ("seresnet", "resnet")
    assert pair.latency_ms == pytest.approx(by_name["seresnet10"].latency_ms - by_name["resnet10"].latency_ms)
    assert pair.terms["mac"] == 0 and pair.terms["output"] == pytest.approx(0, abs=0.01) and pair.terms["moved"] > 0


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


@pytest.mark.parametrize("device", ["cpu", "cpu_2420mhz"])
def test_the_caveat_says_what_the_profile_makes_of_7x7(device: str) -> None:
    model = fit_latency_model(load_profile(device))
    five, seven = (
        model.kernel_price(Kernel(LayerSpec(Kind.DWCONV, 128, 128, 14, 14, size, 1, size // 2))).ms for size in (5, 7)
    )
    assert f"{seven / five:.1f} times by this profile" in model.profile.header.caveats[-1]
    assert f"took {0.340 / 0.0136:.0f} times as long" in model.profile.header.caveats[-1]
