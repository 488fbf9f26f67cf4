"""Hard limits beside the budget: the choice equals brute force, the refusal names what there is, nothing is over."""

from __future__ import annotations

import itertools
import time
from collections.abc import Mapping

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nas.choose.derive import LOWER_FLOORS, derive
from nas.choose.limits import FIELDS, Limits, check_feasible, fastest_within, limits_of
from nas.run.plan import plan_search
from nas.run.settings import LimitSettings, SearchSettings
from search_space import Cost, GatePath, SearchSpace, UserError, available_spaces, cost_of, load_space, lower
from tests.nas.choose.test_derive import DEVICES, random_gates, random_table, score, seeds, shipped_table, small_space

NAMES = tuple(FIELDS)


def made_up(space: SearchSpace, rng: np.random.Generator, shares: Mapping[str, float]) -> Limits:
    """Costs without any order among candidates, unlike real ones; limits at `shares` of each one's range."""
    exists = np.isfinite(random_table(space, rng).slot_ms)
    slots = {name: np.where(exists, rng.integers(0, 50, exists.shape), np.nan) for name in NAMES}
    fixed = {name: float(rng.integers(0, 20)) for name in NAMES}
    free = Limits(space, {}, fixed, slots)
    most = {}
    for name, share in shares.items():
        low, high = free.range(name)
        most[name] = low + share * (high - low)
    return Limits(space, most, fixed, slots)


def cost(limits: Limits, path: GatePath) -> dict[str, float]:
    """By adding up, or the largest."""
    chosen = {name: [limits.slots[name][i, c] for i, c in enumerate(path.choices)] for name in NAMES}
    return {
        name: max(limits.fixed[name], *values) if name == "peak_activation" else limits.fixed[name] + sum(values)
        for name, values in chosen.items()
    }


@given(
    seed=seeds,
    blocks=st.sampled_from([(1,), (2, 2), (1, 4), (2, 1, 2)]),
    kernels=st.sampled_from([(3,), (3, 5)]),
    share=st.floats(0, 1.1),
    shares=st.dictionaries(st.sampled_from(NAMES), st.floats(0, 1.1)),
    use_at_least=st.sampled_from([0.0, 0.9, 0.97]),
    count=st.integers(1, 5),
    spread=st.sampled_from([0.01, 1.0, 5.0]),
)
@settings(max_examples=60, deadline=None)
def test_equals_brute_force_with_every_limit_combined(
    seed: int,
    blocks: tuple[int, ...],
    kernels: tuple[int, ...],
    share: float,
    shares: dict[str, float],
    use_at_least: float,
    count: int,
    spread: float,
) -> None:
    space, rng = small_space(blocks, kernels), np.random.default_rng(seed)
    table, gates = random_table(space, rng), random_gates(space, rng, spread)
    limits = made_up(space, rng, shares)
    budget_ms = table.minimum_ms + share * (table.maximum_ms - table.minimum_ms)
    paths = [GatePath(c) for c in itertools.product(*(range(len(s.candidates)) for s in space.slots))]
    kept = [p for p in paths if all(cost(limits, p)[name] <= most for name, most in limits.most.items())]

    fastest = fastest_within(limits, table)
    assert (fastest is None) == (not kept)
    if fastest:
        assert table.path_ms(fastest) == pytest.approx(min(map(table.path_ms, kept)))

    within = [p for p in kept if table.path_ms(p) <= budget_ms]
    if not within:
        with pytest.raises(UserError):
            derive(space, table, gates, budget_ms, use_at_least, count, limits)
        with pytest.raises(UserError, match="cannot be met"):
            check_feasible(limits, table, budget_ms, "here")
        return
    check_feasible(limits, table, budget_ms, "here")
    lower = () if shares else LOWER_FLOORS
    floors = [use_at_least, *(f for f in lower if f < use_at_least)] if budget_ms < table.maximum_ms else []
    best = next(b for f in [*floors, 0.0] if (b := [p for p in within if table.path_ms(p) >= f * budget_ms]))
    best.sort(key=lambda p: -score(gates, p))
    found = derive(space, table, gates, budget_ms, use_at_least, count, limits)
    expected = list(dict.fromkeys(map(space.architecture, best)))[:count]
    assert [space.architecture(d.path) for d in found] == expected


@pytest.mark.parametrize("name", available_spaces())
def test_what_is_added_up_is_what_the_network_costs(name: str) -> None:
    import random

    space, rng = load_space(name), random.Random(0)
    limits = limits_of(space, 224, 1000, LimitSettings(params=1))
    for architecture in (
        space.smallest(),
        space.largest(quadratic=True),
        *(space.random_architecture(rng) for _ in range(20)),
    ):
        real = cost_of(lower(architecture, 224, 1000))
        assert cost(limits, space.path(architecture)) == {n: getattr(real, field) for n, field in FIELDS.items()}
    for limit in NAMES:
        least, most = limits.range(limit)
        assert least <= getattr(cost_of(lower(space.smallest(), 224, 1000)), FIELDS[limit])
        assert most == getattr(cost_of(lower(space.largest(quadratic=True), 224, 1000)), FIELDS[limit])


@pytest.mark.parametrize("name", available_spaces())
@pytest.mark.parametrize("device", DEVICES)
def test_all_limits_at_once_on_the_real_spaces_take_no_long_search(device: str, name: str) -> None:
    space, table, rng = load_space(name), shipped_table(device, name), np.random.default_rng(0)
    for spread, share in ((0.0, 0.3), (1.0, 0.6)):
        free = limits_of(space, 224, 1000, LimitSettings())
        low, high = free.range("params"), free.range("macs")
        asked = LimitSettings(
            params=low[0] + share * (low[1] - low[0]),
            macs=high[0] + 0.95 * share * (high[1] - high[0]),
            peak_activation=free.range("peak_activation")[1] - 1,
        )
        limits = limits_of(space, 224, 1000, asked)
        gates = random_gates(space, rng, spread)
        budget_ms = table.minimum_ms + share * (table.maximum_ms - table.minimum_ms)
        start = time.process_time()
        found = derive(space, table, gates, budget_ms, count=6, limits=limits)
        assert time.process_time() - start < 3  # 0.1 to 0.8 s on an idle machine
        assert len(found) == 6
        for d in found:
            limits.check(cost_of(lower(space.architecture(d.path), 224, 1000)))
            assert table.path_ms(d.path) <= budget_ms


def test_a_network_over_a_limit_is_never_written() -> None:
    limits = limits_of(load_space("quadranet"), 224, 10, LimitSettings(params=1e6))
    limits.check(Cost(macs=10**12, params=10**6, peak_activation_bytes=10**12))
    with pytest.raises(AssertionError, match="1000001 parameters of 1"):
        limits.check(Cost(macs=1, params=10**6 + 1, peak_activation_bytes=1))


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (
            {"params": 1000.0},
            "limits.params=1000 cannot be met: networks of 'quadranet' have 750,594 to 4,835,682 parameters",
        ),
        ({"macs": 1.0}, r"limits.macs=1 cannot be met: .* MACs"),
        ({"peak_activation": 10.0}, "bytes of peak activation"),
        ({"params": 0.0}, "limits.params=0.0 is not above 0"),
        ({"macs": float("nan")}, "limits.macs=nan is not"),
    ],
)
def test_a_limit_below_the_minimum_names_the_range(options: dict[str, float], said: str) -> None:
    with pytest.raises(UserError, match=said) as caught:
        plan_search(SearchSettings(device="vpu", budget_ms=30, limits=LimitSettings(**options)))
    assert "\n" not in str(caught.value)


def test_limits_that_only_together_cannot_be_kept_are_named() -> None:
    """The fastest candidate is the largest here, so that each limit alone is possible."""
    space, rng = small_space((1,)), np.random.default_rng(0)
    table = random_table(space, rng)
    slots = {name: np.where(np.isfinite(table.slot_ms), 10 - table.slot_ms, np.nan) for name in NAMES}
    limits = Limits(space, {"params": float(np.nanmin(slots["params"]))}, dict.fromkeys(NAMES, 0.0), slots)
    check_feasible(limits, table, table.maximum_ms, "here")
    with pytest.raises(UserError, match=r"cannot be met together .* fastest network within the limits takes") as caught:
        check_feasible(limits, table, table.minimum_ms, "here")
    assert f"{table.minimum_ms:.4g} ms on here" in str(caught.value)
