"""Non-negative least squares on relative error, and intervals from held-out networks. Needs scipy.

A sample is a sum of features, so that layers and whole networks are fitted alike. Not for prediction.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from device_profiles import Kernel, Lanes
from latency_models.features import FEATURES
from latency_models.intervals import rank_quantiles

Form = Mapping[str, Mapping[str, str]]
"""Kernel kind -> feature -> name of its coefficient. Features with one name share one coefficient."""

DIGITS = 5  # significant digits of a stored coefficient
REWEIGHTINGS, SQUARED_BELOW = 50, 0.03  # of `fit_absolute`


@dataclass(frozen=True)
class Sample:
    """One measurement: summed features by coefficient name, measured ms, weight, and the held-out group."""

    name: str
    terms: Mapping[str, float]
    latency_ms: float
    weight: float = 1.0
    group: Hashable = ""


@dataclass
class Terms:
    """A sum of features under construction."""

    form: Form
    lanes: Lanes = field(default_factory=Lanes)
    values: dict[str, float] = field(default_factory=dict)

    def add(self, kernel: Kernel, count: int = 1) -> None:
        """A kernel, `count` times. Raises `KeyError` for a kind that the form does not price."""
        for feature, name in self.form[kernel.price_kind].items():
            self.add_value(name, FEATURES[feature](kernel, self.lanes) * count)

    def add_value(self, name: str, value: float) -> None:
        """A term without a kernel of this project: pooling, concatenation, grouped convolution."""
        self.values[name] = self.values.get(name, 0.0) + value


def fit_coefficients(samples: Sequence[Sample]) -> dict[str, float]:
    """Coefficients >= 0 that minimise the weighted squared relative error, to five significant digits."""
    from scipy.optimize import nnls

    names = list(dict.fromkeys(name for sample in samples for name in sample.terms))
    solution, _ = nnls(_scaled(samples, names), np.array([sample.weight for sample in samples]))
    return {name: round_significant(float(value)) for name, value in zip(names, solution, strict=True)}


def fit_absolute(samples: Sequence[Sample]) -> dict[str, float]:
    """Coefficients >= 0 that minimise the weighted absolute relative error (squared below 3 %).

    A few samples that no form explains pull less than in `fit_coefficients`. By re-weighted least squares.
    """
    from scipy.optimize import nnls

    names = list(dict.fromkeys(name for sample in samples for name in sample.terms))
    design, weights = _scaled(samples, names), np.array([sample.weight for sample in samples])
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


def mape(ratios: NDArray[np.float64]) -> float:
    """Mean absolute percentage error."""
    return float(100 * np.abs(ratios - 1).mean())


def within(ratios: NDArray[np.float64], share: float) -> float:
    """Percentage of samples whose error is at most `share` (0.1 = 10 %)."""
    return float(100 * (np.abs(ratios - 1) <= share).mean())


def summary(ratios: NDArray[np.float64]) -> str:
    """MAPE and the shares within 5 and 10 %, as text."""
    return (
        f"MAPE {mape(ratios):.2f} %, {within(ratios, 0.05):.1f} % within 5 %, {within(ratios, 0.1):.1f} % within 10 %"
    )


def round_significant(value: float) -> float:
    """The value to five significant digits, as coefficients are stored."""
    return float(f"{value:.{DIGITS}g}")


def _scaled(samples: Sequence[Sample], names: Sequence[str]) -> NDArray[np.float64]:
    rows = [[s.terms.get(name, 0.0) * s.weight / s.latency_ms for name in names] for s in samples]
    return np.array(rows)
