"""How far the eager A100's predictor is from measurements that it did not see.

Single kernels: a fifth of every table, drawn once, is predicted from the rest by forms and residuals with as many rows
as the shipped profile holds. Length scales come from the rest too. No unseen row is screened.
The convolutions' run drifted. What is predicted is a kernel without the drift; to be held against the table's times,
the drift at each row's place in the run is added, or its mean where the place is not to be known.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np

from experiments.profiles.gpu_eager_fp32.fit import Fitted, fit_kinds
from experiments.profiles.gpu_eager_fp32.level import fit_alone, network_samples
from experiments.profiles.gpu_eager_fp32.rows import Array, Measured, conv_rows, element_wise_rows, linear_rows, split
from experiments.profiles.regression import conformal_factors, held_out_ratios
from latency_models.fit.kernels import COVERAGE as KERNEL_COVERAGE
from latency_models.intervals import largest_coverage
from latency_models.scores import Evaluation
from search_space.layer import Kind

Fit = Callable[[Measured], dict[str, Fitted]]
LARGE_MACS = 9.75e9  # as many as the A100 does in 1 ms at its peak of 19.5 TFLOP/s


def evaluations(folder: Path) -> list[Evaluation]:
    """Every held-out set."""
    linear = _unseen("matrix products not fitted", *_fitted(linear_rows(folder)))
    element_wise = _unseen("element-wise kernels not fitted", *_fitted(element_wise_rows(folder), _by_kind))
    _, unseen = split(element_wise_rows(folder))
    norms = np.array([kernel.spec.kind is Kind.LAYER_NORM for kernel in unseen.kernels])
    return [
        _marked(linear, 5),
        *_convolutions(folder),
        _marked(element_wise, 2),
        element_wise.part("of these, LayerNorm", norms),
        _networks(folder),
    ]


def _convolutions(folder: Path) -> list[Evaluation]:
    models, unseen = _fitted(conv_rows(folder))
    drift = models["conv_kxk"].drift
    alone = _unseen("the same, the drift taken off both", models, unseen.without(drift))
    placed = _plus(
        alone, drift.ms(unseen.elapsed), "3x3 convolutions not fitted, the drift at their place in the run added"
    )
    expected_ms = alone.predicted_ms + drift.mean_ms
    average = Evaluation("the same, the mean drift added to all", alone.names, unseen.latency_ms, expected_ms)
    large = np.array([kernel.spec.macs >= LARGE_MACS for kernel in unseen.kernels])
    part = placed.part(f"of these, those of {LARGE_MACS / 1e9:g} GMACs and more", large)
    return [_marked(placed, 15), part, _marked(alone, 15), _marked(average, 15)]


def _fitted(rows: Measured, fit: Fit = fit_kinds) -> tuple[dict[str, Fitted], Measured]:
    """Models of the seen part's kinds, and the unseen part."""
    seen, unseen = split(rows)
    return fit(seen), unseen


def _by_kind(seen: Measured) -> dict[str, Fitted]:
    return {kind: model for part in seen.by_kind().values() for kind, model in fit_kinds(part).items()}


def _plus(found: Evaluation, ms: Array, name: str) -> Evaluation:
    """Measured and foreplaced times, each `ms` later: (N,)."""
    assert found.low_ms is not None and found.high_ms is not None
    measured, predicted = found.measured_ms + ms, found.predicted_ms + ms
    return Evaluation(name, found.names, measured, predicted, found.low_ms + ms, found.high_ms + ms, found.coverage)


def _unseen(name: str, models: Mapping[str, Fitted], unseen: Measured) -> Evaluation:
    predicted, low, high = (np.zeros(len(unseen.kernels)) for _ in range(3))
    kinds = np.array([kernel.price_kind for kernel in unseen.kernels])
    for kind, model in models.items():
        places = np.flatnonzero(kinds == kind)
        predicted[places] = model.predict(list(unseen.at(places).kernels))
        low[places], high[places] = predicted[places] * model.low_factor, predicted[places] * model.high_factor
    names = [str(kernel) for kernel in unseen.kernels]
    return Evaluation(name, names, unseen.latency_ms, predicted, low, high, KERNEL_COVERAGE)


def _marked(found: Evaluation, percent: float) -> Evaluation:
    return replace(found, mark=f"MAPE < {percent:g} %", reached=found.mape < percent)


def _networks(folder: Path) -> Evaluation:
    """Whole networks by a level fitted to those of other groups, with an interval from their errors.

    None ran in fp32: at batch 1 launches bind, so that TF32 and fp16 say about as much.
    """
    networks = network_samples(folder, fit_alone(folder))
    ratios = held_out_ratios(networks, networks)
    groups = np.array([str(network.group) for network in networks])
    fewest = min(int((groups != group).sum()) for group in groups)
    coverage = round(largest_coverage(fewest) - 0.025, 1)
    factors = [conformal_factors(ratios[groups != group], coverage) for group in groups]
    times = np.array([network.latency_ms for network in networks])
    low, high = (np.array(ends) * ratios * times for ends in zip(*factors, strict=True))
    names = [network.name for network in networks]
    name = "whole networks (TF32, fp16), each without itself and its twin"
    return Evaluation(name, names, times, ratios * times, low, high, coverage)
