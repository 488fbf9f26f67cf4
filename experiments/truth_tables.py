"""Regret and rank correlation from the rows of `experiments.ground_truth`, and their tables. Not for training.

A network's true accuracy is the mean of its own trainings' test accuracy over the seeds that are there.
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

from experiments.results import NOT_MEASURED, Results, Row, markdown, shown

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
        by_seed: dict[int, dict[str, float]] = defaultdict(dict)
        for row in rows:
            if row["kind"] == "network":
                by_seed[int(_number(row, "seed"))][str(row["network"])] = _number(row, "test")
        latency_ms = {str(row["network"]): _number(row, "latency_ms") for row in rows if row["kind"] == "space"}
        return cls(by_seed, latency_ms)

    @cached_property
    def complete(self) -> Mapping[int, Accuracies]:
        """The seeds by which every network was trained: only these are compared."""
        return {seed: found for seed, found in self.by_seed.items() if found.keys() >= self.latency_ms.keys()}

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
        return [name for name, ms in self.latency_ms.items() if ms <= budget_ms]

    def best(self, budget_ms: float) -> float:
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


def _number(row: Row, column: str) -> float:
    value = row[column]
    assert isinstance(value, int | float), f"{column}={value!r}"
    return float(value)


@dataclass(frozen=True)
class Supernet:
    """One that was trained on uniform paths: inherited accuracy of every network on validation images."""

    inherited: Accuracies
    training_cpu_s: float
    evaluation_cpu_s: float


def supernets_of(rows: Sequence[Row]) -> dict[tuple[bool, int], Supernet]:
    """By (share_weights, seed)."""
    inherited: dict[tuple[bool, int], dict[str, float]] = defaultdict(dict)
    for row in rows:
        if row["kind"] == "inherited":
            inherited[_key(row)][str(row["network"])] = _number(row, "validation")
    return {
        _key(row): Supernet(inherited[_key(row)], _number(row, "training_cpu_s"), _number(row, "evaluation_cpu_s"))
        for row in rows
        if row["kind"] == "supernet"
    }


def _key(row: Row) -> tuple[bool, int]:
    return bool(row["share_weights"]), int(_number(row, "seed"))


RERANKED = 6  # networks that a gradient search compares at its end: nas/conf/search.yaml, rerank
MARK, SHARE_OF_RANDOM = 0.5, 0.5  # points of mean regret; of random search's at equal cost

Line = tuple[str, list[float | None]]
"""A method, and its regret in points by budget; None where nothing was measured."""


def render(results: Results) -> str:
    """All tables from the file's rows alone."""
    truth, supernets = Truth.of(results.rows), supernets_of(results.rows)
    searches = [row for row in results.rows if row["kind"] == "search"]
    parts = [_truth_lines(truth)]
    if truth.complete:
        parts += [_rank_table(truth, supernets), _regret_table(truth, supernets, searches)]
    cpu_s = sum({str(row["job"]): _number(row, "cpu_s") for row in results.rows}.values())
    settings = ", ".join(f"{name} {value}" for name, value in results.settings.items())
    commits = sorted({str(row["commit"])[:7] for row in results.rows})
    parts += [f"{cpu_s / 60:.0f} CPU-minutes so far; commits {', '.join(commits)}; {settings}.\n{results.provenance}"]
    return "\n\n".join(parts)


def _truth_lines(truth: Truth) -> str:
    networks = len(truth.latency_ms)
    trained = {seed: len(found) for seed, found in truth.by_seed.items()}
    progress = ", ".join(f"seed {seed}: {count} of {networks}" for seed, count in trained.items()) or NOT_MEASURED
    lines = [f"Networks trained on their own: {progress}."]
    if not truth.complete:
        return " ".join([*lines, "No seed is complete, so nothing is compared yet."])
    best = max(truth.accuracy, key=lambda name: truth.accuracy[name])
    low, high = min(truth.accuracy.values()), truth.accuracy[best]
    lines.append(
        f"True accuracy, the mean test accuracy over {len(truth.complete)} seeds: {low:.1%} to {high:.1%} ({best}), "
        f"standard deviation between networks {truth.network_deviation:.2f} points."
    )
    if len(truth.complete) > 1:
        taus = ", ".join(f"{tau:.2f}" for tau in truth.half_taus)
        lines.append(
            f"Between seeds of one network {truth.seed_deviation:.2f} points; Kendall's tau of one seed with the mean "
            f"of the others {taus}."
        )
    return " ".join(lines)


def _rank_table(truth: Truth, supernets: Mapping[tuple[bool, int], Supernet]) -> str:
    lines = []
    for shared in (True, False):
        found = [net for (share_weights, _), net in sorted(supernets.items()) if share_weights == shared]
        taus = [kendall(net.inherited, truth.accuracy) for net in found]
        means = [fmean(net.inherited.values()) for net in found]
        lines.append(
            (
                "shared" if shared else "separate",
                ", ".join(f"{tau:.2f}" for tau in taus) or NOT_MEASURED,
                f"{fmean(taus):.2f}" if taus else NOT_MEASURED,
                f"{fmean(means):.1%}" if means else NOT_MEASURED,
                f"{fmean(net.training_cpu_s for net in found):.0f}" if found else NOT_MEASURED,
            )
        )
    header = ("candidates' weights", "tau by seed", "mean tau", "mean inherited accuracy", "training, CPU s")
    return (
        "Kendall's tau of inherited validation accuracy with true accuracy, all networks, supernets trained on "
        f"uniform paths:\n\n{markdown(header, lines)}"
    )


def _regret_table(truth: Truth, supernets: Mapping[tuple[bool, int], Supernet], searches: Sequence[Row]) -> str:
    budgets = sorted({_number(row, "budget_ms") for row in searches})
    if not budgets:
        return f"Regret: {NOT_MEASURED}."
    lines = _search_lines(truth, searches, budgets)
    for shared, named in ((True, "shared"), (False, "separate")):
        nets = [net for (share_weights, _), net in sorted(supernets.items()) if share_weights == shared]
        draws = {RERANKED: f"random, {RERANKED} evaluated", len(truth.latency_ms): "every network evaluated"}
        if equal := equal_draws(nets, [row for row in searches if row["share_weights"] == shared]):
            draws[equal] = f"random, {equal} evaluated (proxyless' CPU time)"
        for count, method in sorted(draws.items()):
            values = [_mean([truth.random_regret(net.inherited, budget, count) for net in nets]) for budget in budgets]
            lines.append((f"{method}, {named} weights", values))
    lines.append(("a random feasible network", [truth.random_regret(truth.accuracy, b, 1) for b in budgets]))
    alone = [
        [truth.regret(max(truth.feasible(b), key=lambda name: found[name]), b) for b in budgets]
        for found in truth.complete.values()
    ]
    lines.append(("best by one own training's test accuracy", [fmean(column) for column in zip(*alone, strict=True)]))
    header = ("regret, points", *(f"{budget:.2f} ms" for budget in budgets), "mean")
    body = [(name, *(shown(v, 2) for v in [*values, _mean(values)])) for name, values in lines]
    feasible = ", ".join(str(len(truth.feasible(budget))) for budget in budgets)
    return (
        f"Mean regret against the truly best network under the budget ({feasible} networks keep the budgets); random's "
        f"is the exact expectation:\n\n{markdown(header, body)}"
    )


def _search_lines(truth: Truth, searches: Sequence[Row], budgets: Sequence[float]) -> list[Line]:
    """Mean over seeds, by strategy and kind of weights."""
    found: dict[tuple[str, bool], dict[float, list[float]]] = defaultdict(lambda: defaultdict(list))
    for row in searches:
        budget_ms = _number(row, "budget_ms")
        regret = truth.regret(str(row["network"]), budget_ms)
        found[str(row["strategy"]), bool(row["share_weights"])][budget_ms].append(regret)
    return [
        (f"{strategy}, {'shared' if shared else 'separate'} weights", [_mean(by_budget[b]) for b in budgets])
        for (strategy, shared), by_budget in sorted(found.items(), reverse=True)
    ]


def equal_draws(supernets: Sequence[Supernet], searches: Sequence[Row]) -> int | None:
    """How many networks random search can evaluate, after a supernet's training, in the CPU time that a gradient
    search takes; None where either was not measured."""
    if not supernets or not searches:
        return None
    left = fmean(_number(row, "cpu_s") for row in searches) - fmean(net.training_cpu_s for net in supernets)
    return max(1, round(left / fmean(net.evaluation_cpu_s for net in supernets)))


def _mean(values: Sequence[float | None]) -> float | None:
    """None unless all are there."""
    present = [value for value in values if value is not None]
    return fmean(present) if present and len(present) == len(values) else None
