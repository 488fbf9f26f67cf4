"""Latency in the loss: the expectation is the table's, gradients are real, the multiplier turns the right way."""

from __future__ import annotations

import itertools
import math
import random
import time

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from device_profiles import load_profile
from latency_models import LatencyTable, fit_latency_model, latency_table
from nas.penalties.add_linear import AddLinear
from nas.penalties.mul_log import MulLog
from nas.penalties.multiplier import Multiplier
from nas.supernet.expected_latency import ExpectedLatency
from nas.supernet.gates import Gates
from search_space import UserError, load_space


@pytest.fixture(scope="module", params=["quadranet", "proxyless"])
def table(request: pytest.FixtureRequest) -> LatencyTable:
    return latency_table(fit_latency_model(load_profile("vpu")), load_space(request.param), 224, 1000)


def pairs(values: list[float]) -> list[tuple[float, float]]:
    return list(itertools.pairwise(values))


def random_alpha(table: LatencyTable, seed: int = 0) -> Tensor:
    """(slots, candidates) with -inf where there is no candidate, as a leaf that wants a gradient."""
    alpha = torch.randn(table.slot_ms.shape, generator=torch.Generator().manual_seed(seed))
    return alpha.masked_fill(torch.from_numpy(np.isnan(table.slot_ms)), -math.inf).requires_grad_()


def test_a_one_hot_choice_costs_its_path(table: LatencyTable) -> None:
    expected, rng = ExpectedLatency(table), random.Random(0)
    for _ in range(30):
        path = table.space.random_path(rng)
        gates = torch.zeros(table.slot_ms.shape)
        gates[range(len(path.choices)), path.choices] = 1.0
        assert float(expected(gates)) == pytest.approx(table.path_ms(path), rel=1e-5)


def test_the_gradient_by_probabilities_is_the_table(table: LatencyTable) -> None:
    probabilities = random_alpha(table).detach().softmax(1).requires_grad_()
    ExpectedLatency(table)(probabilities).backward()
    assert probabilities.grad is not None
    exists = ~np.isnan(table.slot_ms)
    np.testing.assert_allclose(probabilities.grad.numpy()[exists], table.slot_ms[exists], rtol=1e-6)
    assert not probabilities.grad.numpy()[~exists].any()


def test_the_gradient_by_alpha_equals_finite_differences(table: LatencyTable) -> None:
    """d E / d alpha_i = p_i (ms_i - E of the slot), against central differences in float64."""
    alpha = random_alpha(table)
    ExpectedLatency(table)(alpha.softmax(1)).backward()
    assert alpha.grad is not None
    values, ms = alpha.detach().double().numpy(), np.nan_to_num(table.slot_ms)

    def expectation(a: np.ndarray) -> float:
        p = np.exp(a)
        return float((p / p.sum(1, keepdims=True) * ms).sum())

    step = 1e-4
    for slot, candidate in [(0, 0), (1, 6), (3, 2), (5, 1)]:
        if not math.isfinite(values[slot, candidate]):
            continue
        up, down = values.copy(), values.copy()
        up[slot, candidate] += step
        down[slot, candidate] -= step
        difference = (expectation(up) - expectation(down)) / (2 * step)
        assert float(alpha.grad[slot, candidate]) == pytest.approx(difference, rel=1e-3, abs=1e-5)
        assert difference != 0


def test_the_expectation_lies_within_the_range(table: LatencyTable) -> None:
    expected = ExpectedLatency(table)
    for seed in range(5):
        value = float(expected(random_alpha(table, seed).softmax(1)).detach())
        assert table.minimum_ms < value < table.maximum_ms


def test_add_linear_by_hand() -> None:
    total = AddLinear(0.5, 30.0).loss(torch.tensor(2.0), torch.tensor(36.0))
    assert float(total) == pytest.approx(2.0 + 0.5 * 6 / 30)
    assert float(AddLinear(7.0, 30.0).loss(torch.tensor(2.0), torch.tensor(30.0))) == pytest.approx(2.0)


def test_mul_log_by_hand() -> None:
    total = MulLog(0.2, 0.3, 30.0).loss(torch.tensor(2.0), torch.tensor(900.0))
    assert float(total) == pytest.approx(0.2 * 2.0 * 2**0.3)
    assert float(MulLog(1.0, 0.6, 30.0).loss(torch.tensor(2.0), torch.tensor(30.0))) == pytest.approx(2.0)


@pytest.mark.parametrize(("latency_ms", "budget_ms"), [(0.8, 0.6), (0.3, 0.6), (0.5, 3.0), (3.0, 0.5), (0.8, 1.0)])
def test_mul_log_below_a_millisecond_is_refused_or_still_right(latency_ms: float, budget_ms: float) -> None:
    """Logarithms change sign at 1 ms: silently, a slower network would be rewarded."""
    latency = torch.tensor(latency_ms, requires_grad=True)
    try:
        MulLog(0.2, 0.3, budget_ms).loss(torch.tensor(2.0), latency).backward()
    except UserError as error:
        assert "1 ms" in str(error)
    else:
        assert latency.grad is not None and float(latency.grad) > 0


def test_multiplier_loss_by_hand() -> None:
    multiplier = Multiplier(30.0, strength=4.0)
    assert float(multiplier.loss(torch.tensor(2.0), torch.tensor(33.0))) == pytest.approx(2.4)
    assert float(Multiplier(30.0).loss(torch.tensor(2.0), torch.tensor(33.0))) == 2.0


@given(latencies=st.lists(st.floats(0.01, 1000), min_size=1, max_size=60), budget_ms=st.floats(0.1, 500))
@settings(max_examples=100, deadline=None)
def test_the_multiplier_is_never_negative(latencies: list[float], budget_ms: float) -> None:
    multiplier = Multiplier(budget_ms)
    for latency_ms in latencies:
        multiplier.observe(latency_ms)
        assert multiplier.strength >= 0 and math.isfinite(multiplier.strength)


@given(excess=st.floats(0.001, 3), start=st.floats(0, 10))
@settings(max_examples=50, deadline=None)
def test_above_the_budget_the_multiplier_rises_without_end(excess: float, start: float) -> None:
    multiplier, course = Multiplier(30.0, accumulated=start), [start]
    for _ in range(20):
        multiplier.observe(30 * (1 + excess))
        course.append(multiplier.strength)
    assert all(a < b for a, b in pairs(course))


@given(used=st.floats(0.1, 0.9), start=st.floats(0, 5))
@settings(max_examples=50, deadline=None)
def test_below_the_budget_the_multiplier_falls_to_zero(used: float, start: float) -> None:
    multiplier, course = Multiplier(30.0, accumulated=start), [start]
    for _ in range(600):
        multiplier.observe(30 * used)
        course.append(multiplier.strength)
    assert all(a >= b for a, b in pairs(course))
    assert course[-1] == 0


def test_a_budget_that_does_not_bind_leaves_the_loss_alone() -> None:
    multiplier = Multiplier(1000.0)
    for latency_ms in (20.0, 25.0, 22.0, 28.0, 20.0):
        multiplier.observe(latency_ms)
    assert multiplier.strength == pytest.approx(0, abs=0.05)
    for _ in range(20):
        multiplier.observe(20.0)
    assert multiplier.strength == 0


def test_a_falling_latency_is_damped() -> None:
    """The proportional part takes strength away while latency falls, though it is still above the budget."""
    multiplier = Multiplier(30.0, accumulated=2.0)
    multiplier.observe(45.0)
    before = multiplier.strength
    multiplier.observe(36.0)
    assert 0 < multiplier.strength < before


def follow(
    table: LatencyTable, budget_ms: float, liking: float, hard: bool = False, steps: int = 120
) -> tuple[list[float], list[float]]:
    """E[lat] / T and the strength after every architecture step of gates that like slow candidates, noisily.

    liking: the task loss that the slowest candidate of all saves, in tenths of a nat.
    """
    draws = torch.Generator().manual_seed(0)
    gates, expected, multiplier = Gates(table.space, draws), ExpectedLatency(table), Multiplier(budget_ms)
    gates.keep_within(table, budget_ms)
    optimizer = torch.optim.Adam(gates.parameters(), lr=0.1, betas=(0.0, 0.999))
    likes = liking * (expected.values / expected.values.max() + 0.3 * torch.randn(gates.exists.shape, generator=draws))
    course, strengths = [], []
    for _ in range(steps):
        sample = gates.sample("two", draws)
        noise = torch.randn(gates.exists.shape, generator=draws)
        task = -0.1 * ((likes + noise) * sample.probabilities).sum()
        optimizer.zero_grad()
        loss = task if hard else multiplier.loss(task, expected(sample.probabilities))
        loss.backward()
        before = gates.alpha.detach().clone()
        optimizer.step()
        gates.keep_unsampled(sample, before)
        if hard:
            gates.keep_within(table, budget_ms)
        exact = (gates.probabilities().detach().double().numpy() * np.nan_to_num(table.slot_ms)).sum() + table.fixed_ms
        multiplier.observe(float(exact))
        course.append(float(exact) / budget_ms)
        strengths.append(multiplier.strength)
    return course, strengths


RANGES = [("quadranet", "gpu"), ("proxyless", "vpu"), ("quadranet_t", "cpu")]  # 0.36 to 450 ms


def priced(name: str, device: str) -> LatencyTable:
    return latency_table(fit_latency_model(load_profile(device)), load_space(name), 224, 1000)


@pytest.mark.parametrize(("name", "device"), RANGES)
@pytest.mark.parametrize("share", [0.02, 0.3, 0.8])
def test_the_multiplier_finds_itself(name: str, device: str, share: float) -> None:
    """From the bottom of the range to its top, for weak and strong likings: near T at the end, no wind-up, no swing."""
    table = priced(name, device)
    budget_ms = table.minimum_ms + share * (table.maximum_ms - table.minimum_ms)
    for liking in (0.05, 0.5, 5.0):
        course, strengths = follow(table, budget_ms, liking)
        last = np.array(course[80:])
        assert last.mean() <= 1.02 and last.max() <= 1.05 and max(course) <= 1.12, liking
        assert last.std() <= 0.03, liking
        assert strengths[-1] == 0 or last.mean() >= 0.97, "a budget that is wanted is used"
        assert max(strengths[80:]) <= 4 * liking + 4, liking


@pytest.mark.parametrize(("name", "device"), RANGES)
@pytest.mark.parametrize("share", [0.0, 1e-4, 0.3, 0.99])
def test_hard_mode_is_within_the_budget_after_every_step(name: str, device: str, share: float) -> None:
    table = priced(name, device)
    budget_ms = table.minimum_ms + share * (table.maximum_ms - table.minimum_ms)
    course, _ = follow(table, budget_ms, liking=5.0, hard=True)
    assert max(course) <= 1 + (1e-12 if share == 0 else 0)
    assert course[-1] >= (0.97 if share < 0.9 else 0.5), "what is wanted is used"


def test_the_projection_costs_little() -> None:
    """Median over steps that have to project; 0.1 ms on an idle core."""
    table, draws = priced("quadranet", "vpu"), torch.Generator().manual_seed(0)
    gates, seconds = Gates(table.space, draws), []
    for _ in range(100):
        with torch.no_grad():
            gates.alpha.add_(torch.randn(gates.alpha.shape, generator=draws) * 0.1 * gates.exists)
        start = time.process_time()
        gates.keep_within(table, 25.0)
        seconds.append(time.process_time() - start)
    assert np.median(seconds) < 1e-3
