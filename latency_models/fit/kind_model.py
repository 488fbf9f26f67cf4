"""From coefficients to the model of a kernel kind in a profile's header, with what they rest on.

Not for fitting coefficients (`regression`).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from device_profiles import KindModel
from latency_models.fit.regression import round_significant

WIDENING = 2.0
WIDENING_RULE = (
    "A derived kind that none of these networks contains has its low end divided and its high end multiplied "
    f"by {WIDENING:g}: a judgement, not a quantile. The ends add up over kernels, so an interval widens with the "
    "share of predicted time in such kinds."
)


@dataclass(frozen=True)
class Evidence:
    """What a kind's coefficients rest on.

    origin: 'measured', 'fitted' or 'derived'; source: from what, in words; support: kernel size -> how many measured
    rows; in_networks: whether the networks that set the interval contain the kind.
    """

    origin: str
    source: str
    support: Mapping[int, int]
    in_networks: bool


def kind_model(coefficients: Mapping[str, float], evidence: Evidence, factors: tuple[float, float]) -> KindModel:
    """A model with its interval's ends, widened where no calibrating network contains the kind."""
    widen = 1.0 if evidence.in_networks else WIDENING
    return KindModel(
        coefficients={feature: round_significant(value) for feature, value in coefficients.items()},
        origin=evidence.origin,
        source=evidence.source,
        support=dict(evidence.support),
        low_factor=round(factors[0] / widen, 3),
        high_factor=round(factors[1] * widen, 3),
        widen=widen,
    )
