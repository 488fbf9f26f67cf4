"""Gates against a slow reference that evaluates every candidate and writes the formulas out."""

import math
import random
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from nas.supernet.gates import Gates, GateSample
from nas.supernet.network import SeparateSlot, SharedSlot, Supernet, frozen
from search_space import ZERO, SearchSpace, Stage
from search_space.build import Scale
from tests.nas.choose.test_derive import random_table
from tests.search_space.test_stages import STAGED

QUADRA = SearchSpace("small_quadra", "quadra", 8, (Stage(8, 2), Stage(16, 3)), (3, 5), (2, 3))
MBCONV = SearchSpace(
    "small_mbconv", "mbconv", 8, (Stage(8, 2, 2), Stage(16, 3, 2)), (3, 5), (2, 3), first_width=8, head_width=32
)
LITE = replace(QUADRA, name="small_lite", norm="batch_norm", activation="hard_swish")
CASES = [(space, shared) for space in (QUADRA, LITE, MBCONV, STAGED) for shared in (False, True)]


def make(space: SearchSpace, shared: bool, seed: int = 0) -> tuple[Supernet, Gates, Tensor, Tensor]:
    torch.manual_seed(seed)
    supernet = Supernet(space, 16, 5, share_weights=shared).double()
    for module in supernet.modules():
        if isinstance(module, Scale | nn.BatchNorm2d):  # some start too small to matter
            nn.init.uniform_(module.weight, 0.5, 1.5)
    gates = Gates(space, torch.Generator().manual_seed(seed)).double()
    with torch.no_grad():
        gates.alpha.add_(torch.randn(gates.alpha.shape, dtype=torch.float64) * gates.exists)
    return supernet, gates, torch.randn(3, 3, 16, 16, dtype=torch.float64), torch.randint(0, 5, (3,))


def reference_gradient(supernet: Supernet, gates: Gates, sample: GateSample, x: Tensor, labels: Tensor) -> Tensor:
    """dL/dalpha with every involved candidate in the graph, and the sum over i and j written out."""
    one_hot = sample.values.detach().clone().requires_grad_(True)
    for segment, piece in zip(supernet.segments, supernet.children(), strict=True):
        if segment.slot is None:
            x = piece(x)
            continue
        assert isinstance(piece, SeparateSlot | SharedSlot)
        involved = sample.involved[segment.slot].nonzero()[:, 0].tolist()
        x = sum(one_hot[segment.slot, j] * piece.run(j, x) for j in involved)  # type: ignore[assignment]
    (dg,) = torch.autograd.grad(F.cross_entropy(x, labels), one_hot)
    alpha = gates.alpha.detach()
    expected = torch.zeros_like(alpha)
    for s in range(len(expected)):
        members = sample.involved[s].nonzero()[:, 0].tolist()
        weights = [math.exp(float(alpha[s, j])) for j in members]
        p = {j: w / sum(weights) for j, w in zip(members, weights, strict=True)}
        for i in members:
            expected[s, i] = sum(float(dg[s, j]) * p[j] * ((i == j) - p[i]) for j in members)
    return expected


@pytest.mark.parametrize("mode", ["two", "full_v2"])
@pytest.mark.parametrize(("space", "shared"), CASES)
def test_gradient_equals_slow_reference(space: SearchSpace, shared: bool, mode: str) -> None:
    supernet, gates, x, labels = make(space, shared)
    draws = torch.Generator().manual_seed(1)
    for _ in range(3):
        sample = gates.sample(mode, draws)
        gates.alpha.grad = None
        with frozen(supernet.path_parameters(sample.path)):
            F.cross_entropy(supernet(x, sample.path, sample), labels).backward()
        expected = reference_gradient(supernet, gates, sample, x, labels)
        assert gates.alpha.grad is not None
        assert (gates.alpha.grad - expected).norm() <= 1e-9 * expected.norm()
        assert expected.norm() > 1e-6  # the comparison means something


@pytest.mark.parametrize(("space", "shared"), CASES)
def test_active_zero_gets_task_and_latency_gradient(space: SearchSpace, shared: bool) -> None:
    supernet, gates, x, labels = make(space, shared)
    slot = next(i for i, s in enumerate(space.slots) if ZERO in s.candidates)
    zero = space.slots[slot].candidates.index(ZERO)
    draws = torch.Generator().manual_seed(0)
    sample = gates.sample("full_v2", draws)
    while sample.path.choices[slot] != zero:
        sample = gates.sample("full_v2", draws)
    F.cross_entropy(supernet(x, sample.path, sample), labels).backward()
    assert gates.alpha.grad is not None and gates.alpha.grad[slot, : zero + 1].abs().min() > 0
    expected = reference_gradient(supernet, gates, sample, x, labels)
    assert (gates.alpha.grad - expected).norm() <= 1e-9 * expected.norm()


def test_two_samples_distinct_pairs_by_probability() -> None:
    gates = Gates(QUADRA)
    draws = torch.Generator().manual_seed(0)
    with torch.no_grad():
        gates.alpha[1] = torch.tensor([1.0, 0.0, 0.0, 0.0, -1.0])
    counts = torch.zeros(5)
    for _ in range(3000):
        sample = gates.sample("two", draws)
        assert (sample.involved.sum(1) == 2).all()
        assert torch.allclose(sample.probabilities.sum(1), torch.ones(len(QUADRA.slots)))
        assert all(sample.involved[s, c] for s, c in enumerate(sample.path.choices))
        counts += sample.involved[1]
    p = gates.probabilities()[1].detach()
    pairs = [(i, j) for i in range(5) for j in range(5) if i != j]
    expected = torch.zeros(5)
    for i, j in pairs:  # drawn one after the other without replacement
        share = p[i] * p[j] / (1 - p[i])
        expected[i] += share
        expected[j] += share
    assert torch.allclose(counts / 3000, expected, atol=0.04)


def test_unsampled_probabilities_stay_after_a_step_in_mode_two() -> None:
    gates = Gates(QUADRA)
    sample = gates.sample("two", torch.Generator().manual_seed(0))
    before, p_before = gates.alpha.detach().clone(), gates.probabilities().detach()
    with torch.no_grad():
        gates.alpha += 0.7 * torch.randn(gates.alpha.shape) * sample.involved
    gates.keep_unsampled(sample, before)
    p_after = gates.probabilities().detach()
    untouched = gates.exists & ~sample.involved
    assert torch.allclose(p_after[untouched], p_before[untouched], atol=1e-6)
    assert (p_after - p_before)[sample.involved].abs().max() > 0.01


def test_keep_within_keeps_the_budget_and_the_order() -> None:
    rng = np.random.default_rng(0)
    table = random_table(QUADRA, rng)
    slot_ms, exists = torch.from_numpy(np.nan_to_num(table.slot_ms)), Gates(QUADRA).exists

    def even_gates() -> Gates:
        return Gates(QUADRA, torch.Generator().manual_seed(0))

    def expected_ms(gates: Gates) -> float:
        return table.fixed_ms + float((gates.double().probabilities().detach() * slot_ms).sum())

    uniform_ms = expected_ms(even_gates())
    for share in (0.0, 1e-9, 0.05, 0.5, 0.9, 0.9999999):
        budget_ms = table.minimum_ms + share * (uniform_ms - table.minimum_ms)
        tilted = even_gates()
        tilted.keep_within(table, budget_ms)
        assert (1 - 1e-5) * budget_ms <= expected_ms(tilted) <= budget_ms * (1 + 1e-12)
        for row, ms, real in zip(tilted.probabilities().detach(), slot_ms, exists, strict=True):
            order = ms[real].argsort()
            assert (row[real][order].diff() <= 1e-2).all(), "slower candidates are never likelier"
    loose = even_gates()
    before = loose.alpha.detach().clone()
    loose.keep_within(table, uniform_ms * 2)
    assert torch.equal(loose.alpha, before)


def test_entropy_is_one_when_uniform_and_zero_when_decided() -> None:
    gates = Gates(QUADRA)
    assert gates.entropy() == pytest.approx(1.0, abs=1e-4)
    with torch.no_grad():
        gates.alpha[:, 0] = 100.0
    assert gates.entropy() == pytest.approx(0.0, abs=1e-6)


def test_a_space_with_one_candidate_per_slot_has_nothing_to_choose() -> None:
    space = SearchSpace("fixed", "quadra", 8, (Stage(8, 1),), (3,), (2,))
    gates = Gates(space)
    assert gates.sample("two", torch.Generator()).path.choices == (0,)
    assert gates.entropy() == 0.0


def test_random_paths_are_seeded() -> None:
    a = [QUADRA.random_path(random.Random(3)) for _ in range(2)]
    assert a[0] == a[1]
