"""Measured networks that differ in a few layers alone: what their difference says of those layers' price.

The fit counts every network once; these differences of its own times only judge how sure a kind's price is.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from experiments.profiles.regression import predicted_ratios
from latency_models.fit.regression import Sample

PAIRS: Mapping[str, tuple[tuple[str, str], ...]] = {
    "add": (("squeezeresnet", "squeezenet"),),
    "mul": (("seresnet", "resnet"), ("sepreresnet", "preresnet")),
    "batch_norm": (("preresnet", "resnet"), ("sepreresnet", "seresnet")),
}
"""Kind -> families whose networks of one name differ in it: with and without.

Products come with their pooling and two convolutions of one pixel, norms (and their ReLU) with padding.
"""


def differences(networks: Sequence[Sample], kind: str) -> list[Sample]:
    """Every pair of a kind as a sample of its own; the group is both families.

    networks: as `networks.samples` gives them.
    """
    by_name = {sample.name: sample for sample in networks}
    found = []
    for with_it, without in PAIRS[kind]:
        for name, less in by_name.items():
            more = by_name.get(with_it + name.removeprefix(without)) if name.startswith(without) else None
            if more is not None:
                terms = {term: value - less.terms.get(term, 0.0) for term, value in more.terms.items()}
                ms = more.latency_ms - less.latency_ms
                found.append(Sample(f"{more.name} - {less.name}", terms, ms, group=(with_it, without)))
    return found


def measured_over_predicted(
    networks: Sequence[Sample], kind: str, coefficients: Mapping[str, float]
) -> tuple[float, float]:
    """The smallest and the largest over the pairs of a kind."""
    ratios = 1 / predicted_ratios(differences(networks, kind), coefficients)
    return float(ratios.min()), float(ratios.max())
