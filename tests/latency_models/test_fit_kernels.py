"""A device fitted from its own rows and networks: simulated devices whose truth is known."""

from __future__ import annotations

import random
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from device_profiles import Header, Kernel, Lanes, save_profile
from latency_models import fit_latency_model, latency_table
from latency_models.features import FEATURES
from latency_models.fit.kernels import fit_device, fit_kinds, left_out_errors
from latency_models.grid import grid_kernels
from search_space import UserError, load_space, lower
from tests.latency_models.simulated import FACTS, RULES, SPACE, alone_ms, networks, rows_of


@pytest.fixture(scope="module")
def kernels() -> list[Kernel]:
    return list(grid_kernels([SPACE], RULES))


@pytest.fixture(scope="module")
def header(kernels: list[Kernel]) -> Header:
    return fit_device(FACTS, RULES, rows_of(kernels), networks(24, seed=1))


def test_unseen_networks_are_predicted_and_the_interval_holds(
    header: Header, kernels: list[Kernel], tmp_path: Path
) -> None:
    model = fit_latency_model(save_profile(tmp_path / "mine", header, rows_of(kernels)))
    unseen = networks(100, seed=2)
    predicted = [model.predict(n.segments) for n in unseen]
    errors = [abs(p.latency_ms / n.latency_ms - 1) for p, n in zip(predicted, unseen, strict=True)]
    assert np.mean(errors) < 0.015 and max(errors) < 0.05
    inside = sum(p.low_ms <= n.latency_ms <= p.high_ms for p, n in zip(predicted, unseen, strict=True))
    assert inside >= 75  # 90 claimed, from 24 networks


def test_a_profile_of_rows_keeps_the_table_exact(header: Header, kernels: list[Kernel], tmp_path: Path) -> None:
    """Half of the rows left out: residuals and the constant must add up in the table as in predictions."""
    some = rows_of(kernels)[::2]
    model = fit_latency_model(save_profile(tmp_path / "mine", replace(header, kernel_rows=len(some)), some))
    table, rng = latency_table(model, SPACE, 224, 1000), random.Random(0)
    assert model.runtime_price.ms == header.network_ms > 0
    for _ in range(50):
        path = SPACE.random_path(rng)
        whole = model.predict(lower(SPACE.architecture(path), 224, 1000))
        assert table.path_ms(path) == pytest.approx(whole.latency_ms, rel=1e-9)
        assert table.upper_end().path_ms(path) == pytest.approx(whole.high_ms, rel=1e-9)


def test_the_residual_learns_what_the_form_cannot_and_widens_away_from_rows(
    header: Header, kernels: list[Kernel], tmp_path: Path
) -> None:
    dense = [k for k in grid_kernels(map(load_space, ("quadranet", "quadranet_t", "proxyless")), RULES)
             if k.price_kind == "conv_1x1" and not k.fused]  # fmt: skip
    taken, left = dense[::2], dense[1::2]
    rows = rows_of(taken)
    profile = save_profile(tmp_path / "mine", replace(header, kernel_rows=len(rows), models=fit_kinds(rows)), rows)
    model = fit_latency_model(profile)
    formed = [model.form_ms(k) / alone_ms(k) - 1 for k in left]
    learnt = [model.kernel_alone(k)[0] / alone_ms(k) - 1 for k in left]
    assert np.abs(learnt).mean() < 0.7 * np.abs(formed).mean()
    near, far = left[0], replace(left[0], spec=replace(left[0].spec, in_channels=4000, out_channels=9000))
    assert model.kernel_alone(far)[1] > 1.5 * model.kernel_alone(near)[1] > 0
    assert model.kernel_alone(taken[0]) == (pytest.approx(alone_ms(taken[0]), rel=1e-5), 0.0)


def test_left_out_errors_are_those_of_a_row_taken_away(kernels: list[Kernel]) -> None:
    """Against the slow way: the residual refitted without the row, the form kept."""
    from latency_models.residual import coordinates, fit_residual

    rows = rows_of([k for k in kernels if k.price_kind == "dwconv"], noise=0.05)
    models = fit_kinds(rows)
    model, lanes = models["dwconv"], Lanes()
    assert model.residual is not None
    ratios = np.array([
        np.log(r.latency_ms / sum(c * FEATURES[f](r.kernel, lanes) for f, c in model.coefficients.items()))
        for r in rows
    ])  # fmt: skip
    others = [i for i in range(len(rows)) if i != 3]
    process = fit_residual(model.residual, [rows[i].kernel for i in others], ratios[others].tolist())
    mean, _ = process.at(coordinates([rows[3].kernel], model.residual))
    assert left_out_errors(rows, models)[3] == pytest.approx(ratios[3] - mean[0], abs=1e-9)


def test_too_few_networks_are_refused(kernels: list[Kernel]) -> None:
    with pytest.raises(UserError, match="at least 5"):
        fit_device(FACTS, RULES, rows_of(kernels), networks(4, seed=1))


def test_a_kind_without_rows_is_named(kernels: list[Kernel]) -> None:
    with pytest.raises(UserError, match="no model of kernel kind 'gelu'"):
        fit_device(FACTS, RULES, rows_of([k for k in kernels if k.price_kind != "gelu"]), networks(5, seed=1))
