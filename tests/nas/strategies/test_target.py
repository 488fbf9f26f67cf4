"""A target's architecture step: the gradient is the whole graph's, whoever drew the path, and a Zero gets its share."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from nas.penalties.multiplier import Multiplier
from nas.run.plan import Plan, plan_search
from nas.run.settings import GateSettings, LimitSettings, PenaltySettings, SearchSettings
from nas.strategies.target import Target
from nas.supernet.expected_latency import ExpectedLatency
from nas.supernet.gates import GateSample
from nas.supernet.network import Supernet, frozen
from search_space import ZERO

RESOLUTION = 32


def plan(form: str = "multiplier", mode: str = "two", budget_ms: float = 50.0) -> Plan:
    penalty, gates = PenaltySettings(form=form, strength=2.0), GateSettings(mode=mode)
    return plan_search(SearchSettings(device="cpu", budget_ms=budget_ms, penalty=penalty, gates=gates))


@pytest.fixture(scope="module")
def supernet() -> Supernet:
    torch.manual_seed(0)
    return Supernet(plan().space, RESOLUTION, 10, share_weights=True)


def target_of(asked: Plan, seed: int = 0) -> Target:
    return Target(asked, None, torch.Generator().manual_seed(seed))  # type: ignore[arg-type]


def task_loss(supernet: Supernet, sample: GateSample) -> Tensor:
    images = torch.randn(4, 3, RESOLUTION, RESOLUTION, generator=torch.Generator().manual_seed(1))
    with frozen(supernet.path_parameters(sample.path)):
        return F.cross_entropy(supernet(images, sample.path, sample), torch.tensor([0, 1, 2, 3]))


def gate_gradient(loss: Tensor, sample: GateSample) -> Tensor:
    (gradient,) = torch.autograd.grad(loss, sample.values, retain_graph=True)
    return gradient


@pytest.mark.parametrize("mode", ["two", "full_v2"])
@pytest.mark.parametrize("form", ["multiplier", "add_linear", "mul_log", "hard"])
def test_the_gradient_is_that_of_loss_and_penalty_together(supernet: Supernet, form: str, mode: str) -> None:
    """Against autograd through gates, network and penalty at once."""
    target = target_of(plan(form, mode))
    if isinstance(target.penalty, Multiplier):
        target.penalty.strength = 3.0
    sample = target.gates.sample(mode, torch.Generator().manual_seed(2))
    loss = task_loss(supernet, sample)
    latency_ms = ExpectedLatency(target.plan.table)(sample.probabilities)
    whole = target.penalty.loss(loss, latency_ms)
    (expected,) = torch.autograd.grad(whole, target.gates.alpha, retain_graph=True)
    target.step(loss, gate_gradient(loss, sample), sample)
    assert target.gates.alpha.grad is not None and bool(expected.abs().sum() > 0)
    torch.testing.assert_close(target.gates.alpha.grad, expected, rtol=1e-4, atol=1e-7)


def test_a_sampled_zero_gets_its_latency_and_its_task_gradient(supernet: Supernet) -> None:
    """The published code skips the gradient of an edge whose sampled candidate is Zero."""
    asked = plan()
    zero = {slot.candidates.index(ZERO) for slot in asked.space.slots if ZERO in slot.candidates}.pop()
    slot = next(i for i, s in enumerate(asked.space.slots) if ZERO in s.candidates)
    for seed in range(200):
        target = target_of(asked, seed)
        sample = target.gates.sample("two", torch.Generator().manual_seed(seed))
        if sample.path.choices[slot] == zero:
            break
    else:
        pytest.fail("no Zero was drawn")
    loss = task_loss(supernet, sample)
    gradient = gate_gradient(loss, sample)
    other = next(j for j in range(zero) if sample.involved[slot, j])
    assert gradient[slot, zero] != 0 and gradient[slot, other] != 0
    moved = []
    for task, strength in ((gradient, 0.0), (torch.zeros_like(gradient), 3.0)):
        target = target_of(asked, seed)
        assert isinstance(target.penalty, Multiplier)
        target.penalty.strength = strength
        target.step(loss, task, sample)
        grad = target.gates.alpha.grad
        assert grad is not None
        moved.append((float(grad[slot, zero]), float(grad[slot, other])))
    (task_zero, task_other), (latency_zero, latency_other) = moved
    assert task_zero == pytest.approx(-task_other) and task_zero != 0
    assert latency_zero < 0 < latency_other, "the faster of the two, Zero, is pushed up"


def test_every_target_learns_from_a_path_that_another_drew(supernet: Supernet) -> None:
    slow, fast = target_of(plan(budget_ms=100.0)), target_of(plan(budget_ms=32.0), seed=1)
    sample = slow.gates.sample("two", torch.Generator().manual_seed(0))
    loss = task_loss(supernet, sample)
    before = fast.gates.alpha.detach().clone()
    fast.step(loss, gate_gradient(loss, sample), sample)
    changed = (fast.gates.alpha.detach() != before) & fast.gates.exists
    assert bool(changed.any()) and not bool((changed & ~sample.involved).any())


def test_hard_targets_are_within_the_budget_from_the_start_and_after_every_step() -> None:
    asked, draws = plan("hard", budget_ms=32.0), torch.Generator().manual_seed(0)
    target = target_of(asked)
    for _ in range(40):
        assert target.expected_ms <= 32.0
        sample = target.gates.sample("two", draws)
        likes_slow = -0.1 * ExpectedLatency(asked.table).values * sample.involved
        target.step(torch.tensor(2.0), likes_slow, sample)
    assert 0.97 * 32.0 <= target.expected_ms <= 32.0


def test_gates_start_within_limits_and_are_led_back_to_them() -> None:
    """A limit binds where the budget does not; its multiplier is kept with the run."""
    free = plan(budget_ms=1000.0)
    low, high = free.limits.range("macs")
    settings = replace(free.settings, limits=LimitSettings(macs=0.5 * (low + high), params=1e12))
    asked, draws = plan_search(settings), torch.Generator().manual_seed(0)
    target, most = target_of(asked), asked.limits.most["macs"]
    macs = target.expected_costs["macs"]

    def expected() -> float:
        return float(macs(target.gates.probabilities()).detach())

    assert expected() <= most and float(macs(target_of(free).gates.probabilities()).detach()) > most
    for step in range(200):
        sample = target.gates.sample("two", draws)
        likes_work = -3 * macs.values / macs.values.max() * sample.involved
        target.step(torch.tensor(2.0), likes_work, sample)
        if step >= 150:
            assert 0.97 * most <= expected() <= 1.03 * most
    assert target.multipliers["macs"].strength > 0 == target.multipliers["params"].strength
    again = target_of(asked)
    again.restore(target.state())
    assert again.multipliers == target.multipliers
