"""How far the Myriad X's predictor is from measurements that it did not see.

Forms, weights and the constants of `neural_engine` were compared on these same sets; coefficients, levels and
intervals never saw what they are held against.
"""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from experiments.profiles.regression import conformal_factors, predicted_ratios
from experiments.profiles.tables import NAS_BENCH_201, read_rows
from experiments.profiles.vpu.fit import fit_layers, fit_level, network_ratios, unseen_engine_layers, unseen_networks
from experiments.profiles.vpu.frames import synchronous_ms
from experiments.profiles.vpu.nas_bench import nas_bench_samples, unseen_half
from experiments.profiles.vpu.oak import oak_samples
from experiments.profiles.vpu.resnet50 import ADDITIONS, RELUS, counted
from experiments.profiles.vpu.samples import Measured, measured
from latency_models.fit.regression import Sample
from latency_models.scores import Evaluation

Array = NDArray[np.float64]
COVERAGE = 0.9


@dataclass(frozen=True, eq=False)
class Distinct:
    """One entry per network and shape: its network, median measured ms, predicted over measured, (N,) each.

    A network repeats layers, whose errors are one error; intervals count them once.
    """

    networks: list[Hashable]
    measured_ms: Array
    ratios: Array


def distinct_layers(layers: list[Sample], ratios: Array) -> Distinct:
    """Layers of one network and shape as one. ratios: predicted over measured, one a layer, (N,)."""
    places: dict[Hashable, list[int]] = {}
    for index, layer in enumerate(layers):
        places.setdefault((layer.group, tuple(layer.terms.items())), []).append(index)
    times = np.array([float(np.median([layers[i].latency_ms for i in same])) for same in places.values()])
    predicted = np.array([ratios[same[0]] * layers[same[0]].latency_ms for same in places.values()])
    return Distinct([layers[same[0]].group for same in places.values()], times, predicted / times)


def evaluations(folder: Path) -> list[Evaluation]:
    """Every held-out set, intervals from the other held-out networks."""
    data = measured(folder)
    ratios = unseen_engine_layers(data)
    return [
        _all_layers(data, ratios),
        _distinct_layers(data, ratios),
        _layer_sums(data, ratios),
        _depthwise(data),
        *_element_wise(data),
        _nas_bench_as_shipped(folder, data),
        _nas_bench(folder),
        *_networks(folder, data),
        _oak(folder, data),
    ]


def _all_layers(data: Measured, ratios: Array) -> Evaluation:
    times = _times(data.engine)
    mape = 100 * np.abs(ratios - 1).mean()
    return Evaluation(
        "neural-engine convolutions of an unseen network",
        [str(layer.group) for layer in data.engine],
        times,
        ratios * times,
        mark="MAPE < 14 %",
        reached=bool(mape < 14),
    )


def _distinct_layers(data: Measured, ratios: Array) -> Evaluation:
    layers = distinct_layers(data.engine, ratios)
    groups = np.array([str(network) for network in layers.networks])
    factors = [conformal_factors(layers.ratios[groups != group], COVERAGE) for group in groups]
    return _with_factors(
        "the same, each shape of a network once", list(groups), layers.measured_ms, layers.ratios, factors
    )


def _layer_sums(data: Measured, ratios: Array) -> Evaluation:
    times = _times(data.engine)
    groups = np.array([str(layer.group) for layer in data.engine])
    names = sorted(set(groups))
    sums = np.array([times[groups == name].sum() for name in names])
    predicted = np.array([(ratios * times)[groups == name].sum() for name in names])
    return Evaluation(
        "the sum of an unseen network's neural-engine convolutions",
        names,
        sums,
        predicted,
        mark="all within 10 %",
        reached=bool((np.abs(predicted / sums - 1) <= 0.1).all()),
    )


def _depthwise(data: Measured) -> Evaluation:
    """Ten rows, too few to leave windows out: how far the form follows what it was fitted to."""
    rows = [sample for sample in data.micro if sample.name.startswith("depthwise")]
    times = _times(rows)
    predicted = predicted_ratios(rows, fit_layers(data)) * times
    return Evaluation("depthwise convolutions, in the fit", [row.name for row in rows], times, predicted)


def _element_wise(data: Measured) -> list[Evaluation]:
    """ResNet-50's additions, and the ReLUs behind them: derived prices against counters that no fit has seen."""
    coefficients = fit_layers(data)
    found = []
    for what, counters in (("additions", ADDITIONS), ("lone ReLUs", RELUS)):
        rows = counted(counters)
        times = _times(rows)
        predicted = predicted_ratios(rows, coefficients) * times
        found.append(Evaluation(f"{what} of ResNet-50, in no fit", [row.name for row in rows], times, predicted))
    additions, relus = found
    return [replace(additions, mark="MAPE < 25 %", reached=additions.mape < 25), relus]


def _nas_bench_as_shipped(folder: Path, data: Measured) -> Evaluation:
    """By the shipped profile, whose fit holds no network of 32 pixels."""
    coefficients = fit_layers(data)
    samples = nas_bench_samples(read_rows(folder, NAS_BENCH_201))
    ratios = network_ratios(samples, coefficients, fit_level(data.networks, coefficients))
    factors = conformal_factors(unseen_networks(data), COVERAGE)
    found = _with_factors(
        "NAS-Bench-201 by the shipped profile",
        [sample.name for sample in samples],
        _times(samples),
        ratios,
        [factors] * len(samples),
        "MAPE < 15 %, >= 85 % inside",
    )
    assert found.inside is not None
    return replace(found, reached=found.mape < 15 and found.inside >= 0.85 * len(samples))


def _oak(folder: Path, data: Measured) -> Evaluation:
    """Another board with the same chip. Its image comes from the camera, so the stick's transfer is left out."""
    samples, coefficients = oak_samples(folder), fit_layers(data)
    ratios = network_ratios(samples, coefficients, fit_level(data.networks, coefficients), image=False)
    times = _times(samples)
    names = [sample.name for sample in samples]
    return Evaluation("networks on an OAK, without the transfer of the image", names, times, ratios * times)


def _nas_bench(folder: Path) -> Evaluation:
    half = unseen_half(folder, COVERAGE)
    within = 100 * (np.abs(half.predicted_ms / half.measured_ms - 1) <= 0.1).mean()
    return Evaluation(
        "NAS-Bench-201 by a fit of its own, the half not fitted",
        half.names,
        half.measured_ms,
        half.predicted_ms,
        half.low_ms,
        half.high_ms,
        COVERAGE,
        ">= 99 % within 10 %",
        bool(within >= 99),
    )


def _networks(folder: Path, data: Measured) -> list[Evaluation]:
    """All, the MobileNets, and by source: one request at a time, or from frames/s."""
    ratios = unseen_networks(data)
    factors = [conformal_factors(np.delete(ratios, index), COVERAGE) for index in range(len(ratios))]
    names = [network.name for network in data.networks]
    found = _with_factors(
        "whole networks, each without its family", names, _times(data.networks), ratios, factors, "MAPE < 12 %"
    )
    sync_ms = synchronous_ms(folder)
    mobile = replace(found.part("of these, MobileNets", ["mobilenet" in name for name in names]), mark="MAPE < 14 %")
    return [
        replace(found, reached=found.mape < 12),
        replace(mobile, reached=mobile.mape < 14),
        found.part("of these, measured one request at a time", [name in sync_ms for name in names]),
        found.part("of these, from frames/s", [name not in sync_ms for name in names]),
    ]


def _with_factors(
    name: str,
    names: list[str],
    times: Array,
    ratios: Array,
    factors: list[tuple[float, float]],
    mark: str = "",
) -> Evaluation:
    predicted = ratios * times
    low, high = (np.array(ends) for ends in zip(*factors, strict=True))
    return Evaluation(name, names, times, predicted, low * predicted, high * predicted, COVERAGE, mark)


def _times(samples: list[Sample]) -> Array:
    return np.array([sample.latency_ms for sample in samples])
