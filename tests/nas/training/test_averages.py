"""Averaged weights and mixed images in trainings: what they are, and that off means off."""

from __future__ import annotations

import copy
import random

import pytest
import torch
from torch import nn

from nas.supernet.network import Supernet
from nas.training.loop import make_optimizer
from nas.training.mixing import mix
from nas.training.moving_average import MovingAverage
from search_space import SearchSpace
from tests.nas.supernet.test_gates import CASES


def test_the_average_is_that_of_all_steps_weighted_by_age() -> None:
    model = nn.Linear(3, 2)
    average = MovingAverage(model, 0.9)
    seen = []
    for step in range(1, 8):
        with torch.no_grad():
            model.weight.copy_(torch.randn(2, 3))
        seen.append(model.weight.detach().clone())
        average.update(step)
    ages = 0.9 ** torch.arange(6, -1, -1)
    average.put_in()
    torch.testing.assert_close(model.weight, sum(w * v for w, v in zip(ages / ages.sum(), seen, strict=True)))


@pytest.mark.parametrize(("space", "shared"), CASES)
def test_a_weight_off_the_path_counts_as_it_stands(space: SearchSpace, shared: bool) -> None:
    """So that a candidate that was drawn once, long ago, is compared at the weights it has."""
    torch.manual_seed(0)
    supernet = Supernet(space, 16, 5, share_weights=shared)
    average = MovingAverage(supernet, 0.5)
    optimizer = make_optimizer(supernet, 1e-2, 0.1)
    rng = random.Random(0)
    path = space.random_path(rng)
    used = {id(parameter) for parameter in supernet.path_parameters(path)}
    for step in range(1, 31):
        supernet(torch.randn(4, 3, 16, 16), path if step <= 10 else space.random_path(rng)).square().mean().backward()
        optimizer.step()
        optimizer.zero_grad()
        average.update(step)
        if step == 10:
            alone = {n: p.detach().clone() for n, p in supernet.named_parameters() if id(p) not in used}
            assert all(torch.equal(average.state()[name], value) for name, value in alone.items())
    assert any(not torch.equal(average.state()[n], p) for n, p in supernet.named_parameters())
    average.put_in()
    assert all(torch.equal(average.state()[n], p) for n, p in supernet.named_parameters())


def test_an_average_continues_from_its_state() -> None:
    one, other = nn.Linear(3, 2), nn.Linear(3, 2)
    other.load_state_dict(one.state_dict())
    first, second = MovingAverage(one, 0.9), MovingAverage(other, 0.9)
    for step in (1, 2, 3):
        for model, average in ((one, first), (other, second)):
            with torch.no_grad():
                model.weight.add_(step)
            average.update(step)
        if step == 2:
            saved = copy.deepcopy(second.state())
            second = MovingAverage(other, 0.9)
            second.restore(saved)
    assert all(torch.equal(value, second.state()[name]) for name, value in first.state().items())


@pytest.mark.parametrize(("mixup", "cutmix"), [(0.4, 0.0), (0.0, 1.0), (0.4, 1.0)])
def test_labels_are_mixed_as_the_images_are(mixup: float, cutmix: float) -> None:
    labels = torch.arange(8)
    images = labels.float().view(8, 1, 1, 1).expand(8, 3, 16, 16)  # an image's pixels are its label
    for seed in range(20):
        mixed, targets = mix(images, labels, 8, mixup, cutmix, torch.Generator().manual_seed(seed))
        torch.testing.assert_close(targets.sum(1), torch.ones(8))
        torch.testing.assert_close(mixed.mean((1, 2, 3)), targets @ torch.arange(8.0))
    assert mix(images, labels, 8, 0.0, 0.0, torch.Generator()) == (images, labels)


@pytest.mark.parametrize(("mixup", "cutmix"), [(0.4, 0.0), (0.0, 1.0)])
def test_parts_of_a_batch_are_mixed_as_the_whole(mixup: float, cutmix: float) -> None:
    """Several processes draw alike and mix within their parts."""
    images, labels = torch.randn(12, 3, 8, 8), torch.randint(0, 5, (12,))

    def mixed(part: slice) -> tuple[torch.Tensor, torch.Tensor]:
        return mix(images[part], labels[part], 5, mixup, cutmix, torch.Generator().manual_seed(3))

    whole, parts = mixed(slice(None)), [mixed(slice(i, i + 4)) for i in (0, 4, 8)]
    for number in range(2):
        assert torch.equal(whole[number], torch.cat([part[number] for part in parts]))
    assert not torch.equal(whole[0], images)
    torch.testing.assert_close(mixed(slice(0, 5))[0][4], images[4])  # without a partner
