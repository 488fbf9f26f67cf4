"""The region under a budget: exactly the networks within, each equally likely."""

from __future__ import annotations

import itertools
from collections import Counter

import numpy as np
import pytest
from scipy.stats import chisquare

from device_profiles import load_profile
from latency_models import LatencyTable, fit_latency_model, latency_table
from nas.choose.limits import limits_of
from nas.discrete.base import as_choices
from nas.discrete.budgeted import Budgeted, within_budget
from nas.run.settings import LimitSettings
from search_space import GatePath, SearchSpace, UserError, cost_of, lower
from search_space.space import Stage

SPACE = SearchSpace("small", "quadra", 8, (Stage(8, 3), Stage(16, 2)), (3, 5), (1, 2))
RESOLUTION = 32
NO_LIMITS = limits_of(SPACE, RESOLUTION, 10, LimitSettings())


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
    region = Budgeted(table, NO_LIMITS, budget_ms, floor_ms)
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
        counted = Budgeted(table, NO_LIMITS, budget_ms, floor_ms).ways[0][0, 0]
        assert within <= counted <= within * 1.15 + 2


def test_effort_is_the_macs_of_the_network(table: LatencyTable) -> None:
    region = Budgeted(table, NO_LIMITS, table.maximum_ms, 0.0)
    drawn = region.sample(np.random.default_rng(0), 20)
    macs = [cost_of(lower(SPACE.architecture(GatePath(c)), RESOLUTION, 10)).macs for c in as_choices(drawn)]
    assert region.effort(drawn).tolist() == macs


def test_canonical_is_the_same_network(table: LatencyTable) -> None:
    region = Budgeted(table, NO_LIMITS, table.maximum_ms, 0.0)
    paths = np.random.default_rng(0).integers(region.widths, size=(200, 5))
    canonical = region.canonical(paths)
    for before, after in zip(as_choices(paths), as_choices(canonical), strict=True):
        architecture = SPACE.architecture(GatePath(before))
        assert SPACE.path(architecture) == GatePath(after)
    assert np.allclose(table.paths_ms(paths), table.paths_ms(canonical))


def test_the_floor_gives_way_and_the_budget_never(table: LatencyTable) -> None:
    every = sorted(networks(table).values())
    rng = np.random.default_rng(0)
    fastest = within_budget(SPACE, table, NO_LIMITS, every[0] * (1 + 1e-9), 0.97)
    assert table.paths_ms(fastest.sample(rng, 5)) == pytest.approx(every[0])
    free = within_budget(SPACE, table, NO_LIMITS, 2 * every[-1], 0.97)
    assert free.floor_ms == 0.0
    tight = within_budget(SPACE, table, NO_LIMITS, float(np.median(every)), 0.97)
    assert tight.floor_ms == 0.97 * tight.budget_ms
    with pytest.raises(UserError, match="no network of 'small'"):
        within_budget(SPACE, table, NO_LIMITS, 0.9 * every[0], 0.97)


def test_limits_on_cost_are_kept_and_draws_stay_uniform(table: LatencyTable) -> None:
    every = networks(table)
    costs = {c: cost_of(lower(SPACE.architecture(GatePath(c)), RESOLUTION, 10)) for c in every}
    most = LimitSettings(
        params=float(np.median([cost.params for cost in costs.values()])),
        macs=float(np.median([cost.macs for cost in costs.values()])),
        peak_activation=float(max(cost.peak_activation_bytes for cost in costs.values())),
    )
    limits = limits_of(SPACE, RESOLUTION, 10, most)
    budget_ms = float(np.quantile(list(every.values()), 0.2))
    kept = {
        choices
        for choices, cost in costs.items()
        if cost.params <= (most.params or 0)
        and cost.macs <= (most.macs or 0)
        and cost.peak_activation_bytes <= (most.peak_activation or 0)
        and 0.9 * budget_ms <= every[choices] <= budget_ms
    }
    region = within_budget(SPACE, table, limits, budget_ms, 0.9)
    draws = Counter(as_choices(region.sample(np.random.default_rng(0), 40 * len(kept))))
    assert len(kept) > 5 and set(draws) == kept
    assert chisquare(list(draws.values())).pvalue > 1e-3
