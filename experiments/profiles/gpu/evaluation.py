"""How far the A100's TensorRT predictor is from measurements that it did not see.

The form was chosen among three on the networks held out here; the factors set on networks never saw what they are
held against.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from experiments.profiles.gpu.fit import network_samples, v100_samples, work_of_kernels
from experiments.profiles.regression import conformal_factors, held_out_ratios, predicted_ratios
from latency_models.fit.regression import fit_coefficients
from latency_models.intervals import largest_coverage
from latency_models.scores import Evaluation

SPLIT_SEED, UNSEEN_SHARE = 0, 0.2


def evaluations(folder: Path) -> list[Evaluation]:
    """Every held-out set; no mark is set for this device."""
    return [_networks(folder), *_v100_kernels(folder)]


def _networks(folder: Path) -> Evaluation:
    """Each network by a level fitted to the others, its interval from the others' own errors.

    That is one network fewer than the shipped interval rests on, so the claim is a little smaller.
    """
    networks = network_samples(folder, work_of_kernels(folder))
    ratios = held_out_ratios(networks, networks)
    coverage = round(largest_coverage(len(networks) - 1) - 0.025, 1)
    factors = [conformal_factors(np.delete(ratios, i), coverage) for i in range(len(ratios))]
    times = np.array([network.latency_ms for network in networks])
    low, high = (np.array(ends) * ratios * times for ends in zip(*factors, strict=True))
    names = [network.name for network in networks]
    return Evaluation("leave one network out", names, times, ratios * times, low, high, coverage)


def _v100_kernels(folder: Path) -> list[Evaluation]:
    """The forms before they are rescaled, on a fifth of the V100's rows that they were not fitted to."""
    sets = []
    for kind, samples in v100_samples(folder, "fp16").items():
        order = np.random.default_rng(SPLIT_SEED).permutation(len(samples))
        count = round(len(order) * UNSEEN_SHARE)
        unseen, seen = ([samples[i] for i in part] for part in (order[:count], order[count:]))
        times = np.array([sample.latency_ms for sample in unseen])
        predicted = predicted_ratios(unseen, fit_coefficients(seen)) * times
        names = [sample.name for sample in unseen]
        sets.append(Evaluation(f"V100 {kind} (before rescaling), rows not fitted", names, times, predicted))
    return sets
