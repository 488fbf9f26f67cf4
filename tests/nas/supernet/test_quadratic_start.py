"""Quadratic forms in supernets that start from trained weights: nothing changes at first, and what their fit is."""

from __future__ import annotations

import random
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from nas.pretrained.sources import load_trained
from nas.run.plan import plan_search
from nas.run.settings import SearchSettings
from nas.strategies.cut import pointless, uniform
from nas.supernet.inherit import inherit, measure_statistics
from nas.supernet.network import Supernet
from nas.supernet.refit import Cuts, _best_factors, quadratic_term
from search_space import Architecture, GatePath, SearchSpace, UserError, load_space
from tests.nas.pretrained import needs_lite0
from tests.nas.supernet.test_inherit import CLASSES, PIXELS, difference, trained
from tests.nas.supernet.test_inherit import SPACE as PLAIN
from tests.nas.supernet.test_refit import decided
from tests.search_space.test_quadratic_forms import NARROW

SPACE = replace(PLAIN, quadratic=(2, 3))


@pytest.fixture(scope="module")
def images() -> Tensor:
    return torch.randn(48, 3, PIXELS, PIXELS, generator=torch.Generator().manual_seed(2))


def supernet_of(network: torch.nn.Module, images: Tensor, space: SearchSpace = SPACE) -> Supernet:
    torch.manual_seed(1)
    supernet = Supernet(space, PIXELS, CLASSES, share_weights=True, kept_statistics=True)
    inherit(supernet, PLAIN.largest(), network.state_dict())
    measure_statistics(supernet, images)
    return supernet


def in_forms(architecture: Architecture, draws: random.Random | int) -> GatePath:
    """The network with every block in one form, or in drawn ones."""
    drawn = draws if isinstance(draws, random.Random) else random.Random(0)
    stages = tuple(
        tuple(replace(block, branches=draws if isinstance(draws, int) else drawn.choice((1, 2, 3))) for block in blocks)
        for blocks in architecture.stages
    )
    return architecture.space.path(Architecture(architecture.space, stages))


@pytest.mark.parametrize("forms", [1, 2, 3, random.Random(0)])
def test_every_form_of_the_largest_network_is_the_trained_one(images: Tensor, forms: random.Random | int) -> None:
    network = trained(PLAIN.largest())
    supernet, path = supernet_of(network, images), in_forms(SPACE.largest(), forms)
    with torch.no_grad():
        wanted = network(images)
        assert difference(supernet(images, path), wanted) < 1e-4
        assert difference(supernet.extract(path).eval()(images), wanted) < 1e-4
        assert difference(Cuts(supernet, images, 16).network(path)(images), wanted) < 1e-4


def test_forms_of_narrow_blocks_alone_start_from_the_trained_ones_first_channels(images: Tensor) -> None:
    """No candidate has a further convolution as wide as the trained one."""
    choices = tuple(c for c in SPACE.stage_choices[0] if c.branches == 1 or c.expand_ratio == 1)
    space = replace(SPACE, stages=tuple(replace(stage, blocks=choices) for stage in SPACE.stages))
    supernet = supernet_of(trained(PLAIN.largest()), images, space)
    slot = supernet.get_submodule("stage1_block2.largest")
    whole, gate = (slot.get_parameter(f"{name}.weight") for name in ("depthwise", "gate"))
    assert torch.equal(gate, whole[: len(gate)]) and len(gate) < len(whole)


@needs_lite0
def test_published_logits_stay_in_every_form() -> None:
    weights = load_trained("efficientnet_lite0")
    space = load_space("efficientnet_lite0_quadratic")
    supernet = Supernet(space, 64, 1000, share_weights=True, kept_statistics=True)
    inherit(supernet, weights.architecture, weights.state)
    images = torch.rand(3, 3, 64, 64, generator=torch.Generator().manual_seed(0)) * 2 - 1
    measure_statistics(supernet, images)
    with torch.no_grad():
        wanted = weights.network()(images)
        assert float(wanted.std()) > 0.1
        for branches in (1, 2, 3):
            assert difference(supernet(images, in_forms(space.largest(), branches)), wanted) < 1e-4


def test_a_weight_step_on_a_form_moves_its_term_and_one_on_the_plain_block_does_not(images: Tensor) -> None:
    """What gradient strategies do; AdamW decays no factor."""
    from nas.training.loop import make_optimizer

    supernet = supernet_of(trained(PLAIN.largest()), images)
    factor = supernet.get_parameter("stage1_block2.largest.quad_a_norm.weight")
    optimizer = make_optimizer(supernet, 1e-3, 0.1)
    assert any(factor is p for group in optimizer.param_groups if group["weight_decay"] == 0 for p in group["params"])
    for branches, moves in ((1, False), (2, False), (3, True)):
        path = in_forms(SPACE.largest(), branches)
        assert any(factor is p for p in supernet.path_parameters(path)) is moves
        optimizer.zero_grad(set_to_none=True)
        torch.nn.functional.cross_entropy(supernet(images[:8], path), torch.arange(8) % CLASSES).backward()
        optimizer.step()
        assert bool((factor != 0).any()) is moves


def test_factors_that_make_up_for_what_is_lacking_are_found() -> None:
    draw = torch.Generator().manual_seed(0)
    effect, weight = torch.randn(400, 12, generator=draw), torch.randn(6, 12, generator=draw)
    true = torch.linspace(-0.25, 0.25, 12)
    found = _best_factors(effect, (effect * true) @ weight.T, weight)
    assert difference(found, true) < 0.02
    assert float(_best_factors(effect, 100 * (effect * true) @ weight.T, weight).abs().max()) == pytest.approx(0.3)


def test_a_fitted_term_brings_a_narrow_block_nearer_and_the_network_has_it(images: Tensor) -> None:
    network = decided(images)
    with torch.no_grad():
        for name, parameter in network.named_parameters():
            if name.endswith("depthwise_norm.weight"):
                parameter.mul_(0.3)  # so that the activation does not cut everything off
    supernet = supernet_of(network, images)
    cuts, last = Cuts(supernet, images, 16), len(SPACE.slots) - 1
    narrow = {b: SPACE.slots[last].candidates.index(replace(PLAIN.slots[0].candidates[0], branches=b)) for b in (1, 3)}
    number = len(supernet.segments) - 2
    x, wanted = cuts.streams[number], cuts.streams[number + 1]
    lacking = {}
    with torch.no_grad():
        for branches, choice in narrow.items():
            y, correction = cuts._fit(number, choice, x, wanted)
            lacking[branches] = float((wanted - y)[: cuts.fitted].square().mean())
            assert correction is not None and (correction.term is None) is (branches == 1)
    assert lacking[3] < lacking[1]
    choices = (*SPACE.path(SPACE.largest()).choices[:-1], narrow[3])
    fitted = cuts.network(GatePath(choices))
    term = quadratic_term(supernet.segments[number].candidates[narrow[3]])
    assert term is not None
    assert bool(fitted.get_parameter(f"{supernet.segments[number].name}.{term.name}.weight").any())
    answers = network(images[-16:]).log_softmax(1)
    got = torch.nn.functional.kl_div(
        fitted(images[-16:]).log_softmax(1), answers, log_target=True, reduction="batchmean"
    )
    assert float(got.detach()) == pytest.approx(cuts.divergence(GatePath(choices)), rel=1e-3)


def test_forms_no_faster_than_the_whole_block_are_not_measured(images: Tensor) -> None:
    whole, width = SPACE.path(SPACE.largest()).choices, max(len(slot.candidates) for slot in SPACE.slots)
    ms = np.array([[1.0 + block.expand_ratio + block.branches for block in slot.candidates] + [np.nan] * (
        width - len(slot.candidates)) for slot in SPACE.slots])  # fmt: skip
    table: Any = SimpleNamespace(slot_ms=ms)
    found = pointless(SPACE, table)
    expected = [[b.branches > 1 and b.expand_ratio + b.branches >= 4 for b in slot.candidates] for slot in SPACE.slots]
    assert [row[: len(own)].tolist() for row, own in zip(found, expected, strict=True)] == expected
    assert not found[np.arange(len(whole)), whole].any()
    told: list[int] = []
    supernet = supernet_of(decided(images), images)
    damage = Cuts(supernet, images, 16).damage(lambda: told.append(1), found)
    assert len(told) == sum(len(slot.candidates) for slot in SPACE.slots)
    assert not bool(damage.numpy()[found].any()) and bool((damage > 0).any())


def test_uniform_cuts_are_plain() -> None:
    assert all("q" not in str(cut) for cuts in uniform(SPACE) for cut in cuts)


@needs_lite0
def test_weights_go_into_every_space_whose_largest_network_they_are() -> None:
    for space in ("efficientnet_lite0_quadratic", NARROW):
        plan = plan_search(SearchSettings(init="efficientnet_lite0", space=space, device="cpu", budget_ms=25.0), 10)
        assert plan.space.largest().stages == load_space("efficientnet_lite0").largest().stages
    with pytest.raises(
        UserError, match="is the largest network of space=efficientnet_lite0, not of space=mobilenet_v2"
    ):
        plan_search(SearchSettings(init="efficientnet_lite0", space="mobilenet_v2", device="cpu", budget_ms=25.0), 10)
