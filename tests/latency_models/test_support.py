"""What is said of derived prices, few rows and ranges, on profiles whose prices are planted."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from device_profiles import DeviceProfile, KernelRow, KindModel, Residual, load_profile, save_profile
from device_profiles.header import UNSEEN
from latency_models import LatencyModel, fit_latency_model, fuse
from latency_models.fit.fitted_range import kernels_range, networks_range, with_ranges
from latency_models.support import KernelSupport, Support, derived_words
from search_space import Kind, LayerSpec, Node, Segment
from search_space.layer import SEGMENT_INPUT
from search_space.reading import read, to_plain

FEW, MANY = 7, 40


def network(kernel_size: int = 3, side: int = 32) -> tuple[Segment, ...]:
    """One depthwise convolution and one GELU over the same sizes: no prices but theirs."""
    convolution = LayerSpec(Kind.DWCONV, 8, 8, side, side, kernel_size, 1, kernel_size // 2)
    nodes = (Node("c", convolution, (SEGMENT_INPUT,)), Node("a", LayerSpec(Kind.GELU, 8, 8, side, side), (0,)))
    return (Segment("only", (nodes,)),)


def planted(gelu_ms: float = 1.0, judged: float = 1.0, **of_convolution: object) -> DeviceProfile:
    """A depthwise convolution takes 1 ms, a GELU `gelu_ms`, which is derived; the interval is +-10 %."""
    measured = KindModel({"launch": 1.0}, "fitted", "planted", {3: MANY, 7: FEW}, 1.0, 1.0)
    gelu = replace(measured, coefficients={"launch": gelu_ms}, origin="derived", support={}, widen=judged)
    header = load_profile("cpu").header
    scores = (0.9, *[1.0] * 39, 1.1)
    interval = replace(header.interval, low_scores=scores, high_scores=scores, coverage=0.95)
    models = {"dwconv": replace(measured, **of_convolution), "gelu": replace(gelu, judged="planted")}  # type: ignore[arg-type]
    header = replace(header, models=models, interval=interval, network_ms=0.0, kernel_rows=0, fitted_range={})
    return DeviceProfile("cpu", header, (), "planted")


def model(profile: DeviceProfile) -> LatencyModel:
    return fit_latency_model(profile)


@pytest.mark.parametrize(
    ("gelu_ms", "words"),
    [
        (0.05, ""),
        (1 / 9, ""),  # a tenth is not more than a tenth
        (0.25, "partly derived prices (20 %)"),
        (1.0, "partly derived prices (50 %)"),
        (3.0, "mostly derived prices (75 %)"),
    ],
)
def test_prices_are_called_derived_above_a_tenth_and_mostly_above_half(gelu_ms: float, words: str) -> None:
    support = model(planted(gelu_ms)).support(network())
    assert support.words == derived_words(support.derived) == words
    assert support.derived == pytest.approx(gelu_ms / (1 + gelu_ms))


def test_a_share_that_is_not_known_is_not_called_none() -> None:
    assert derived_words(None) == ""


def test_the_width_is_told_by_kind() -> None:
    """Of 1 ms within -10 % and +10 % (0.2 ms wide), and 1 ms between a tenth of 0.9 and ten times 1.1 (10.91 wide)."""
    support = model(planted(judged=10)).support(network())
    gelu = next(kernel for kernel in support.kernels if kernel.kind == "gelu")
    assert gelu is support.kernels[0]
    assert gelu.width == pytest.approx(10.91 / 11.11)
    assert support.width_words == "GELU is 98 % of the interval's width: it was not measured on this device"
    (said, *_) = support.notes("stick")
    assert said.startswith("stick: GELU is 98 %") and "python -m latency_models.calibrate device=stick " in said


def test_kinds_that_make_up_little_of_the_width_are_not_named() -> None:
    assert model(planted(gelu_ms=0.01)).support(network()).width_words == ""


def kernel(kind: str, width: float, origin: str = "derived") -> KernelSupport:
    return KernelSupport(kind, 1, origin, 0, width, width, width)


@pytest.mark.parametrize(
    ("kernels", "words"),
    [
        (
            (kernel("layer_norm", 0.62), kernel("gelu", 0.09), kernel("conv_1x1", 0.29, "fitted")),
            "LayerNorm is 62 % of the interval's width, GELU 9 %: neither was measured on this device",
        ),
        (
            (kernel("gelu", 0.3), kernel("mul", 0.2), kernel("add", 0.1)),
            "GELU is 30 % of the interval's width, product 20 %, addition 10 %: none of them was measured on this "
            "device",
        ),
        ((kernel("conv_1x1", 1.0, "measured"),), ""),
    ],
)
def test_the_sentence_on_the_width(kernels: tuple[KernelSupport, ...], words: str) -> None:
    assert Support(0.5, kernels).width_words == words


def test_few_rows_are_named_with_their_share() -> None:
    known = model(planted(0.25))
    assert known.support(network(3)).thin_words == "GELU 20 % (derived)"
    assert known.support(network(7)).thin_words == "7x7 depthwise 80 % (7 rows), GELU 20 % (derived)"
    assert known.support(network(5)).thin_words == "5x5 depthwise 80 % (no row), GELU 20 % (derived)"


def test_a_kernel_that_was_timed_itself_rests_on_enough() -> None:
    profile = planted(0.25)
    convolution, _ = fuse(network(7)[0].nodes, profile.header.fusion)
    timed = replace(profile, rows=(KernelRow(convolution, 1.0, 0.01, 5, "measured", "timed alone"),))
    assert model(timed).support(network(7)).thin_words == "GELU 20 % (derived)"
    copied = replace(profile, rows=(KernelRow(convolution, 1.0, 0.01, 5, "fitted", "the form"),))
    assert "7x7 depthwise 80 % (7 rows)" in model(copied).support(network(7)).thin_words


def test_a_size_in_doubt_widens_by_its_own_judgement() -> None:
    known = model(planted(widen_sizes={7: 3.0}))
    known_plain, doubtful = known.predict(network(3)), known.predict(network(7))
    assert doubtful.latency_ms == known_plain.latency_ms == 2.0
    assert known_plain.high_ms == pytest.approx(2.2) and doubtful.high_ms == pytest.approx(1.1 * (3 + 1))
    assert doubtful.low_ms == pytest.approx(0.9 * (1 / 3 + 1))
    never_seen = known.predict(network(5))
    assert (never_seen.low_ms, never_seen.high_ms) == (doubtful.low_ms, doubtful.high_ms)


def test_a_size_that_was_never_measured_is_in_doubt_whoever_judged() -> None:
    """A factor of 2, where the kind's other sizes were measured and no residual says how far from its rows it is."""
    unseen, seen = (model(planted()).predict(network(size)) for size in (5, 3))
    assert unseen.latency_ms == seen.latency_ms
    assert unseen.high_ms == pytest.approx(1.1 * (UNSEEN + 1)) and seen.high_ms == pytest.approx(2.2)
    assert unseen.low_ms == pytest.approx(0.9 * (1 / UNSEEN + 1))
    without_rows = replace(planted().header.models["dwconv"], support={})
    residual = Residual({"log_macs": 1.0}, 0.1, 0.1)
    assert without_rows.widening(5) == 1 == replace(planted().header.models["dwconv"], residual=residual).widening(5)


@pytest.mark.parametrize(("device", "least"), [("cpu", 1.3), ("cpu_int8", 1.3), ("vpu", 1.1)])
def test_few_rows_of_7x7_widen_the_shipped_intervals_and_say_why(device: str, least: float) -> None:
    convolution = load_profile(device).header.models["dwconv"]
    assert list(convolution.widen_sizes) == [7] and least < convolution.widen_sizes[7] < 2
    assert convolution.widening(7) > convolution.widening(3) == 1 and "7x7" in convolution.judged


def test_what_few_rows_add_to_the_interval_is_said() -> None:
    """1 ms from a third of 0.9 to 3.3 ms, beside 1 ms from 0.9 to 1.1: 3 of 3.2 ms."""
    wide, plain = (model(planted(widen_sizes=sizes)).support(network(7)) for sizes in ({7: 3.0}, {}))
    assert wide.wider_words == "7x7 depthwise is 94 % of its width"
    assert wide.notes("x")[-1].endswith("; the interval is wider for it: 7x7 depthwise is 94 % of its width")
    assert plain.wider_words == "" and "wider" not in plain.notes("x")[-1]


def test_what_lies_outside_of_the_fitted_range_is_said() -> None:
    profile = planted(fitted_range={"channels": (16, 64), "pixels": (49, 1024)})
    ranges = {"network_ms": (5.0, 50.0), "resolution": (224.0, 224.0)}
    stated = replace(profile, header=replace(profile.header, fitted_range=ranges))
    assert model(stated).support(network(side=64)).outside == (
        "image of 64 pixels a side (fitted: 224)",
        "network of 2 ms (fitted: 5 to 50)",
        "3x3 depthwise with 8 channels (fitted: 16 to 64)",
        "3x3 depthwise with 4096 pixels (fitted: 49 to 1024)",
    )
    assert (
        "outside of what its profile was fitted to: image of 64"
        in model(stated).support(network(side=64)).notes("x")[-1]
    )
    wide = replace(stated.header, fitted_range={"network_ms": (1.0, 50.0), "resolution": (32.0, 224.0)})
    inside = replace(stated, header=replace(wide, models=planted().header.models))
    assert model(inside).support(network()).outside == ()


def test_a_profile_that_states_no_range_says_nothing() -> None:
    assert model(planted()).support(network(side=8)).outside == ()


def test_ranges_of_networks_and_kernels() -> None:
    both = (
        *fuse(network(3, 16)[0].nodes, planted().header.fusion),
        *fuse(network(5)[0].nodes, planted().header.fusion),
    )
    assert networks_range([(network(side=16), 3.0), (network(), 2.0)]) == {
        "network_ms": (2.0, 3.0),
        "resolution": (16, 32),
    }
    assert networks_range([]) == {} == kernels_range([])
    assert kernels_range(both) == {"channels": (8, 8), "pixels": (256, 1024)}
    ranged = with_ranges(planted().header.models, [both[0]])
    assert ranged["dwconv"].fitted_range == {"channels": (8, 8), "pixels": (256, 256)}
    assert ranged["gelu"].fitted_range == {}


def test_a_profile_with_ranges_reads_back_equal_and_one_without_does_not_name_them(tmp_path: Path) -> None:
    profile = planted(widen_sizes={7: 3.0}, fitted_range={"channels": (16.0, 64.0)})
    rows = (KernelRow(fuse(network(7)[0].nodes, profile.header.fusion)[0], 1.0, 0.01, 5, "fitted", "the form"),)
    header = replace(profile.header, kernel_rows=1, fitted_range={"resolution": (160.0, 224.0)})
    assert save_profile(tmp_path / "cpu", header, rows).header == header
    text = (tmp_path / "cpu" / "device.yaml").read_text(encoding="utf-8")
    assert text.count("fitted_range") == 2 and text.count("widen_sizes") == 1
    save_profile(tmp_path / "cpu", replace(planted().header, kernel_rows=1), rows)
    text = (tmp_path / "cpu" / "device.yaml").read_text(encoding="utf-8")
    assert "fitted_range" not in text and "widen_sizes" not in text


def test_a_support_survives_json() -> None:
    support = model(planted(judged=4)).support(network(7))
    assert read(Support, json.loads(json.dumps(to_plain(support))), "support") == support
