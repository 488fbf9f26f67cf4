"""Which kernel to time next: where the predictor is least sure of the time that networks spend there.

Pure: rows in, kernels out. Not for timing (`timing`) and not for the final fit (`fit.kernels.fit_device`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import inf

import numpy as np
from numpy.typing import NDArray

from device_profiles import Kernel, KernelRow, KindModel, Lanes
from latency_models.features import COORDINATES, form_ms
from latency_models.fit.kernels import FEWEST_ROWS_FOR_SCALES, left_out_errors
from latency_models.residual import GaussianProcess, coordinates, fit_residual

SEED = FEWEST_ROWS_FOR_SCALES  # kernels of every kind before anything is predicted
Array = NDArray[np.float64]


def seed_kernels(kernels: Sequence[Kernel]) -> list[Kernel]:
    """A few of every kind and kernel size: the largest, then always the one farthest from those chosen.

    A runtime may take another path for one size of a kind, which no row of another size tells.
    """
    groups: dict[tuple[str, int], list[Kernel]] = {}
    for kernel in kernels:
        groups.setdefault((kernel.price_kind, kernel.spec.kernel_size), []).append(kernel)
    return [kernel for own in groups.values() for kernel in _extremes(own)]


def predictor_error(
    rows: Sequence[KernelRow], models: Mapping[str, KindModel], counts: Mapping[Kernel, float]
) -> float:
    """Mean relative error of rows predicted without themselves, weighted by the time that networks spend there.

    counts: how often a network holds a kernel. Infinite without rows.
    """
    if not rows:
        return inf
    errors = np.abs(np.expm1(left_out_errors(rows, models)))
    weights = np.array([row.latency_ms * counts.get(row.kernel, 0.0) for row in rows])
    return float((errors * weights).sum() / weights.sum())


def next_kernels(
    kernels: Sequence[Kernel],
    rows: Sequence[KernelRow],
    models: Mapping[str, KindModel],
    counts: Mapping[Kernel, float],
    number: int,
) -> list[Kernel]:
    """The kernels not yet timed that are least certain, in ms of an average network.

    One after the other: every choice lowers the uncertainty of those near it.
    """
    measured = {row.kernel for row in rows}
    waiting: dict[str, list[Kernel]] = {}
    for kernel in kernels:
        if kernel not in measured:
            waiting.setdefault(kernel.price_kind, []).append(kernel)
    known = {kind: [row.kernel for row in rows if row.kernel.price_kind == kind] for kind in waiting}
    chosen: list[Kernel] = []
    uncertain = {kind: _uncertain_ms(own, known[kind], models[kind], counts) for kind, own in waiting.items()}
    while len(chosen) < number and uncertain:
        kind = max(uncertain, key=lambda kind: float(uncertain[kind].max()))
        kernel = waiting[kind].pop(int(uncertain[kind].argmax()))
        chosen.append(kernel)
        known[kind].append(kernel)
        if waiting[kind]:
            uncertain[kind] = _uncertain_ms(waiting[kind], known[kind], models[kind], counts)
        else:
            del uncertain[kind]
    return chosen


def _uncertain_ms(
    kernels: Sequence[Kernel], known: Sequence[Kernel], model: KindModel, counts: Mapping[Kernel, float]
) -> Array:
    """(N,): count in a network x ms by the form x standard deviation of its logarithm, `known` kernels timed."""
    assert model.residual is not None
    process: GaussianProcess = fit_residual(model.residual, known, [0.0] * len(known))
    deviations = process.at(coordinates(kernels, model.residual))[1]
    lanes = Lanes()
    forms = [form_ms(model, kernel, lanes) for kernel in kernels]
    result: Array = np.array([counts.get(kernel, 0.0) for kernel in kernels]) * np.array(forms) * deviations
    return result


def _extremes(kernels: Sequence[Kernel]) -> list[Kernel]:
    points = np.array([[read(kernel) for read in COORDINATES.values()] for kernel in kernels])
    chosen = [int(points.sum(1).argmax())]
    while len(chosen) < min(SEED, len(kernels)):
        gaps = np.abs(points[:, None] - points[None, chosen]).sum(2).min(1)
        gaps[chosen] = -1.0  # kernels may differ in what is fused alone
        chosen.append(int(gaps.argmax()))
    return [kernels[i] for i in chosen]
