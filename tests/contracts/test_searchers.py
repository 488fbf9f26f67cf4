"""What every discrete searcher keeps. A new one is held to it by its line in `nas.discrete.SEARCHERS`."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
from numpy.typing import NDArray

from device_profiles import load_profile
from latency_models import fit_latency_model, latency_table
from nas.choose.limits import limits_of
from nas.discrete import SEARCHERS, Choices, Region, Trial, explore
from nas.discrete.base import as_choices
from nas.discrete.budgeted import Budgeted, within_budget
from nas.discrete.tabular import TabularRegion
from nas.run.settings import LimitSettings
from search_space import GatePath, SearchSpace, Stage
from tests.nas.discrete.small_region import WIDTHS, additive_accuracy, region


class Toy:
    """From outside the package: the network nearest to the best so far, of some draws; the first is any."""

    def __init__(self, networks: Region, seed: int) -> None:
        self.region, self.rng = networks, np.random.default_rng(seed)
        self.known: dict[Choices, float] = {}

    @property
    def trials(self) -> list[Trial]:
        return [Trial(choices, accuracy) for choices, accuracy in self.known.items()]

    def ask(self) -> Choices | None:
        new = [c for c in as_choices(self.region.sample(self.rng, 200)) if c not in self.known]
        if not new or not self.known:
            return new[0] if new else None
        best = max(self.known, key=lambda choices: self.known[choices])
        return min(new, key=lambda choices: sum(a != b for a, b in zip(choices, best, strict=True)))

    def tell(self, choices: Choices, accuracy: float) -> None:
        self.known[choices] = accuracy


ALL = {**SEARCHERS, "toy": Toy}  # a line for a searcher of your own
INDIFFERENT = {"random"}  # searchers that accuracies do not move: baselines
every_searcher = pytest.mark.parametrize("name", ALL)


class Watched:
    """A region that counts how often it is asked, and stops a searcher that asks without end."""

    MOST = 2000

    def __init__(self, inner: Region) -> None:
        self.inner, self.calls = inner, 0

    @property
    def widths(self) -> tuple[int, ...]:
        return self.inner.widths

    def _count(self) -> Region:
        self.calls += 1
        assert self.calls <= self.MOST, "the searcher asks the region without end"
        return self.inner

    def sample(self, rng: np.random.Generator, count: int) -> NDArray[np.int64]:
        return self._count().sample(rng, count)

    def canonical(self, networks: NDArray[np.int64]) -> NDArray[np.int64]:
        return self._count().canonical(networks)

    def excess(self, networks: NDArray[np.int64]) -> NDArray[np.float64]:
        return self._count().excess(networks)

    def effort(self, networks: NDArray[np.int64]) -> NDArray[np.float64]:
        return self._count().effort(networks)


def within(networks: Region) -> set[Choices]:
    """All networks of a small region."""
    every = np.stack(np.unravel_index(np.arange(np.prod(networks.widths)), networks.widths), axis=1)
    return set(as_choices(networks.canonical(every[networks.excess(every) <= 0])))


@pytest.fixture(scope="module")
def budgeted() -> Budgeted:
    """A region of a real space, where several choices stand for one network."""
    space = SearchSpace("small", "quadra", 8, (Stage(8, 3), Stage(16, 2)), (3, 5), (1, 2))
    table = latency_table(fit_latency_model(load_profile("cpu")), space, 32, 10)
    limits = limits_of(space, 32, 10, LimitSettings())
    return within_budget(space, table, limits, (table.minimum_ms + table.maximum_ms) / 2, 0.9)


@every_searcher
def test_every_proposal_is_feasible_and_new(name: str) -> None:
    trials = explore(ALL[name](region(), 0), additive_accuracy, 25)
    assert len(trials) == len({trial.choices for trial in trials}) == 25
    assert {trial.choices for trial in trials} <= within(region())
    assert all(trial.accuracy == additive_accuracy(trial.choices) for trial in trials)


@every_searcher
def test_proposals_are_canonical_where_choices_repeat_a_network(name: str, budgeted: Budgeted) -> None:
    trials = explore(ALL[name](budgeted, 0), lambda choices: float(sum(choices)), 20)
    paths = np.array([trial.choices for trial in trials])
    assert (budgeted.excess(paths) <= 0).all()
    np.testing.assert_array_equal(budgeted.canonical(paths), paths)
    space = budgeted.table.space
    assert len({space.architecture(GatePath(choices)) for choices in as_choices(paths)}) == 20


@every_searcher
def test_a_seed_repeats(name: str) -> None:
    wide = TabularRegion((9,) * 4, np.ones(9**4), np.arange(1.0, 9**4 + 1), 1.0)
    runs = [explore(ALL[name](wide, seed), lambda choices: -float(sum(choices)), 12) for seed in (1, 1, 2)]
    assert list(runs[0]) == list(runs[1]) != list(runs[2])


@every_searcher
@pytest.mark.parametrize("budget_ms", [0.02, 0.05])
def test_a_region_that_is_exhausted_ends_the_search(name: str, budget_ms: float) -> None:
    few = region(budget_ms=budget_ms)
    assert len(few.within) == {0.02: 1, 0.05: 4}[budget_ms]
    watched = Watched(few)
    trials = explore(ALL[name](watched, 0), additive_accuracy, 100)
    assert {trial.choices for trial in trials} == within(few)
    assert ALL[name](watched, 0).ask() in within(few), "another one starts afresh"


@every_searcher
def test_what_was_reported_is_known_and_not_proposed_again(name: str) -> None:
    """Also networks that the searcher did not propose: of a run that was stopped, say."""
    every = sorted(within(region()))
    searcher = ALL[name](Watched(region()), 3)
    for choices in every[5:]:
        searcher.tell(choices, additive_accuracy(choices))
    assert list(searcher.trials) == [Trial(choices, additive_accuracy(choices)) for choices in every[5:]]
    trials = explore(searcher, additive_accuracy, len(every))
    assert {trial.choices for trial in trials[len(every) - 5 :]} <= set(every[:5])
    assert len(trials) >= len(every) - 1  # the last of many may not be drawn


@every_searcher
def test_explore_counts_what_was_reported_before(name: str) -> None:
    searcher = ALL[name](region(), 0)
    for choices in sorted(within(region()))[:6]:
        searcher.tell(choices, 0.5)
    evaluated: list[Choices] = []
    reported: list[Trial] = []

    def evaluate(choices: Choices) -> float:
        evaluated.append(choices)
        return additive_accuracy(choices)

    trials = explore(searcher, evaluate, 10, reported.append)
    assert len(trials) == 10 and [trial.choices for trial in trials[6:]] == evaluated
    assert reported == list(trials[6:])


def later_proposals(name: str, sign: float) -> Sequence[Choices]:
    """The last 20 of 80 evaluated networks, where large choices are good, or small ones (sign -1)."""
    wide = TabularRegion((5,) * 5, np.ones(5**5), np.ones(5**5), 1.0)
    trials = explore(ALL[name](wide, 0), lambda choices: sign * sum(choices), 80)
    return [trial.choices for trial in trials[60:]]


@every_searcher
def test_reported_accuracies_decide_what_is_proposed(name: str) -> None:
    """Where large choices are better, larger ones are proposed; a baseline proposes the same either way."""
    up, down = later_proposals(name, 1.0), later_proposals(name, -1.0)
    assert len(up) == len(down) == 20
    if name in INDIFFERENT:
        assert up == down
    else:
        assert np.mean(up) > np.mean(down) + 0.5


def test_the_watch_stops_a_searcher_without_end() -> None:
    watched = Watched(region())
    with pytest.raises(AssertionError, match="without end"):
        while watched.sample(np.random.default_rng(0), 1).size:
            pass
    assert watched.widths == WIDTHS
