"""One path of activations, whatever the candidates; paths as arguments; weights that carry over."""

import random
from dataclasses import replace
from itertools import islice

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from nas.data import DataSettings, Split, load
from nas.supernet.gates import Gates
from nas.supernet.network import Supernet, frozen
from nas.training.loop import accuracy, make_optimizer, recalibrate
from search_space import GatePath, SearchSpace, Stage
from tests.nas.supernet.test_gates import CASES, MBCONV, QUADRA
from tests.saved_activations import saved_activations


def saved_bytes(supernet: Supernet, path: GatePath, mode: str | None) -> int:
    """Bytes that autograd keeps between forward and backward, each storage counted once, weights not."""
    gates = Gates(supernet.space)
    sample = None
    if mode is not None:
        draws = torch.Generator().manual_seed(0)
        with torch.no_grad():
            gates.alpha[torch.arange(len(path.choices)), list(path.choices)] += 20.0  # the path is all but certain
        sample = gates.sample(mode, draws)
        while sample.path != path:
            sample = gates.sample(mode, draws)
    x = torch.randn(8, 3, 32, 32)
    with saved_activations(supernet) as storages:
        if sample is None:
            supernet(x, path)
        else:
            with frozen(supernet.path_parameters(path)):
                supernet(x, path, sample)
    return sum(storages.values())


@pytest.mark.parametrize("shared", [False, True])
def test_activation_memory_does_not_grow_with_candidates(shared: bool) -> None:
    stages = (Stage(8, 2), Stage(16, 2))
    few = SearchSpace("two", "quadra", 8, stages, (3,), (2, 3))
    many = SearchSpace("eighteen", "quadra", 8, stages, (3, 5, 7, 9, 11, 13), (2, 3, 4))
    assert len(few.choices) == 2 and len(many.choices) == 18
    path = GatePath((0, 0, 0, 0))  # k3e2 in every slot of both
    for mode in (None, "two", "full_v2"):
        sizes = [saved_bytes(Supernet(space, 32, 5, share_weights=shared), path, mode) for space in (few, many)]
        assert sizes[1] <= 1.02 * sizes[0], (mode, sizes)  # gate rows are a few floats longer
    plain = saved_bytes(Supernet(few, 32, 5, share_weights=shared), path, None)
    assert saved_bytes(Supernet(many, 32, 5, share_weights=shared), path, "full_v2") <= 1.1 * plain


@pytest.mark.parametrize(("space", "shared"), CASES)
def test_forward_depends_on_nothing_but_its_arguments(space: SearchSpace, shared: bool) -> None:
    torch.manual_seed(0)
    supernet = Supernet(space, 32, 5, share_weights=shared)
    for norm in (m for m in supernet.modules() if isinstance(m, nn.BatchNorm2d)):
        nn.init.ones_(norm.weight)  # at the start those that end a branch are 0, and blocks of residual stages alike
    x = torch.randn(4, 3, 32, 32)
    rng = random.Random(0)
    one, other = space.random_path(rng), space.random_path(rng)
    first = supernet(x, one)
    state = {key: value.clone() for key, value in supernet.state_dict().items()}
    assert not torch.equal(first, supernet(x, other))
    assert torch.equal(first, supernet(x, one))
    gates = Gates(space)
    sample = gates.sample("full_v2", torch.Generator().manual_seed(0))
    F.cross_entropy(supernet(x, sample.path, sample), torch.zeros(4, dtype=torch.long)).backward()
    assert torch.equal(first, supernet(x, one))
    assert all(torch.equal(value, supernet.state_dict()[key]) for key, value in state.items())


@pytest.mark.parametrize(("space", "shared"), CASES)
def test_extracted_network_computes_what_the_path_did(space: SearchSpace, shared: bool) -> None:
    torch.manual_seed(0)
    supernet = Supernet(space, 32, 5, share_weights=shared)
    x = torch.randn(16, 3, 32, 32)
    rng = random.Random(1)
    for _ in range(5):
        path = space.random_path(rng)
        network = supernet.extract(path)
        network.train()  # BatchNorm: the batch's statistics, as the supernet uses
        assert torch.allclose(network(x), supernet(x, path), atol=1e-5)
        recalibrate(network, [(x, torch.zeros(16))])
        biased = 1e-4 if space is QUADRA else 0.2  # running variances are unbiased, a batch's are not
        assert torch.allclose(network(x), supernet(x, path), atol=biased)


@pytest.mark.parametrize(("space", "shared"), CASES)
def test_layer_norms_know_one_image_and_batch_norms_the_batch(space: SearchSpace, shared: bool) -> None:
    """So LayerNorms mix no paths, and BatchNorms need batches like those that the network will see."""
    torch.manual_seed(0)
    supernet = Supernet(space, 32, 5, share_weights=shared)
    path = space.random_path(random.Random(2))
    x = torch.randn(6, 3, 32, 32)
    alone = torch.allclose(supernet(x, path)[:2], supernet(x[:2], path), atol=1e-4)
    assert alone == (space is QUADRA)
    assert not list(supernet.buffers()), "statistics that are kept would be those of all paths"


def test_paths_are_compared_as_fairly_by_a_batch_as_by_statistics_of_their_own() -> None:
    """Images that come class by class included: batches of one class would be normalised to no class at all."""
    digits = load(DataSettings(limit=600))
    by_class = {n: s.take(np.argsort(s.labels, kind="stable")) for n, s in vars(digits).items() if isinstance(s, Split)}
    data = replace(digits, **by_class)
    torch.manual_seed(0)
    supernet = Supernet(MBCONV, 16, 10, share_weights=True)
    optimizer, rng = make_optimizer(supernet, 5e-3, 0.0), random.Random(0)
    for epoch in range(6):
        for images, labels in data.batches(data.train, 16, 32, epoch=epoch, training=True):
            F.cross_entropy(supernet(images, MBCONV.random_path(rng)), labels).backward()
            optimizer.step()
            optimizer.zero_grad()
    differences = []
    for _ in range(6):
        path = MBCONV.random_path(rng)
        by_batch = accuracy(lambda x, path=path: supernet(x, path), data.batches(data.validation, 16, 25))  # type: ignore[misc]
        network = supernet.extract(path)
        recalibrate(network, islice(data.batches(data.train, 16, 64), 3))
        by_path = accuracy(network, data.batches(data.validation, 16, 25))
        assert by_path > 0.4, by_path
        differences.append(by_batch - by_path)
    assert abs(np.mean(differences)) < 0.06, differences  # 149 images: one path's alone scatter by some 0.04


def test_a_weight_step_runs_and_changes_one_path_only() -> None:
    torch.manual_seed(0)
    supernet = Supernet(MBCONV, 32, 5)
    for norm in (m for m in supernet.modules() if isinstance(m, nn.BatchNorm2d)):
        nn.init.ones_(norm.weight)  # at the start those that end a branch are 0 and stop all gradients behind them
    optimizer = make_optimizer(supernet, 1e-2, 0.1)
    path = MBCONV.random_path(random.Random(0))
    before = {name: p.detach().clone() for name, p in supernet.named_parameters()}
    F.cross_entropy(supernet(torch.randn(4, 3, 32, 32), path), torch.zeros(4, dtype=torch.long)).backward()
    active = {id(p) for p in supernet.path_parameters(path)}
    assert all((p.grad is not None) == (id(p) in active) for p in supernet.parameters())
    optimizer.step()
    for name, p in supernet.named_parameters():
        assert torch.equal(p, before[name]) == (id(p) not in active), name


def test_removing_the_blocks_hurts() -> None:
    """At layer scale 1 the blocks matter; at the paper's 1e-6 they would not in a short run."""
    x = torch.randn(8, 3, 32, 32)
    changes = {}
    for layer_scale in (1.0, 1e-6):
        torch.manual_seed(0)
        supernet = Supernet(QUADRA, 32, 5, layer_scale=layer_scale)
        full = GatePath(tuple(0 for _ in QUADRA.slots))
        bare = QUADRA.path(QUADRA.smallest())
        a, b = supernet(x, full).detach(), supernet(x, bare).detach()
        changes[layer_scale] = float((a - b).norm() / a.norm())
    assert changes[1.0] > 0.05
    assert changes[1e-6] < 1e-3
