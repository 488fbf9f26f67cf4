"""Fits the Myriad X from its samples, and predicts what a fit did not see.

Layers and micro-benchmarks give the price of every kernel alone; whole networks give two numbers, the time of
kernels inside a network over alone and what every network pays besides. Needs scipy.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from experiments.profiles.regression import fit_absolute, predicted_ratios
from experiments.profiles.vpu.samples import COUNTED, Measured
from latency_models.fit.regression import Sample, round_significant

Ratios = NDArray[np.float64]


@dataclass(frozen=True)
class Level:
    """A network takes `in_network` times the sum of its kernels and `network_ms` (call, transfer of the image)."""

    in_network: float
    network_ms: float


def fit_layers(data: Measured, without: str | None = None) -> dict[str, float]:
    """Coefficients of the form, from all single layers but those counted in the network `without`."""
    return fit_absolute([*(s for s in data.layers if s.group != without), *data.micro])


def fit_level(networks: Sequence[Sample], coefficients: Mapping[str, float]) -> Level:
    """By non-negative least squares on relative error."""
    from scipy.optimize import nnls

    sums = predicted_ratios(networks, coefficients)
    constants = np.array([1 / sample.latency_ms for sample in networks])
    (in_network, network_ms), _ = nnls(np.column_stack([sums, constants]), np.ones(len(networks)))
    return Level(round_significant(float(in_network)), round_significant(float(network_ms)))


def unseen_engine_layers(data: Measured) -> Ratios:
    """Predicted over measured time of `data.engine` (N,), each by a fit without the layers of its network."""
    fits = {network: fit_layers(data, network) for network in COUNTED.values()}
    return np.array([predicted_ratios([layer], fits[str(layer.group)])[0] for layer in data.engine])


def unseen_networks(data: Measured) -> Ratios:
    """Predicted over measured time of `data.networks`: (N,).

    Each by a level without its family and, for those whose layers were counted, a form without its own layers (those
    of its two relatives stay).
    """
    fits = {network: fit_layers(data, network) for network in (None, *COUNTED.values())}
    ratios = []
    for network in data.networks:
        coefficients = fits[COUNTED.get(network.name)]
        level = fit_level([other for other in data.networks if other.group != network.group], coefficients)
        alone = predicted_ratios([network], coefficients)[0]
        ratios.append(level.in_network * alone + level.network_ms / network.latency_ms)
    return np.array(ratios)
