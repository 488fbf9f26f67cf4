"""How far predictions are from measurements: the figures of `evaluate` and of the verification on a device."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from latency_models.fit.regression import mape, within
from latency_models.intervals import binomial_interval

Times = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Evaluation:
    """Predictions of things that the predictor did not see, beside their measured times.

    names, measured_ms, predicted_ms: (N,). low_ms, high_ms: (N,) ends of the interval that claims to
    hold a share `coverage`, or None. mark: what is to be reached, as text; empty where there is none.
    reached: whether the mark is, None where there is none.
    """

    name: str
    names: Sequence[str]
    measured_ms: Times
    predicted_ms: Times
    low_ms: Times | None = None
    high_ms: Times | None = None
    coverage: float | None = None
    mark: str = ""
    reached: bool | None = None

    def part(self, name: str, chosen: Sequence[bool] | NDArray[np.bool_]) -> Evaluation:
        """Those of the set that are chosen, (N,), without its mark."""
        at = np.flatnonzero(chosen)
        low, high = (None if end is None else end[at] for end in (self.low_ms, self.high_ms))
        names = [self.names[i] for i in at.tolist()]
        return Evaluation(name, names, self.measured_ms[at], self.predicted_ms[at], low, high, self.coverage)

    @property
    def ratios(self) -> Times:
        """Predicted over measured."""
        return self.predicted_ms / self.measured_ms

    @property
    def mape(self) -> float:
        """Mean absolute percentage error."""
        return mape(self.ratios)

    def within(self, share: float) -> float:
        """Percentage whose error is at most `share` (0.1 = 10 %)."""
        return within(self.ratios, share)

    @property
    def rmse_ms(self) -> float:
        """Root mean square error in ms."""
        return float(np.sqrt(((self.predicted_ms - self.measured_ms) ** 2).mean()))

    @property
    def spearman(self) -> float:
        """Rank correlation; NaN for fewer than three."""
        from scipy.stats import spearmanr

        return float(spearmanr(self.predicted_ms, self.measured_ms).statistic) if len(self.names) > 2 else float("nan")

    @property
    def inside(self) -> int | None:
        """How many measured times lie within their interval; None without intervals."""
        if self.low_ms is None or self.high_ms is None:
            return None
        return int(((self.low_ms <= self.measured_ms) & (self.measured_ms <= self.high_ms)).sum())

    @property
    def coverage_holds(self) -> bool | None:
        """Whether the claim lies in the 95 % binomial interval of the observed coverage."""
        if self.inside is None or self.coverage is None:
            return None
        low, high = binomial_interval(self.inside, len(self.names))
        return low <= self.coverage <= high

    def coverage_text(self) -> str:
        """Such as '90 % claimed, 74 of 82 inside (81..95 %)'."""
        if self.inside is None or self.coverage is None:
            return "none claimed"
        low, high = binomial_interval(self.inside, len(self.names))
        return f"{self.coverage:.0%} claimed, {self.inside} of {len(self.names)} inside ({low:.0%}..{high:.0%})"
