"""The Myriad X: its engine's modes and stripes, its networks, and the marks its predictor is held to."""

from __future__ import annotations

import numpy as np
import pytest

from device_profiles import Header, Kernel
from experiments.profiles import DATA
from experiments.profiles.nas_bench_201 import parse_cell
from experiments.profiles.regression import fit_absolute
from experiments.profiles.tables import Op
from experiments.profiles.vpu.evaluation import distinct_layers
from experiments.profiles.vpu.networks import (
    MOBILENET_V3_LARGE,
    MOBILENET_V3_SMALL,
    densenet,
    efficientnet_b0,
    mobilenet_v3,
    resnet,
    squeezenet_1_1,
)
from experiments.profiles.vpu.profile import evaluations, rebuild
from experiments.profiles.vpu.samples import source_ratios
from latency_models.fit.regression import Sample, fit_coefficients
from latency_models.neural_engine import EngineConv
from latency_models.scores import Evaluation


@pytest.fixture(scope="module")
def evaluated() -> list[Evaluation]:
    return evaluations(DATA)


@pytest.fixture(scope="module")
def header() -> Header:
    return rebuild(DATA)[0]


def conv(in_channels: int, out_channels: int, size: int, window: int = 1, stride: int = 1) -> EngineConv:
    out = (size + 2 * (window // 2) - window) // stride + 1
    return EngineConv(in_channels, out_channels, size, size, out, out, window, window, stride)


def test_the_cheapest_mode_that_holds_the_weights() -> None:
    """A 7x1 window over 128 channels: 4 channels at once (32 x 7 weights a block), two groups of 64 outputs."""
    window = EngineConv(128, 128, 17, 17, 17, 17, rows=7, columns=1)
    assert window.cycles == 2 * (32 * 7 + 11) * 17 * 17
    assert window.weights == 7 * 128 * 128


@pytest.mark.parametrize(("channels", "size", "stripes"), [(1280, 8, 1), (512, 17, 1), (768, 17, 6), (1024, 17, 9)])
def test_an_input_whose_lines_do_not_fit_is_cut_into_stripes(channels: int, size: int, stripes: int) -> None:
    found = conv(channels, 192, size)
    assert found.stripes == stripes
    assert (found.striped_elements == 0) == (stripes == 1)


@pytest.mark.parametrize("window", [1, 3, 5])
@pytest.mark.parametrize("size", [7, 28, 112])
def test_more_outputs_never_cost_fewer_cycles_or_reads(window: int, size: int) -> None:
    for in_channels in (16, 96, 320, 1024):
        found = [conv(in_channels, out, size, window) for out in range(8, 512, 8)]
        assert all(np.diff([one.cycles for one in found]) >= 0)
        assert len({one.stripes for one in found}) == 1


def test_a_network_of_one_channel_or_a_very_wide_image_is_priced() -> None:
    assert conv(1, 1, 1).cycles > 0
    assert conv(2048, 2048, 4096, 3).striped_elements >= 0


@pytest.mark.parametrize(
    ("name", "ops", "published_gmacs"),
    [
        ("ResNet-18", resnet(18), 1.81),
        ("ResNet-34", resnet(34), 3.66),
        ("ResNet-152", resnet(152), 11.5),
        ("DenseNet-121", densenet(121), 2.83),
        ("DenseNet-161", densenet(161), 7.73),
        ("MobileNetV3-Large", mobilenet_v3(MOBILENET_V3_LARGE, 960, 1280), 0.217),
        ("MobileNetV3-Small", mobilenet_v3(MOBILENET_V3_SMALL, 576, 1024), 0.0565),
        ("EfficientNet-B0", efficientnet_b0(), 0.386),
    ],
)
def test_networks_have_their_published_size(name: str, ops: list[Op], published_gmacs: float) -> None:
    assert gmacs(ops) == pytest.approx(published_gmacs, rel=0.01), name


def test_squeezenet_at_224_is_a_few_pixels_larger_than_published() -> None:
    """Padding before its first convolutions; 0.35 GMACs are published without."""
    assert 0.35 < gmacs(squeezenet_1_1()) < 0.45


def gmacs(ops: list[Op]) -> float:
    return sum(op.spec.macs for op in ops if isinstance(op, Kernel)) / 1e9


def test_edges_on_no_path_cost_nothing() -> None:
    cell = parse_cell("|nor_conv_3x3~0|+|nor_conv_3x3~0|nor_conv_3x3~1|+|skip_connect~0|nor_conv_1x1~1|none~2|")
    assert cell.used == {(0, 1): "nor_conv_3x3", (0, 3): "skip_connect", (1, 3): "nor_conv_1x1"}
    assert cell.rectifications == 1  # that of the second convolution merges into the first
    nothing = parse_cell("|none~0|+|none~0|none~1|+|none~0|none~1|none~2|")
    assert nothing.used == {} and len(nothing.describe()) == len(cell.describe())


def test_a_sum_of_absent_edges_that_is_read_is_described() -> None:
    read = parse_cell("|nor_conv_3x3~0|+|none~0|none~1|+|skip_connect~0|nor_conv_3x3~1|avg_pool_3x3~2|")
    unread = parse_cell("|nor_conv_3x3~0|+|none~0|none~1|+|skip_connect~0|nor_conv_3x3~1|none~2|")
    assert read.used == unread.used and read.describe() != unread.describe()


def test_one_bad_sample_does_not_move_the_absolute_fit() -> None:
    samples = [Sample(str(i), {"a": float(i), "b": 1.0}, 2.0 * i + 3) for i in range(1, 30)]
    spoilt = [*samples, Sample("bad", {"a": 10.0, "b": 1.0}, 2.0)]
    assert fit_absolute(samples) == pytest.approx({"a": 2.0, "b": 3.0}, rel=1e-3)
    absolute, squared = fit_absolute(spoilt), fit_coefficients(spoilt)
    assert absolute == pytest.approx({"a": 2.0, "b": 3.0}, rel=0.02)
    assert abs(squared["b"] - 3) > abs(absolute["b"] - 3)


def test_repeated_layers_count_once() -> None:
    layers = [Sample("engine", {"a": 1.0}, ms, group="net") for ms in (1.0, 2.0, 4.0)]
    found = distinct_layers([*layers, Sample("engine", {"a": 2.0}, 5.0, group="net")], np.array([2.0, 1.0, 0.5, 1.0]))
    assert list(found.measured_ms) == [2.0, 5.0] and list(found.ratios) == [1.0, 1.0]


def test_every_mark_is_reached(evaluated: list[Evaluation]) -> None:
    assert [found.mark for found in evaluated if found.reached is False] == []
    assert sum(found.reached is True for found in evaluated) == 3


def test_claimed_coverage_agrees_with_what_is_seen(evaluated: list[Evaluation]) -> None:
    claims = [found for found in evaluated if found.coverage is not None]
    assert len(claims) == 3
    assert [found.coverage_text() for found in claims if not found.coverage_holds] == []


def test_figures_of_the_held_out_sets(evaluated: list[Evaluation]) -> None:
    layers, _, sums, nas_bench, networks = evaluated
    assert len(layers.names) == 298 and layers.mape < 11.5
    assert sums.within(0.05) == 100
    assert len(nas_bench.names) == 500 and nas_bench.within(0.1) >= 99.5
    assert len(networks.names) == 26 and networks.mape < 13.5


def test_networks_outside_their_interval_are_within_what_frames_per_second_leave_open(
    evaluated: list[Evaluation],
) -> None:
    """Latency is 1.6-2.1 x 1000/fps: 0.87 to 1.15 times the figure taken. No network with a synchronous time is out."""
    networks = evaluated[-1]
    assert networks.low_ms is not None and networks.high_ms is not None
    for name, ms, low, high in zip(
        networks.names, networks.measured_ms, networks.low_ms, networks.high_ms, strict=True
    ):
        if not low <= ms <= high:
            assert name.startswith(("mobilenet", "efficientnet")), name
            assert low <= 1.15 * ms and 0.87 * ms <= high, name


def test_header_of_the_rebuilt_profile(header: Header) -> None:
    assert header.interval.networks == 26 and header.interval.coverage == 0.9
    assert 1 <= header.models["conv_1x1"].in_network < 1.2 and 1 < header.network_ms < 5
    cycle_ns = header.models["conv_kxk"].coefficients["engine_cycles"]
    assert 1 / 0.7 <= cycle_ns <= 1.2 / 0.7  # the engine's clock is 700 MHz
    assert source_ratios(DATA)[0] > 1.5
