"""The final choice: equal to brute force on small spaces, within the budget always, quick on the real ones."""

from __future__ import annotations

import itertools
import math
import random
import time
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from device_profiles import load_profile
from latency_models import LatencyTable, fit_latency_model, latency_table
from nas.choose.derive import LOWER_FLOORS, Derived, derive
from nas.choose.knapsack import Sum, by_programs
from search_space import ZERO, Architecture, GatePath, SearchSpace, Stage, UserError, available_spaces, load_space
from tests.search_space.test_stages import STAGED

DEVICES = ("cpu", "gpu", "vpu")
# on the gpu a block is 12 % of the fastest network of these, and what stands in it hardly matters
BLOCK_IS_A_STEP = {("gpu", name): 0.9 for name in available_spaces() if name.startswith(("efficientnet", "mobilenet"))}
seeds = st.integers(0, 2**32 - 1)


def small_space(blocks: tuple[int, ...] = (2, 2), kernels: tuple[int, ...] = (3, 5)) -> SearchSpace:
    return SearchSpace("small", "quadra", 8, tuple(Stage(8, n) for n in blocks), kernels, (2,))


def widest(space: SearchSpace) -> int:
    return max(len(slot.candidates) for slot in space.slots)


def random_table(space: SearchSpace, rng: np.random.Generator) -> LatencyTable:
    """Made-up times; a Zero takes none and a slot without it has NaN there, as in real tables."""
    slot_ms = np.full((len(space.slots), widest(space)), np.nan)
    for i, slot in enumerate(space.slots):
        blocks = [choice for choice, candidate in enumerate(slot.candidates) if candidate != ZERO]
        slot_ms[i, : len(slot.candidates)] = 0.0
        slot_ms[i, blocks] = rng.uniform(0.1, 3.0, len(blocks))
    fixed_ms = float(rng.uniform(0.0, 2.0))
    return LatencyTable(
        space=space,
        fixed_ms=fixed_ms,
        fixed_high_ms=1.2 * fixed_ms,
        slot_ms=slot_ms,
        slot_high_ms=1.2 * slot_ms,
    )


def random_gates(space: SearchSpace, rng: np.random.Generator, spread: float) -> NDArray[np.float64]:
    """log softmax of normal alphas, -inf for padding; `spread` 0 is uniform."""
    alpha = np.full((len(space.slots), widest(space)), -np.inf)
    for i, slot in enumerate(space.slots):
        alpha[i, : len(slot.candidates)] = rng.normal(0, spread, len(slot.candidates))
    gates: NDArray[np.float64] = alpha - np.log(np.exp(alpha).sum(1, keepdims=True))
    return gates


def score(gates: NDArray[np.float64], path: GatePath) -> float:
    return float(sum(gates[i, c] for i, c in enumerate(path.choices)))


def brute_force(
    space: SearchSpace,
    table: LatencyTable,
    gates: NDArray[np.float64],
    budget_ms: float,
    use_at_least: float,
    count: int,
) -> list[Architecture]:
    """The `count` best distinct networks by listing every path."""
    paths = [GatePath(c) for c in itertools.product(*(range(len(s.candidates)) for s in space.slots))]
    ranked = sorted(paths, key=lambda path: -score(gates, path))
    floors = [use_at_least, *(f for f in LOWER_FLOORS if f < use_at_least)] if budget_ms < table.maximum_ms else []
    for floor in [*floors, 0.0]:
        within = [path for path in ranked if floor * budget_ms <= table.path_ms(path) <= budget_ms]
        if within:
            return list(dict.fromkeys(space.architecture(path) for path in within))[:count]
    raise AssertionError("nothing fits")


def check(space: SearchSpace, table: LatencyTable, gates: NDArray[np.float64], found: list[Derived]) -> None:
    """What a result claims of itself is so."""
    architectures = [space.architecture(d.path) for d in found]
    assert len(set(architectures)) == len(found) >= 1
    for d in found:
        assert d.latency_ms == pytest.approx(table.path_ms(d.path), rel=1e-12)
        assert d.log_probability == pytest.approx(score(gates, d.path))
    scores = [d.log_probability for d in found]
    assert all(a >= b - 1e-8 for a, b in itertools.pairwise(scores))


@given(
    seed=seeds,
    blocks=st.sampled_from([(1,), (2, 2), (1, 4), (2, 1, 2)]),
    kernels=st.sampled_from([(3,), (3, 5), (3, 5, 7)]),
    share=st.floats(0, 1.1),
    use_at_least=st.sampled_from([0.0, 0.5, 0.9, 0.97, 0.999]),
    count=st.integers(1, 6),
    spread=st.sampled_from([0.01, 1.0, 5.0]),
)
@settings(max_examples=60, deadline=None)
def test_equals_brute_force(
    seed: int,
    blocks: tuple[int, ...],
    kernels: tuple[int, ...],
    share: float,
    use_at_least: float,
    count: int,
    spread: float,
) -> None:
    space, rng = small_space(blocks, kernels), np.random.default_rng(seed)
    table, gates = random_table(space, rng), random_gates(space, rng, spread)
    budget_ms = table.minimum_ms + share * (table.maximum_ms - table.minimum_ms)
    found = derive(space, table, gates, budget_ms, use_at_least, count)
    check(space, table, gates, found)
    expected = brute_force(space, table, gates, budget_ms, use_at_least, count)
    assert [space.architecture(d.path) for d in found] == expected


@given(seed=seeds, share=st.floats(0, 1.1), count=st.integers(1, 6), spread=st.sampled_from([0.01, 1.0, 5.0]))
@settings(max_examples=20, deadline=None)
def test_equals_brute_force_where_stages_differ(seed: int, share: float, count: int, spread: float) -> None:
    rng = np.random.default_rng(seed)
    table, gates = random_table(STAGED, rng), random_gates(STAGED, rng, spread)
    budget_ms = table.minimum_ms + share * (table.maximum_ms - table.minimum_ms)
    found = derive(STAGED, table, gates, budget_ms, 0.9, count)
    check(STAGED, table, gates, found)
    assert [STAGED.architecture(d.path) for d in found] == brute_force(STAGED, table, gates, budget_ms, 0.9, count)


def test_all_networks_in_order_when_nothing_binds() -> None:
    """Distinct: in a stage of four blocks most networks have several paths, by where the Zeros stand."""
    space, rng = small_space((4,)), np.random.default_rng(0)
    table, gates = random_table(space, rng), random_gates(space, rng, 1.0)
    found = derive(space, table, gates, 1e9, count=10_000)
    check(space, table, gates, found)
    assert space.path_count > len(found) == space.architecture_count


@given(seed=seeds)
@settings(max_examples=30, deadline=None)
def test_any_network_can_be_the_only_answer(seed: int) -> None:
    """A budget equal to one path's latency with next to no room below it: no rounding may lose that path."""
    space, rng = small_space((3, 3)), np.random.default_rng(seed)
    table, gates = random_table(space, rng), random_gates(space, rng, 1.0)
    path = space.random_path(random.Random(seed))
    (found,) = derive(space, table, gates, table.path_ms(path), use_at_least=1 - 1e-12)
    assert found.path == path


@pytest.mark.parametrize("name", available_spaces())
def test_never_over_the_budget(name: str) -> None:
    space, rng = load_space(name), np.random.default_rng(1)
    for _ in range(70):
        table, gates = random_table(space, rng), random_gates(space, rng, float(rng.choice([0.01, 1, 4])))
        budget_ms = float(rng.uniform(table.minimum_ms, 1.1 * table.maximum_ms))
        (found,) = derive(space, table, gates, budget_ms)
        assert table.path_ms(found.path) <= budget_ms


@pytest.mark.parametrize("name", available_spaces())
@pytest.mark.parametrize("device", DEVICES)
def test_the_tightest_budget_has_the_fastest_network(name: str, device: str) -> None:
    space, table = load_space(name), shipped_table(device, name)
    for gates in (random_gates(space, np.random.default_rng(0), 1.0), random_gates(space, np.random.default_rng(0), 0)):
        for budget_ms in (table.minimum_ms, math.nextafter(table.minimum_ms, math.inf)):
            (found,) = derive(space, table, gates, budget_ms)
            assert found.latency_ms <= budget_ms
            assert space.architecture(found.path) == space.smallest()


@pytest.mark.parametrize("budget_ms", [0.0, -1.0, math.nan, -math.inf])
def test_no_budget(budget_ms: float) -> None:
    space, rng = small_space(), np.random.default_rng(0)
    with pytest.raises(UserError, match="no network of 'small'"):
        derive(space, random_table(space, rng), random_gates(space, rng, 1.0), budget_ms)


def test_a_budget_below_the_minimum_names_it() -> None:
    space, rng = small_space(), np.random.default_rng(0)
    table = random_table(space, rng)
    with pytest.raises(UserError, match=f"the fastest takes {table.minimum_ms:.4g} ms") as caught:
        derive(space, table, random_gates(space, rng, 1.0), math.nextafter(table.minimum_ms, 0))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("factor", [1.0, 1.5, 1e6, math.inf])
def test_a_budget_above_the_maximum_gives_the_most_probable_network(factor: float) -> None:
    space, rng = small_space(), np.random.default_rng(3)
    table, gates = random_table(space, rng), random_gates(space, rng, 1.0)
    (found,) = derive(space, table, gates, factor * table.maximum_ms)
    assert found.path == GatePath(tuple(int(i) for i in np.argmax(gates, axis=1)))


def test_candidates_that_the_gates_rule_out_are_taken_only_if_nothing_else_fits() -> None:
    """A probability of 0 (log -inf) is no error: the budget comes first."""
    space, rng = small_space((1, 1)), np.random.default_rng(0)
    table, gates = random_table(space, rng), random_gates(space, rng, 0.0)
    fastest = np.nanargmin(table.slot_ms, axis=1)
    gates[[0, 1], fastest] = -np.inf
    (found,) = derive(space, table, gates, table.minimum_ms)
    assert found.path.choices == tuple(fastest)
    (found,) = derive(space, table, gates, 1e9)
    assert all(a != b for a, b in zip(found.path.choices, fastest, strict=True))


def test_nan_is_padding() -> None:
    space, rng = small_space(), np.random.default_rng(0)
    table, gates = random_table(space, rng), random_gates(space, rng, 1.0)
    budget_ms = 0.6 * table.maximum_ms
    padded = np.where(np.isfinite(gates), gates, np.nan)
    assert derive(space, table, padded, budget_ms, count=3) == derive(space, table, gates, budget_ms, count=3)


TABLES: dict[tuple[str, str], LatencyTable] = {}


def shipped_table(device: str, name: str) -> LatencyTable:
    if (device, name) not in TABLES:
        TABLES[device, name] = latency_table(fit_latency_model(load_profile(device)), load_space(name), 224, 1000)
    return TABLES[device, name]


@pytest.mark.parametrize("name", available_spaces())
@pytest.mark.parametrize("device", DEVICES)
def test_even_and_almost_even_gates_are_no_trap(device: str, name: str) -> None:
    """Where all networks are about equally probable the search must still end at once."""
    space, table, rng = load_space(name), shipped_table(device, name), np.random.default_rng(0)
    shares = (0.95, *np.random.default_rng(len(name + device)).uniform(0, 1, 2))
    for spread, share in itertools.product((0.0, 1e-3, 3.0), shares):
        gates = random_gates(space, rng, spread)
        budget_ms = table.minimum_ms + share * (table.maximum_ms - table.minimum_ms)
        start = time.process_time()
        found = derive(space, table, gates, budget_ms, count=6)
        assert time.process_time() - start < 2
        check(space, table, gates, found)
        assert len(found) == 6
        assert all(d.latency_ms <= budget_ms for d in found)


@pytest.mark.parametrize("name", available_spaces())
@pytest.mark.parametrize("device", DEVICES)
def test_the_budget_is_used(device: str, name: str) -> None:
    """At ten budgets over the feasible range the network takes 97 % to 100 % of it, where a block is no larger step."""
    space, table, rng = load_space(name), shipped_table(device, name), np.random.default_rng(0)
    low, high = table.minimum_ms, table.maximum_ms
    for budget_ms in np.linspace(low, high, 12)[1:-1]:
        gates = random_gates(space, rng, 1.0)
        (found,) = derive(space, table, gates, float(budget_ms))
        least = BLOCK_IS_A_STEP.get((device, name), 0.97)
        assert least * budget_ms <= found.latency_ms <= budget_ms


@pytest.mark.parametrize("name", ["quadranet", "proxyless", "efficientnet_lite0"])
@pytest.mark.parametrize("strength", [-10.0, -0.1, 0.1, 10.0])
def test_gates_that_follow_the_latency_are_no_trap(name: str, strength: float) -> None:
    """Billions of networks at an end of what is allowed are then better than all within: the floor holds all the same,
    and the network found is within 0.3 % of the budget from that end."""
    space, table, rng = load_space(name), shipped_table("vpu", name), np.random.default_rng(0)
    for budget_ms, noise in itertools.product((1.5 * table.minimum_ms, 0.7 * table.maximum_ms), (0.0, 1e-3)):
        scores = strength * table.slot_ms / budget_ms * len(table.slot_ms) + random_gates(space, rng, noise)
        start = time.process_time()
        (found,) = derive(space, table, scores, budget_ms)
        assert time.process_time() - start < 10
        end = 0.97 if strength < 0 else 1.0
        assert 0.97 * budget_ms <= found.latency_ms <= budget_ms
        assert abs(found.latency_ms - end * budget_ms) < 0.003 * budget_ms


@given(
    seed=seeds,
    slots=st.integers(1, 4),
    shares=st.lists(st.floats(0.2, 1), min_size=1, max_size=3),
    low=st.floats(0, 0.9),
    spread=st.sampled_from([0.01, 1.0, 50.0]),
)
@settings(max_examples=30, deadline=None)
def test_programs_list_what_brute_force_lists(
    seed: int, slots: int, shares: list[float], low: float, spread: float
) -> None:
    rng = np.random.default_rng(seed)
    allowed = rng.random((slots, 3)) < 0.8
    scores = np.where(rng.random((slots, 3)) < 0.1, -np.inf, rng.normal(0, spread, (slots, 3)))
    first, *others = [Sum(values := rng.uniform(0, 1, (slots, 3)), share * values.max(1).sum()) for share in shares]
    first = replace(first, low=low * first.high)

    def total(values: NDArray[np.float64], choices: tuple[int, ...]) -> float:
        return float(values[np.arange(slots), list(choices)].sum())

    kept = [
        choices
        for choices in itertools.product(range(3), repeat=slots)
        if allowed[np.arange(slots), list(choices)].all()
        and first.low <= total(first.values, choices) <= first.high
        and all(total(s.values, choices) <= s.high for s in others)
    ]
    least = -1e9  # a candidate taken only if nothing else fits
    score = {choices: total(np.nan_to_num(scores, neginf=least), choices) for choices in kept}
    found = list(by_programs(scores, allowed, first, others))
    assert sorted(found) == sorted(kept)
    assert [score[choices] for choices in found] == pytest.approx(sorted(score.values(), reverse=True), abs=1e-5)


def test_the_same_question_has_the_same_answer() -> None:
    space, table = load_space("quadranet"), shipped_table("vpu", "quadranet")
    gates = random_gates(space, np.random.default_rng(0), 0.0)
    assert derive(space, table, gates, 30.0, count=4) == derive(space, table, gates, 30.0, count=4)


@pytest.mark.parametrize("device", ["cpu", "cpu_int8", "vpu"])
def test_upper_ends_price_candidates_by_their_support_and_the_choice_stays_exact(device: str) -> None:
    """Few rows behind 7x7: upper ends make it dearer than they make 5x5, and it is chosen no more often."""
    space = load_space("quadranet_lite")
    table = latency_table(fit_latency_model(load_profile(device), confidence=0.9), space, 224, 1000)
    priced, names = table.upper_end(), list(map(str, space.slots[1].candidates))
    dearer = priced.slot_ms[:, :-1] / table.slot_ms[:, :-1]  # Zero, the last, takes no time
    five, seven = (names.index(name) for name in ("k5e3", "k7e3"))
    assert (dearer[:, seven] > 1.01 * dearer[:, five]).all()
    rng, chosen = np.random.default_rng(0), [0, 0]
    for _ in range(12):
        gates = random_gates(space, rng, 1.0)
        budget_ms = table.minimum_ms + rng.uniform(0.2, 0.7) * (table.maximum_ms - table.minimum_ms)
        [blind] = derive(space, table, gates, budget_ms)
        kept_ms = priced.path_ms(blind.path)
        [found] = derive(space, priced, gates, kept_ms)
        assert found.latency_ms <= kept_ms and found.log_probability >= blind.log_probability - 1e-9
        for number, path in enumerate((blind.path, found.path)):
            chosen[number] += sum(names[choice].startswith("k7") for choice in path.choices if choice < len(names) - 1)
    assert chosen[1] <= chosen[0]
