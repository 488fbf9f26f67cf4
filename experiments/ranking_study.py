"""Which network a way of choosing takes under a budget, and what that loses by the truth. Not for reading files."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import combinations
from statistics import fmean

import numpy as np
from numpy.typing import NDArray

from experiments.truth import Accuracies, Array, Truth, kendall
from experiments.truth_tables import taken
from experiments.truth_work import all_paths
from nas.choose.derive import LOWER_FLOORS
from nas.discrete.additive import Additive
from nas.discrete.surrogate import normal_scores
from nas.run.settings import SearchSettings
from search_space import SearchSpace

LOOKS = 24  # of a search that does not look at all networks
OF_MODEL = SearchSettings().rerank  # of those, that the model proposes, and among whose like the best look wins
FLOOR = SearchSettings().use_at_least
DRAWS = 60  # searches of a kind, in all its supernets together
SIMULATED = 1_000  # truths, of a ranking that knows what to expect

Looked = NDArray[np.int64]
Fit = Callable[[Looked, Array], Array]
"""Of some networks, given by their places: places and scores of those looked at -> a prediction of every network."""


@dataclass(frozen=True)
class Method:
    """cpu_s: of a choice under one budget, its supernet's training included; None where it was not measured.

    taus, regrets: one a seed; taus is empty where a method ranks not all networks; regrets are means over the budgets.
    """

    name: str
    cpu_s: float | None
    taus: Sequence[float]
    regrets: Sequence[float]


@dataclass(frozen=True)
class Study:
    """The truth of a space and what is known of its networks."""

    space: SearchSpace
    truth: Truth
    budgets: Sequence[float]

    @cached_property
    def _choices(self) -> Mapping[str, tuple[int, ...]]:
        return {str(self.space.architecture(path)): path.choices for path in all_paths(self.space)}

    @cached_property
    def _widths(self) -> list[int]:
        return [len(slot.candidates) for slot in self.space.slots]

    def scored(self, name: str, cpu_s: float | None, seeds: Sequence[Accuracies]) -> Method:
        """The largest of a score that all networks have."""
        taus = [kendall(scores, self.truth.accuracy) for scores in seeds]
        return Method(name, cpu_s, taus, [self._mean(lambda b, s=s: taken(self.truth, s, b)) for s in seeds])  # type: ignore[misc]

    def with_floor(self, name: str, cpu_s: float | None, seeds: Sequence[Accuracies]) -> Method:
        """The largest score between a floor and all of the budget; the floor falls until a network is there."""

        def regret(budget_ms: float, scores: Accuracies) -> float:
            within = self.truth.feasible(budget_ms)
            for share in (FLOOR, *(s for s in LOWER_FLOORS if s < FLOOR), 0.0):
                if above := [name for name in within if self.truth.latency_ms[name] >= share * budget_ms]:
                    break
            return self.truth.regret(max(above, key=lambda name: scores[name]), budget_ms)

        return Method(name, cpu_s, [], [self._mean(lambda b, s=s: regret(b, s)) for s in seeds])  # type: ignore[misc]

    def luckiest(self, name: str, cpu_s: float | None, seeds: Sequence[Accuracies]) -> Method:
        """The largest of `LOOKS` random looks, the exact expectation."""
        regrets = [self._mean(lambda b, s=s: self.truth.random_regret(s, b, LOOKS)) for s in seeds]  # type: ignore[misc]
        return Method(name, cpu_s, [], regrets)

    def by_model(self, name: str, cpu_s: float | None, seeds: Sequence[Accuracies]) -> Method:
        """As `strategy=random` chooses with `LOOKS` trials; means over draws, which are `DRAWS` in all."""

        def of(names: Sequence[str]) -> Fit:
            networks = np.array([self._choices[name] for name in names])
            return lambda looked, values: Additive(self._widths, networks[looked], values).predict(networks)

        return Method(name, cpu_s, [], self._modelled(of, seeds))

    def by_counts(
        self, name: str, cpu_s: float | None, seeds: Sequence[Accuracies], counts: Mapping[str, Sequence[float]]
    ) -> Method:
        """As `by_model`, by a Bayesian ridge that knows counts of the networks too; a prediction is one deviation less.

        counts: network -> numbers above 0, of which the logarithms are used.
        """
        from sklearn.linear_model import BayesianRidge

        logs = np.log([counts[name] for name in self._choices])
        standard = dict(zip(self._choices, (logs - logs.mean(0)) / logs.std(0), strict=True))

        def of(names: Sequence[str]) -> Fit:
            networks = np.array([self._choices[name] for name in names])
            slots = [np.eye(width)[chosen] for width, chosen in zip(self._widths, networks.T, strict=True)]
            known = np.concatenate([*slots, np.array([standard[name] for name in names])], axis=1)

            def predict(looked: Looked, values: Array) -> Array:
                model = BayesianRidge().fit(known[looked], normal_scores(values))
                mean, deviation = model.predict(known, return_std=True)
                return np.asarray(mean - deviation)

            return predict

        return Method(name, cpu_s, [], self._modelled(of, seeds))

    def _modelled(self, model: Callable[[Sequence[str]], Fit], seeds: Sequence[Accuracies]) -> list[float]:
        """One mean regret a seed. model: of the names of the networks that may be chosen."""
        draws = max(1, DRAWS // len(seeds)) if seeds else 0

        def regret(budget_ms: float, scores: Accuracies) -> float:
            names = self.truth.feasible(budget_ms)
            predict, values = model(names), np.array([scores[name] for name in names])
            found = []
            for draw in range(draws if len(names) > LOOKS - OF_MODEL else 1):  # where all are looked at, all are alike
                looked = np.random.default_rng(draw).permutation(len(names))[: LOOKS - OF_MODEL]
                liked = np.argsort(-predict(looked, values[looked]))
                looked = np.union1d(looked, liked[:OF_MODEL])
                few = looked[np.argsort(-predict(looked, values[looked])[looked])[:OF_MODEL]]
                found.append(self.truth.regret(names[few[values[few].argmax()]], budget_ms))
            return fmean(found)

        return [self._mean(lambda b, s=s: regret(b, s)) for s in seeds]  # type: ignore[misc]

    def trained_again(self, name: str, cpu_s: float, seeds: Sequence[Accuracies], count: int) -> Method:
        """Of the `count` best scores the network that one training of its own says is best.

        That training is one of the truth's, by turns; the others judge it, so these regrets stand beside each other
        alone.
        """

        def regret(budget_ms: float, scores: Accuracies, own: Accuracies, judge: Truth) -> float:
            best = sorted(self.truth.feasible(budget_ms), key=lambda network: -scores[network])[:count]
            return judge.regret(max(best, key=lambda network: own[network]), budget_ms)

        complete = self.truth.complete
        regrets = []
        for scores in seeds:
            by_turns = []
            for seed, own in complete.items():
                judge = Truth({s: found for s, found in complete.items() if s != seed}, self.truth.latency_ms)
                by_turns.append(self._mean(lambda b, s=scores, o=own, j=judge: regret(b, s, o, j)))  # type: ignore[misc]
            regrets.append(fmean(by_turns))
        return Method(name, cpu_s, [], regrets)

    def known(self) -> Method:
        """By the expected accuracies, if they were known; simulated, one value for each truth that could be measured.

        The expected ones are the measured means, drawn together as far as the noise between seeds spreads them.
        """
        measured = 100 * np.array(list(self.truth.accuracy.values()))
        noise = self.truth.seed_deviation / np.sqrt(len(self.truth.complete))
        kept = np.sqrt(max(0.0, 1 - noise**2 / measured.var(ddof=1)))
        expected = measured.mean() + kept * (measured - measured.mean())
        latency_ms = np.array([self.truth.latency_ms[name] for name in self.truth.accuracy])
        within = [np.flatnonzero(latency_ms <= budget) for budget in self.budgets]
        names, rng = [str(place) for place in range(len(expected))], np.random.default_rng(0)
        taus, regrets = [], []
        for _ in range(SIMULATED):
            found = expected + rng.normal(0, noise, len(expected))
            regrets.append(fmean(float(found[w].max() - found[w[expected[w].argmax()]]) for w in within))
            taus.append(kendall(dict(zip(names, expected, strict=True)), dict(zip(names, found, strict=True))))
        return Method("expected accuracies, if they were known", None, taus, regrets)

    def _mean(self, regret: Callable[[float], float | None]) -> float:
        """Over the budgets at which there is a network to take."""
        return fmean(value for budget in self.budgets if (value := regret(budget)) is not None)


def together(*scores: Accuracies) -> Accuracies:
    """The mean of the scores' ranks, as normal quantiles; larger is better."""
    names = list(scores[0])
    ranks = np.mean([normal_scores(np.array([each[name] for name in names])) for each in scores], axis=0)
    return dict(zip(names, ranks.tolist(), strict=True))


def averages(seeds: Sequence[Accuracies], count: int) -> list[Accuracies]:
    """The mean scores of every `count` of the seeds; they share seeds with each other."""
    return [{name: fmean(s[name] for s in some) for name in some[0]} for some in combinations(seeds, count)]
