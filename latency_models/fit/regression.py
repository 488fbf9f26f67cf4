"""Non-negative least squares on relative error, and figures of errors. Needs scipy.

A sample is a sum of features, so that layers and whole networks are fitted alike. Not for prediction.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from device_profiles import Kernel, Lanes
from latency_models.features import FEATURES

Form = Mapping[str, Mapping[str, str]]
"""Kernel kind -> feature -> name of its coefficient. Features with one name share one coefficient."""

DIGITS = 5  # significant digits of a stored coefficient


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
    solution, _ = nnls(relative_terms(samples, names), np.array([sample.weight for sample in samples]))
    return {name: round_significant(float(value)) for name, value in zip(names, solution, strict=True)}


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


def relative_terms(samples: Sequence[Sample], names: Sequence[str]) -> NDArray[np.float64]:
    """Every sample's terms over its measured ms, times its weight: (samples, names)."""
    rows = [[s.terms.get(name, 0.0) * s.weight / s.latency_ms for name in names] for s in samples]
    return np.array(rows)
