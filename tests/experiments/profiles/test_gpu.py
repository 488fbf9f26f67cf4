"""The A100's two predictors: which rows teach what, and what they reach on measurements that they did not see."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from device_profiles import Kernel, load_profile
from experiments.profiles import DATA
from experiments.profiles.evaluate import main
from experiments.profiles.gpu import profile as gpu
from experiments.profiles.gpu_eager_fp32 import profile as gpu_eager
from experiments.profiles.gpu_eager_fp32.fit import (
    MOST_ROWS,
    RESIDUALS,
    fit_form,
    log_ratios,
    spread_out,
    without_outliers,
)
from experiments.profiles.gpu_eager_fp32.networks import efficientnet, resnet50
from experiments.profiles.gpu_eager_fp32.rows import Drift, Measured, conv_rows, element_wise_rows, linear_rows, split
from latency_models import fuse
from latency_models.gpu_blocks import Product, winograd_macs
from latency_models.scores import Evaluation
from search_space import Kind, LayerSpec, load_space, lower
from search_space.errors import BadFile


@pytest.fixture(scope="module")
def eager() -> list[Evaluation]:
    return gpu_eager.evaluations(DATA)


def product(rows: int, depth: int, columns: int) -> Kernel:
    return Kernel(LayerSpec(Kind.LINEAR, depth, columns, rows, 1))


def products(count: int) -> Measured:
    rng = np.random.default_rng(0)
    kernels = [product(*(int(size) for size in rng.integers(64, 4096, 3))) for _ in range(count)]
    times = np.array([0.05 + kernel.spec.macs * 1.2e-10 for kernel in kernels])
    return Measured(kernels, times, np.zeros(count))


def test_blocks_of_a_product_by_hand() -> None:
    found = Product.of(product(130, 64, 64))
    assert found.padded_macs == 160 * 64 * 64
    assert found.wave_macs((128, 128)) == 108 * 128 * 128 * 64  # two blocks, one wave
    assert found.idle((128, 128)) == pytest.approx(found.shown * np.log(108 / 2))


def test_winograd_tiles_a_pile_of_images_one_by_one() -> None:
    one = Kernel(LayerSpec(Kind.CONV, 16, 16, 5, 5, 3, 1, 1))
    pile = Kernel(LayerSpec(Kind.CONV, 16, 16, 35, 5, 3, 1, 1))
    assert winograd_macs(one) == 4 * 36 * 16 * 16 and winograd_macs(pile) == 7 * winograd_macs(one)
    strided = Kernel(LayerSpec(Kind.CONV, 16, 16, 6, 6, 2, 2, 0))
    assert winograd_macs(strided) == strided.spec.macs


def test_a_row_that_its_neighbours_contradict_is_left_out() -> None:
    rows = products(300)
    spoilt = Measured(rows.kernels, np.where(np.arange(300) == 7, 3 * rows.latency_ms, rows.latency_ms), rows.elapsed)
    kept = without_outliers(spoilt, fit_form(spoilt)[0], RESIDUALS["linear"])
    assert rows.kernels[7] not in kept.kernels and len(kept.kernels) >= 295


def test_the_form_of_products_is_recovered() -> None:
    rows = products(200)
    assert np.abs(log_ratios(rows, fit_form(rows)[0])).mean() < 0.02


def test_the_drift_of_the_convolutions_run_is_recovered_and_taken_off() -> None:
    rng = np.random.default_rng(0)
    kernels = [
        Kernel(LayerSpec(Kind.CONV, *(int(c) for c in rng.integers(8, 900, 2)), 14, 14, 3, 1, 1)) for _ in range(400)
    ]
    alone = np.array([0.06 + winograd_macs(kernel) * 2e-10 for kernel in kernels])
    elapsed = np.arange(400) / 400
    read = Measured(kernels, alone + Drift((0.05, 0.25)).ms(elapsed), elapsed)
    coefficients, drift = fit_form(read)
    assert drift.ms_by_power == pytest.approx((0.05, 0.25), rel=0.02)
    assert coefficients["launch"] == pytest.approx(0.06, rel=0.02)
    assert read.without(drift).latency_ms == pytest.approx(alone, rel=0.01)
    assert drift.mean_ms == pytest.approx(drift.ms(np.linspace(0, 1, 1001)).mean(), rel=1e-3)


def test_a_time_below_the_drift_is_refused() -> None:
    rows = Measured([product(8, 8, 8)] * 2, np.array([0.1, 0.2]), np.array([0.0, 0.9]))
    with pytest.raises(BadFile, match=r"0\.2 ms is less than its run's drift"):
        rows.without(Drift((0.3,)))


def test_rows_are_spread_out_and_never_taken_twice() -> None:
    points = np.array([[0.0], [0.1], [5.0], [5.0], [-5.0]])
    assert spread_out(points, 3).tolist() == [1, 2, 4]  # the mean is 1.02
    assert len(spread_out(points, 9)) == 4


@pytest.mark.parametrize(
    ("kernels", "gmacs", "count"),
    [
        (efficientnet(1.0, 1.0, 224), 0.386, 238),
        (efficientnet(1.4, 1.8, 380), 4.39, 475),
        (resnet50(), 4.09, 174),
    ],
)
def test_networks_have_their_published_size(kernels: list[Kernel], gmacs: float, count: int) -> None:
    assert sum(kernel.spec.macs for kernel in kernels) / 1e9 == pytest.approx(gmacs, rel=0.01)
    assert len(kernels) == count and not any(kernel.fused for kernel in kernels)


def test_nothing_merges_under_eager_execution() -> None:
    """Every layer of a network is one kernel, but for layer scales, which are in the weights."""
    rules = load_profile("gpu_eager_fp32").header.fusion
    for segment in lower(load_space("quadranet").largest(), 224, 1000):
        kinds = [node.spec.kind for node in segment.nodes if node.spec.kind is not Kind.SCALE]
        assert [k.spec.kind for k in fuse(segment.nodes, rules)] == kinds


def test_the_shipped_profile_says_what_was_measured() -> None:
    profile = load_profile("gpu_eager_fp32")
    measured = [row for row in profile.rows if row.origin == "measured"]
    kinds = {row.kernel.price_kind for row in measured}
    assert kinds == set(MOST_ROWS)
    for kind, model in profile.header.models.items():
        assert (model.residual is not None) == (kind in kinds) == (model.origin == "measured")
        assert sum(row.kernel.price_kind == kind for row in measured) <= MOST_ROWS.get(kind, 0)
    assert profile.header.models["dwconv"].origin == "derived" and profile.header.models["dwconv"].count(7) == 0


def test_a_fifth_of_every_table_is_unseen_and_none_is_dropped() -> None:
    for rows, count in ((linear_rows(DATA), 4522), (conv_rows(DATA), 3350), (element_wise_rows(DATA), 5880)):
        seen, unseen = split(rows)
        assert len(rows.kernels) == count and len(unseen.kernels) == round(0.2 * count)
        assert len(seen.kernels) + len(unseen.kernels) == count


@pytest.mark.slow
def test_figures_of_the_eager_kernels(eager: list[Evaluation]) -> None:
    """Where a convolution's place in its run is not known, the drift of 0 to 0.3 ms alone keeps it from its mark."""
    linear, conv, large, alone, average, element_wise, norms, networks = eager
    assert linear.reached and element_wise.reached
    assert conv.reached and alone.reached
    assert average.reached is False and average.mape < 21
    assert large.mape < 12 and norms.mape < 3
    assert len(networks.names) == 5 and networks.mape < 14


@pytest.mark.slow
def test_claimed_coverage_of_the_eager_kernels(eager: list[Evaluation]) -> None:
    claims = [found for found in eager if found.coverage]
    assert len(claims) == len(eager) - 1 and all(found.coverage_holds for found in claims)


def test_the_command_evaluates_the_tensorrt_device(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["device=gpu", f"out={tmp_path / 'out'}"]) == 0
    table = capsys.readouterr().out
    assert "| leave one network out | 6 | 9.18 |" in table and "V100 dwconv" in table
    assert {path.name for path in (tmp_path / "out").iterdir()} >= {"evaluation.md", "points.csv"}


def test_a_network_of_the_tensorrt_device_does_not_move_its_own_prediction(tmp_path: Path) -> None:
    for path in [*DATA.glob("*100_*"), *DATA.glob("gpunet_*")]:
        (tmp_path / path.name).symlink_to(path)
    table = tmp_path / "a100_networks.csv"
    text = table.read_text()
    table.unlink()
    lines = text.splitlines()
    at = next(i for i, line in enumerate(lines) if line.startswith("GPUNet-P1,TensorRT8,"))
    cells = lines[at].split(",")
    column = lines[0].split(",").index("latency_ms")
    cells[column] = str(10 * float(cells[column]))
    table.write_text("\n".join([*lines[:at], ",".join(cells), *lines[at + 1 :]]))
    before, after = (gpu.evaluations(folder)[0] for folder in (DATA, tmp_path))
    own = before.names.index("GPUNet-P1")
    assert after.predicted_ms[own] == pytest.approx(before.predicted_ms[own], rel=1e-6)
    assert after.measured_ms[own] == pytest.approx(10 * before.measured_ms[own])
