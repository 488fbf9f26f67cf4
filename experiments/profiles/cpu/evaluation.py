"""How far the Cortex-A76's predictors are from measurements that they did not see.

The form was chosen among some twenty on the ImageNet networks held out here, and looked at on NAS-Bench-201;
coefficients, scale and intervals never saw what they are held against.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from experiments.profiles.cpu.nas_bench import nas_bench_samples
from experiments.profiles.cpu.networks import FP32, Variant, by_family, samples
from experiments.profiles.regression import conformal_factors, held_out_ratios, predicted_ratios
from latency_models.fit.regression import Sample, fit_coefficients
from latency_models.scores import Evaluation

Ratios = NDArray[np.float64]
COVERAGE = 0.9
TRAINED, SEED, FOLDS = 500, 0, 10  # of the 1,000 networks of NAS-Bench-201


def evaluations(folder: Path) -> list[Evaluation]:
    """Every held-out set of `cpu`."""
    one, family = network_evaluations(folder, FP32)
    return [
        replace(one, mark="MAPE < 2.5 %, at most 2 outside 10 %", reached=one.mape < 2.5 and _outside(one) <= 2),
        replace(family, mark=">= 93 % within 10 %", reached=family.within(0.1) >= 93),
        *_nas_bench(folder),
    ]


def network_evaluations(folder: Path, variant: Variant) -> list[Evaluation]:
    """Without the network and its twins, then without its family.

    Intervals come from the networks left that were held out in the same way.
    """
    networks = samples(folder, variant)
    named = {"leave one network out (twins together)": networks, "leave one family out": by_family(networks)}
    sets = []
    for name, grouped in named.items():
        ratios = held_out_ratios(grouped, grouped)
        sets.append(_evaluation(name, grouped, ratios, _factors_without(ratios, [s.group for s in grouped])))
    return sets


def _nas_bench(folder: Path) -> list[Evaluation]:
    """Half of NAS-Bench-201 predicted from the other half.

    By a form fitted to it, and by the one of the ImageNet networks with one scale, of another version of the runtime.
    Intervals come from the other half too.
    """
    found = nas_bench_samples(folder)
    order = np.random.default_rng(SEED).permutation(len(found))
    seen, unseen = ([found[i] for i in part] for part in (order[:TRAINED], order[TRAINED:]))
    folded = [replace(sample, group=i % FOLDS) for i, sample in enumerate(seen)]
    fitted = _evaluation(
        "NAS-Bench-201, the half not fitted",
        unseen,
        predicted_ratios(unseen, fit_coefficients(seen)),
        [conformal_factors(held_out_ratios(folded, folded), COVERAGE)] * len(unseen),
    )
    coefficients = fit_coefficients(samples(folder, FP32))
    known = predicted_ratios(seen, coefficients)
    scale = float(np.median(1 / known))
    carried = _evaluation(
        "NAS-Bench-201 from the ImageNet networks, one scale",
        unseen,
        scale * predicted_ratios(unseen, coefficients),
        [conformal_factors(scale * known, COVERAGE)] * len(unseen),
    )
    return [
        replace(fitted, mark=">= 99.5 % within 10 %", reached=fitted.within(0.1) >= 99.5),
        replace(carried, mark="MAPE < 6 %", reached=carried.mape < 6),
    ]


def _outside(held_out: Evaluation) -> int:
    return int((np.abs(held_out.ratios - 1) > 0.1).sum())


def _factors_without(ratios: Ratios, groups: Sequence[Hashable]) -> list[tuple[float, float]]:
    """Ends of every sample's interval over its prediction, from the samples of other groups."""
    return [conformal_factors(ratios[[other != group for other in groups]], COVERAGE) for group in groups]


def _evaluation(
    name: str, held_out: Sequence[Sample], ratios: Ratios, factors: Sequence[tuple[float, float]]
) -> Evaluation:
    times = np.array([sample.latency_ms for sample in held_out])
    predicted = ratios * times
    low, high = (np.array(ends) * predicted for ends in zip(*factors, strict=True))
    return Evaluation(name, [sample.name for sample in held_out], times, predicted, low, high, COVERAGE)
