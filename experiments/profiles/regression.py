"""Fits of whole tables with groups held out, and intervals from their errors. Needs scipy.

Beside `latency_models.fit.regression`, which has the samples and the plain fit.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from latency_models.fit.regression import Sample, fit_coefficients, relative_terms, round_significant
from latency_models.intervals import rank_quantiles

REWEIGHTINGS, SQUARED_BELOW = 50, 0.03  # of `fit_absolute`


def fit_absolute(samples: Sequence[Sample]) -> dict[str, float]:
    """Coefficients >= 0 that minimise the weighted absolute relative error (squared below 3 %).

    A few samples that no form explains pull less than in `fit_coefficients`. By re-weighted least squares.
    """
    from scipy.optimize import nnls

    names = list(dict.fromkeys(name for sample in samples for name in sample.terms))
    design, weights = relative_terms(samples, names), np.array([sample.weight for sample in samples])
    share = design / weights[:, None]
    solution, _ = nnls(design, weights)
    for _ in range(REWEIGHTINGS):
        root = np.sqrt(weights / np.maximum(np.abs(share @ solution - 1), SQUARED_BELOW))
        solution, _ = nnls(share * root[:, None], root)
    return {name: round_significant(float(value)) for name, value in zip(names, solution, strict=True)}


def predicted_ratios(samples: Sequence[Sample], coefficients: Mapping[str, float]) -> NDArray[np.float64]:
    """Predicted over measured, one a sample: (N,)."""
    totals = [sum(coefficients.get(n, 0.0) * v for n, v in s.terms.items()) / s.latency_ms for s in samples]
    return np.array(totals)


def held_out_ratios(samples: Sequence[Sample], among: Sequence[Sample]) -> NDArray[np.float64]:
    """Predicted over measured for `among` (N,), every one predicted by a fit without its group."""
    fits: dict[Hashable, dict[str, float]] = {}
    for group in {sample.group for sample in among}:
        fits[group] = fit_coefficients([other for other in samples if other.group != group])
    return np.array([predicted_ratios([sample], fits[sample.group])[0] for sample in among])


def conformal_factors(ratios: NDArray[np.float64], coverage: float) -> tuple[float, float]:
    """The interval's ends as factors on a prediction: (low, high).

    Between them lies a new network's measured time with at least `coverage`, if its error is exchangeable with these.
    ratios: predicted over measured, (N,). Raises `UserError` where N is too small for the coverage.
    """
    factors = sorted(float(factor) for factor in 1 / ratios)
    low, high = rank_quantiles(factors, factors, coverage)
    return min(1.0, low), max(1.0, high)
