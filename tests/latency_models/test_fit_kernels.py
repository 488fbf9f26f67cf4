"""A device fitted from its own rows and networks: simulated devices whose truth is known."""

from __future__ import annotations

import random
from collections.abc import Callable, Collection, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from device_profiles import Header, Kernel, KernelRow, Lanes, save_profile
from latency_models import LatencyModel, fit_latency_model, fuse, latency_table
from latency_models.features import FEATURES
from latency_models.fit import kernels as fitting
from latency_models.fit.kernels import UNSEEN, fit_device, fit_kinds, left_out_errors, other_paths
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


# --- a kernel size that takes another path in the runtime


def slow_sevens(kernel: Kernel) -> float:
    """As XNNPACK runs 7x7 depthwise convolutions: 17 times the time."""
    slow = kernel.price_kind == "dwconv" and kernel.spec.kernel_size == 7
    return alone_ms(kernel) * (17 if slow else 1)


def depthwise(sizes: Collection[int]) -> list[Kernel]:
    found = grid_kernels(map(load_space, ("quadranet", "proxyless")), RULES)
    return [kernel for kernel in found if kernel.price_kind == "dwconv" and kernel.spec.kernel_size in sizes]


def rows_by(time: Callable[[Kernel], float], kernels: Sequence[Kernel]) -> list[KernelRow]:
    return [KernelRow(kernel, time(kernel), 0.0, 10, "measured", "sim") for kernel in kernels]


def profiled(header: Header, rows: list[KernelRow], folder: Path) -> LatencyModel:
    own = replace(header, kernel_rows=len(rows), models={**header.models, **fit_kinds(rows)})
    return fit_latency_model(save_profile(folder / "mine", own, rows))


def test_a_size_on_another_path_has_a_form_of_its_own(
    header: Header, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Half of the kernels predicted from the other half; one form for all sizes is far off for two of three."""
    kernels = depthwise((3, 5, 7))
    taken, left = kernels[::2], kernels[1::2]

    def errors(model: LatencyModel) -> dict[int, float]:
        off = [(k.spec.kernel_size, abs(model.kernel_alone(k)[0] / slow_sevens(k) - 1)) for k in left]
        return {size: float(np.mean([error for own, error in off if own == size])) for size in (3, 5, 7)}

    model = profiled(header, rows_by(slow_sevens, taken), tmp_path / "paths")
    assert max(errors(model).values()) < 0.2
    kind = model.kind_model(left[0])
    assert set(kind.sizes) == {3, 5, 7}
    ((size, times),) = other_paths(kind, taken).items()
    assert size == 7 and 8 < times < 40
    monkeypatch.setattr(fitting, "OTHER_PATH", np.inf)
    common = errors(profiled(header, rows_by(slow_sevens, taken), tmp_path / "common"))
    assert common[5] > 1 and common[7] > 0.5


def test_sizes_on_one_path_share_its_form() -> None:
    kernels = depthwise((3, 5, 7))
    model = fit_kinds(rows_by(alone_ms, kernels))["dwconv"]
    assert not model.sizes and other_paths(model, kernels) == {}


@pytest.mark.parametrize("time", [alone_ms, slow_sevens])
def test_a_size_that_was_never_measured_is_derived_and_widened(
    header: Header, tmp_path: Path, time: Callable[[Kernel], float]
) -> None:
    """The law: other sizes price it as derived only, within a factor as wide as measured paths are apart."""
    measured = (3, 7) if time is slow_sevens else (3, 5)
    model = profiled(header, rows_by(time, depthwise(measured)), tmp_path)
    ((asked,),) = ([k for k in depthwise((5, 7)) if k.spec.kernel_size not in measured][:1],)
    known = next(k for k in depthwise(measured))
    kind = model.kind_model(asked)
    assert kind.origin_of(asked.spec.kernel_size) == "derived" and kind.origin_of(3) == "measured"
    assert kind.unseen >= (8 if time is slow_sevens else UNSEEN)
    width = [model.kernel_price(k).high_ms / model.kernel_price(k).low_ms for k in (asked, known)]
    assert width[0] > 0.99 * kind.unseen**2 * width[1]
    if time is slow_sevens:  # a dear path is not missed
        assert model.form_ms(asked) > 3 * alone_ms(asked)


def test_a_network_says_which_size_was_never_measured(header: Header, kernels: list[Kernel], tmp_path: Path) -> None:
    rows = rows_of([k for k in kernels if k.price_kind != "dwconv" or k.spec.kernel_size != 7])
    model = fit_latency_model(
        save_profile(tmp_path / "mine", replace(header, kernel_rows=len(rows), models=fit_kinds(rows)), rows)
    )
    sevens = next(
        n.segments
        for n in networks(20, seed=5)
        if any(k.spec.kernel_size == 7 for s in n.segments for k in fuse(s.nodes, RULES))
    )
    support = model.support(sevens)
    assert support.derived > 0
    assert "7x7 depthwise" in support.thin_words and "(derived)" in support.thin_words
    assert "7x7 depthwise" in " ".join(support.notes("mine"))
