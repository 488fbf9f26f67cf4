"""From coefficients to the model of a kernel kind in a profile's header, with what they rest on.

Not for fitting coefficients (`regression`).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from device_profiles import KindModel
from latency_models.fit.regression import round_significant

WIDENING_RULE = (
    "A kind that none of these networks contains, or on whose price they disagree, has its low end divided and its "
    "high end multiplied by a factor of its own (`widen`), a kernel size with few rows by one more, "
    "whose reason stands there: no quantile. The ends add up "
    "over kernels, so an interval widens with the share of predicted time in such kinds."
)


@dataclass(frozen=True)
class Evidence:
    """What a kind's coefficients rest on.

    origin: 'measured', 'fitted' or 'derived'; source: from what, in words; support: kernel size -> how many measured
    rows. judged: by what factor the kind's price may be off either way where the networks that set the interval do not
    contain it, or disagree on it (1: neither), and reason, why so. judged_sizes: by what factor more a kernel size may.
    """

    origin: str
    source: str
    support: Mapping[int, int]
    judged: float = 1.0
    reason: str = ""
    judged_sizes: Mapping[int, float] = field(default_factory=dict)


def kind_model(coefficients: Mapping[str, float], evidence: Evidence, factors: tuple[float, float]) -> KindModel:
    """A model with its interval's ends, widened by what was judged where no calibrating network contains the kind."""
    return KindModel(
        coefficients={feature: round_significant(value) for feature, value in coefficients.items()},
        origin=evidence.origin,
        source=evidence.source,
        support=dict(evidence.support),
        low_factor=round(factors[0] / evidence.judged, 3),
        high_factor=round(factors[1] * evidence.judged, 3),
        widen=evidence.judged,
        judged=evidence.reason,
        widen_sizes=dict(evidence.judged_sizes),
    )
