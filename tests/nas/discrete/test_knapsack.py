"""The region under a budget: exactly the networks within, each equally likely."""

from __future__ import annotations

import itertools
from collections import Counter

import numpy as np
import pytest
from scipy.stats import chisquare

from device_profiles import load_profile
from latency_models import LatencyTable, fit_latency_model, latency_table
from nas.discrete.base import as_choices
from nas.discrete.knapsack import Knapsack, within_budget
from search_space import GatePath, SearchSpace, UserError, cost_of, lower
from search_space.space import Stage

SPACE = SearchSpace("small", "quadra", 8, (Stage(8, 3), Stage(16, 2)), (3, 5), (1, 2))
RESOLUTION = 32


@pytest.fixture(scope="module")
def table() -> LatencyTable:
    return latency_table(fit_latency_model(load_profile("cpu")), SPACE, RESOLUTION, 10)


def networks(table: LatencyTable) -> dict[tuple[int, ...], float]:
    """Every network by its path with Zeros last, and its ms."""
    paths = map(GatePath, itertools.product(*(range(len(slot.candidates)) for slot in SPACE.slots)))
    distinct = {SPACE.path(SPACE.architecture(path)) for path in paths}
    assert len(distinct) == SPACE.architecture_count == 84 * 20
    return {path.choices: table.path_ms(path) for path in distinct}


def test_draws_are_uniform_over_networks(table: LatencyTable) -> None:
    """By chi-square on all networks within; the distribution over gate paths fails the same test."""
    every = networks(table)
    budget_ms = float(np.quantile(list(every.values()), 0.3))
    floor_ms = 0.95 * budget_ms
    within = [choices for choices, ms in every.items() if floor_ms <= ms <= budget_ms]
    assert 40 < len(within) < 400
    region = Knapsack(SPACE, table, budget_ms, floor_ms, RESOLUTION)
    draws = Counter(as_choices(region.sample(np.random.default_rng(0), 40 * len(within))))
    assert set(draws) == set(within)
    assert chisquare([draws[choices] for choices in within]).pvalue > 1e-3
    by_path = np.random.default_rng(0).integers([len(slot.candidates) for slot in SPACE.slots], size=(200_000, 5))
    by_path = region.canonical(by_path)
    counted = Counter(as_choices(by_path[region.excess(by_path) <= 0]))
    assert chisquare([counted[choices] for choices in within]).pvalue < 1e-6


@pytest.mark.parametrize("share", [0.0, 0.02, 0.3, 0.9, 0.999, 1.0])
def test_the_walk_counts_every_network_within(table: LatencyTable, share: float) -> None:
    """The counts may hold neighbours within the rounding, never fewer than there are."""
    every = np.array(list(networks(table).values()))
    budget_ms = table.minimum_ms + share * (table.maximum_ms - table.minimum_ms)
    for floor_ms in (0.0, 0.9 * budget_ms):
        within = int(((every >= floor_ms) & (every <= budget_ms)).sum())
        counted = Knapsack(SPACE, table, budget_ms, floor_ms, RESOLUTION).ways[0][0, 0]
        assert within <= counted <= within * 1.05 + 2


def test_effort_is_the_macs_of_the_network(table: LatencyTable) -> None:
    region = Knapsack(SPACE, table, table.maximum_ms, 0.0, RESOLUTION)
    drawn = region.sample(np.random.default_rng(0), 20)
    macs = [cost_of(lower(SPACE.architecture(GatePath(c)), RESOLUTION, 2)).macs for c in as_choices(drawn)]
    assert region.effort(drawn).tolist() == macs


def test_canonical_is_the_same_network(table: LatencyTable) -> None:
    region = Knapsack(SPACE, table, table.maximum_ms, 0.0, RESOLUTION)
    paths = np.random.default_rng(0).integers(region.widths, size=(200, 5))
    canonical = region.canonical(paths)
    for before, after in zip(as_choices(paths), as_choices(canonical), strict=True):
        architecture = SPACE.architecture(GatePath(before))
        assert SPACE.path(architecture) == GatePath(after)
    assert np.allclose(table.paths_ms(paths), table.paths_ms(canonical))


def test_the_floor_gives_way_and_the_budget_never(table: LatencyTable) -> None:
    every = sorted(networks(table).values())
    rng = np.random.default_rng(0)
    fastest = within_budget(SPACE, table, every[0] * (1 + 1e-9), 0.97, RESOLUTION, rng)
    assert table.paths_ms(fastest.sample(rng, 5)) == pytest.approx(every[0])
    free = within_budget(SPACE, table, 2 * every[-1], 0.97, RESOLUTION, rng)
    assert free.floor_ms == 0.0
    tight = within_budget(SPACE, table, float(np.median(every)), 0.97, RESOLUTION, rng)
    assert tight.floor_ms == 0.97 * tight.budget_ms
    with pytest.raises(UserError, match="no network of 'small'"):
        within_budget(SPACE, table, 0.9 * every[0], 0.97, RESOLUTION, rng)
