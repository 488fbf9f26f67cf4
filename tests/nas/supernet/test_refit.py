"""Networks whose blocks are fitted to a trained network's: nearer to its answers than cut ones, and nothing lost."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from nas.supernet.inherit import measure_statistics
from nas.supernet.network import Supernet
from nas.supernet.refit import Cuts, last_layer
from search_space import Architecture, BlockChoice, GatePath, lower
from search_space.build import Network
from search_space.space import ZERO
from tests.nas.supernet.test_inherit import CLASSES, PIXELS, SPACE, difference, supernet_of, trained

COMPARED = 32
LARGEST = SPACE.path(SPACE.largest())


@pytest.fixture(scope="module")
def images() -> Tensor:
    return torch.randn(96, 3, PIXELS, PIXELS, generator=torch.Generator().manual_seed(2))


def decided(images: Tensor) -> Network:
    """A trained network whose answers differ between images."""
    network = trained(SPACE.largest())
    weight, bias = (network.get_parameter(f"head.classifier.{name}") for name in ("weight", "bias"))
    with torch.no_grad():
        logits = network(images)
        bias.sub_(logits.mean(0))
        for parameter in (weight, bias):
            parameter.div_(logits.std(0).mean())
    return network


@pytest.fixture(scope="module")
def supernet(images: Tensor) -> Supernet:
    found = supernet_of(decided(images), SPACE.largest())
    measure_statistics(found, images)
    return found


def divergence(logits: Tensor, answers: Tensor) -> float:
    return float(F.kl_div(logits.log_softmax(1), answers.log_softmax(1), log_target=True, reduction="batchmean"))


def changed(slot: int, block: BlockChoice) -> GatePath:
    choices = list(LARGEST.choices)
    choices[slot] = SPACE.slots[slot].candidates.index(block)
    return GatePath(tuple(choices))


def test_the_trained_network_stays_what_it_is(supernet: Supernet, images: Tensor) -> None:
    cuts = Cuts(supernet, images, COMPARED)
    assert cuts.divergence(LARGEST) == pytest.approx(0, abs=1e-6)
    assert difference(cuts.network(LARGEST)(images), supernet(images, LARGEST)) < 1e-4


@pytest.mark.parametrize(
    "stages",
    [
        ((BlockChoice(5, 1), BlockChoice(5, 2)), (BlockChoice(3, 2),) * 3),
        ((BlockChoice(5, 3),), (BlockChoice(5, 3),)),
        ((BlockChoice(3, 1),), (BlockChoice(5, 2), BlockChoice(3, 1))),
    ],
)
def test_a_fitted_network_is_nearer_than_a_cut_one_and_computes_what_was_measured(
    supernet: Supernet, images: Tensor, stages: tuple[tuple[BlockChoice, ...], ...]
) -> None:
    path, cuts = SPACE.path(Architecture(SPACE, stages)), Cuts(supernet, images, COMPARED)
    new = images[-COMPARED:]
    with torch.no_grad():
        answers, cut = supernet(new, LARGEST), supernet(new, path)
        fitted = cuts.network(path)(new)
    assert divergence(fitted, answers) == pytest.approx(cuts.divergence(path), rel=1e-3)
    assert divergence(fitted, answers) < 0.8 * divergence(cut, answers)


def test_damage_is_the_divergence_of_one_change(supernet: Supernet, images: Tensor) -> None:
    cuts, told = Cuts(supernet, images, COMPARED), []
    damage = cuts.damage(lambda: told.append(1))
    assert len(told) == sum(len(slot.candidates) for slot in SPACE.slots)
    last = len(SPACE.slots) - 1  # after it nothing else is fitted
    for block in (BlockChoice(3, 1), ZERO):
        path = changed(last, block)
        assert float(damage[last, path.choices[last]]) == pytest.approx(cuts.divergence(path), rel=1e-4)
    assert all(float(damage[slot, choice]) == 0 for slot, choice in enumerate(LARGEST.choices))
    assert bool((damage >= 0).all()) and float(damage[0, -1]) == 0  # padding


def test_dead_channels_can_be_written_anew(images: Tensor) -> None:
    """A norm's factor of 0 would keep what was fitted from being seen."""
    network = decided(images)
    with torch.no_grad():
        for name, value in network.named_parameters():
            if name.endswith("project_norm.weight"):
                value[0] = 0.0
    supernet = supernet_of(network, SPACE.largest())
    cuts, path = Cuts(supernet, images, COMPARED), changed(2, BlockChoice(3, 1))
    new = images[-COMPARED:]
    with torch.no_grad():
        got = divergence(cuts.network(path)(new), supernet(new, LARGEST))
    assert got == pytest.approx(cuts.divergence(path), rel=1e-2)


def test_only_blocks_that_end_in_a_convolution_and_a_norm_are_fitted() -> None:
    nodes = lower(SPACE.largest(), PIXELS, CLASSES)[2].nodes
    found = last_layer(nodes)
    assert found is not None and [node.name for node in found] == ["project", "project_norm"]
    assert last_layer(nodes[:3]) is None  # an activation follows
