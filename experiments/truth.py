"""Regret and rank correlation from the rows of `experiments.ground_truth`. Not for training, nor for tables.

A network's true accuracy is the mean of its own trainings' test accuracy over the seeds that are complete.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from math import comb
from statistics import fmean

import numpy as np
from numpy.typing import NDArray

from experiments.results import Row, number

Array = NDArray[np.float64]
Accuracies = Mapping[str, float]
"""Network -> accuracy, a share."""


def kendall(first: Accuracies, second: Accuracies) -> float:
    """Tau-b over the networks that both know; NaN where one ranks nothing."""
    from scipy.stats import kendalltau

    both = [name for name in first if name in second]
    return float(kendalltau([first[name] for name in both], [second[name] for name in both]).statistic)


def expected_best(order: Sequence[str], value: Accuracies, draws: int) -> float:
    """The expected value of the first in `order` among `draws` networks drawn uniformly without replacement.

    Exact: the i-th is the first of the drawn where all others come from those behind it.
    """
    draws = min(draws, len(order))
    ways = [comb(len(order) - 1 - i, draws - 1) for i in range(len(order))]
    return sum(way * value[name] for way, name in zip(ways, order, strict=True)) / comb(len(order), draws)


@dataclass(frozen=True)
class Truth:
    """by_seed: seed -> accuracies of networks trained on their own; latency_ms: of every network of the space."""

    by_seed: Mapping[int, Accuracies]
    latency_ms: Mapping[str, float]

    @classmethod
    def of(cls, rows: Sequence[Row]) -> Truth:
        """From a results file's rows of kinds 'network' and 'space'; the others are left aside."""
        by_seed: dict[int, dict[str, float]] = defaultdict(dict)
        for row in rows:
            if row["kind"] == "network":
                by_seed[int(number(row, "seed"))][str(row["network"])] = number(row, "test")
        latency_ms = {str(row["network"]): number(row, "latency_ms") for row in rows if row["kind"] == "space"}
        return cls(by_seed, latency_ms)

    @cached_property
    def complete(self) -> Mapping[int, Accuracies]:
        """The seeds by which every network was trained: only these are compared."""
        return {seed: found for seed, found in self.by_seed.items() if found.keys() >= self.latency_ms.keys() > set()}

    @cached_property
    def trained(self) -> Accuracies:
        """Means over the seeds of each network, of those trained so far."""
        values: dict[str, list[float]] = defaultdict(list)
        for found in self.by_seed.values():
            for name, accuracy in found.items():
                values[name].append(accuracy)
        return {name: fmean(accuracies) for name, accuracies in values.items()}

    @cached_property
    def accuracy(self) -> Accuracies:
        """Means over the complete seeds; empty without any."""
        seeds = list(self.complete.values())
        return {name: fmean(found[name] for found in seeds) for name in self.latency_ms} if seeds else {}

    @cached_property
    def table(self) -> Array:
        """(seeds, networks)."""
        return np.array([[found[name] for name in self.latency_ms] for found in self.complete.values()])

    def feasible(self, budget_ms: float) -> list[str]:
        """The networks that keep the budget, in the order of the rows."""
        return [name for name, ms in self.latency_ms.items() if ms <= budget_ms]

    def best(self, budget_ms: float) -> float:
        """The best true accuracy under the budget, a share.

        Raises `ValueError` where no network keeps it, `KeyError` before a seed is complete.
        """
        return max(self.accuracy[name] for name in self.feasible(budget_ms))

    def regret(self, network: str, budget_ms: float) -> float:
        """In points of accuracy."""
        return 100 * (self.best(budget_ms) - self.accuracy[network])

    def random_regret(self, ranking: Accuracies, budget_ms: float, draws: int) -> float:
        """Expected, in points: of `draws` feasible networks drawn at random, the first by `ranking` is taken."""
        order = sorted(self.feasible(budget_ms), key=lambda name: -ranking[name])
        return 100 * (self.best(budget_ms) - expected_best(order, self.accuracy, draws))

    @property
    def seed_deviation(self) -> float:
        """Of one network's accuracy between seeds, in points: the root of the mean variance."""
        return 100 * float(np.sqrt(self.table.var(axis=0, ddof=1).mean()))

    @property
    def network_deviation(self) -> float:
        """Of the mean accuracies between networks, in points."""
        return 100 * float(self.table.mean(axis=0).std(ddof=1))

    @property
    def half_taus(self) -> list[float]:
        """Tau between each seed and the mean of the others."""
        taus = []
        for seed, found in self.complete.items():
            others = [other for s, other in self.complete.items() if s != seed]
            taus.append(kendall(found, {name: fmean(o[name] for o in others) for name in found}))
        return taus


@dataclass(frozen=True)
class Supernet:
    """One that was trained on uniform paths: inherited accuracy of every network on validation images."""

    inherited: Accuracies
    training_cpu_s: float
    evaluation_cpu_s: float


@dataclass(frozen=True)
class SupernetKey:
    """Which supernet; `epochs` it was trained."""

    share_weights: bool
    epochs: int
    seed: int

    @classmethod
    def of(cls, row: Row) -> SupernetKey:
        """The supernet that a row of kind 'supernet' or 'inherited' is about."""
        return cls(bool(row["share_weights"]), int(number(row, "epochs")), int(number(row, "seed")))


def supernets_of(rows: Sequence[Row]) -> dict[SupernetKey, Supernet]:
    """Those trained so far, with shared weights first, by seed."""
    inherited: dict[SupernetKey, dict[str, float]] = defaultdict(dict)
    for row in rows:
        if row["kind"] == "inherited":
            inherited[SupernetKey.of(row)][str(row["network"])] = number(row, "validation")
    found = {
        key: Supernet(inherited[key], number(row, "training_cpu_s"), number(row, "evaluation_cpu_s"))
        for row in rows
        if row["kind"] == "supernet"
        for key in [SupernetKey.of(row)]
    }
    return dict(sorted(found.items(), key=lambda item: (not item[0].share_weights, item[0].epochs, item[0].seed)))


def equal_draws(supernets: Sequence[Supernet], searches: Sequence[Row]) -> int | None:
    """How many networks random search can evaluate in the CPU time of a run of the cheapest gradient search.

    A supernet's training comes out of that time first. At least one, at most all networks; None where either was not
    measured.
    """
    runs: dict[str, list[float]] = defaultdict(list)
    for row in searches:
        if row.get("evaluations") is None:
            runs[str(row["strategy"])].append(number(row, "cpu_s"))
    if not supernets or not runs:
        return None
    left = min(map(fmean, runs.values())) - fmean(net.training_cpu_s for net in supernets)
    draws = round(left / fmean(net.evaluation_cpu_s for net in supernets))
    return min(max(1, draws), len(supernets[0].inherited))
