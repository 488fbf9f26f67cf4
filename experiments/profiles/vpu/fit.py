"""Fits the Myriad X from its samples, and predicts what a fit did not see.

Layers and micro-benchmarks give the price of every kernel alone; whole networks give two numbers, the time of
kernels inside a network over alone and what an element of the image costs besides. Needs scipy.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from experiments.profiles.regression import fit_absolute, predicted_ratios
from experiments.profiles.vpu.samples import COUNTED, IMAGE, Measured
from latency_models.fit.regression import Sample, round_significant

Ratios = NDArray[np.float64]


@dataclass(frozen=True)
class Level:
    """A network takes `in_network` times the sum of its kernels, and `image_ms` a million elements of its image.

    The latter holds the call and the transfer: no constant is left beside it, as networks of 32 pixels show.
    """

    in_network: float
    image_ms: float


def fit_layers(data: Measured, without: str | None = None) -> dict[str, float]:
    """Coefficients of the form, from all single layers but those counted in the network `without`."""
    return fit_absolute([*(s for s in data.layers if s.group != without), *data.micro])


def fit_level(networks: Sequence[Sample], coefficients: Mapping[str, float]) -> Level:
    """By non-negative least squares on relative error."""
    from scipy.optimize import nnls

    sums = predicted_ratios(networks, coefficients)
    images = np.array([sample.terms[IMAGE] / sample.latency_ms for sample in networks])
    (in_network, image_ms), _ = nnls(np.column_stack([sums, images]), np.ones(len(networks)))
    return Level(round_significant(float(in_network)), round_significant(float(image_ms)))


def network_ratios(
    networks: Sequence[Sample], coefficients: Mapping[str, float], level: Level, *, image: bool = True
) -> Ratios:
    """Predicted over measured time of whole networks: (N,). image: with its transfer."""
    kernels = level.in_network * predicted_ratios(networks, coefficients)
    image_ms = level.image_ms if image else 0.0
    return kernels + image_ms * np.array([sample.terms[IMAGE] / sample.latency_ms for sample in networks])


def unseen_engine_layers(data: Measured) -> Ratios:
    """Predicted over measured time of `data.engine` (N,), each by a fit without the layers of its network."""
    fits = {network: fit_layers(data, network) for network in COUNTED.values()}
    return np.array([predicted_ratios([layer], fits[str(layer.group)])[0] for layer in data.engine])


def unseen_depthwise(data: Measured, size: int) -> Ratios:
    """Predicted over measured time of the depthwise rows of one kernel size, (N,), by a fit without them all."""
    alike = [sample for sample in data.micro if sample.group == f"depthwise {size}"]
    others = replace(data, micro=[sample for sample in data.micro if sample not in alike])
    return predicted_ratios(alike, fit_layers(others))


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
        ratios.append(network_ratios([network], coefficients, level)[0])
    return np.array(ratios)
