"""Networks from layers: names, layer scale, what a block contributes, and drop path in training alone."""

from __future__ import annotations

import copy
import random

import pytest
import torch
from torch import Tensor, nn

from search_space import available_spaces, load_space, lower
from search_space.build import Block, Network, ResidualAdd, Scale, to_channels_last

IMAGES = torch.randn(8, 3, 64, 64, generator=torch.Generator().manual_seed(0))


def build(name: str = "quadranet", layer_scale: float = 1.0, drop_path: float = 0.0, seed: int = 0) -> Network:
    torch.manual_seed(seed)
    architecture = load_space(name).random_architecture(random.Random(seed))
    return Network(lower(architecture, 64, 10), layer_scale, drop_path)


@torch.no_grad()
def change_without_blocks(layer_scale: float) -> float:
    """How far the logits move when all residual blocks are taken out, in parts of their spread over images."""
    network = build(layer_scale=layer_scale).eval()
    bare = copy.deepcopy(network)
    for name, block in bare.named_children():
        if name.startswith("stage"):
            assert isinstance(block, Block)
            setattr(bare, name, nn.Identity())
    whole = network(IMAGES)
    return float((whole - bare(IMAGES)).std() / whole.std(0).mean())


def test_removing_the_blocks_hurts_at_layer_scale_1_and_not_at_1e_6() -> None:
    assert change_without_blocks(1.0) > 0.2
    assert change_without_blocks(1e-6) < 1e-4


def test_state_names() -> None:
    state = build().state_dict()
    expected = {"stem.conv.weight", "stage1_block1.quad_a.weight", "down2.norm.weight", "head.classifier.bias"}
    assert expected <= set(state)
    assert state["stage1_block1.quad_a.weight"].shape[:2] == (40, 1)


@pytest.mark.parametrize("initial", [1.0, 1e-6])
def test_every_layer_scale_starts_where_asked(initial: float) -> None:
    network = build(layer_scale=initial)
    scales = [m for m in network.modules() if isinstance(m, Scale)]
    blocks = [name for name, _ in network.named_children() if name.startswith("stage")]
    assert len(scales) == 2 * len(blocks)
    for scale in scales:
        assert torch.equal(scale.weight, torch.full_like(scale.weight, initial))


@torch.no_grad()
def test_a_scale_multiplies_channels() -> None:
    scale = Scale(3, 1.0)
    scale.weight.copy_(torch.tensor([1.0, 2.0, -3.0]))
    x = torch.randn(2, 3, 4, 5)
    assert torch.equal(scale(x)[:, 2], x[:, 2] * -3)
    assert torch.equal(scale(x)[:, 1], x[:, 1] * 2)


@pytest.mark.parametrize("name", available_spaces())
@torch.no_grad()
def test_drop_path_leaves_evaluation_alone(name: str) -> None:
    plain, dropping = build(name), build(name, drop_path=0.9)
    assert torch.equal(plain.eval()(IMAGES), dropping.eval()(IMAGES))


@torch.no_grad()
def test_drop_path_acts_in_training() -> None:
    network = build(drop_path=0.9).train()
    torch.manual_seed(1)
    first = network(IMAGES)
    assert not torch.equal(first, network(IMAGES))
    torch.manual_seed(1)
    assert torch.equal(first, network(IMAGES)), "it draws from torch's generator"
    steady = build().train()
    assert torch.equal(steady(IMAGES), steady(IMAGES))


def test_drop_rates_rise_linearly_over_the_blocks() -> None:
    network = build("quadranet_t", drop_path=0.4)
    blocks = [block for name, block in network.named_children() if name.startswith("stage")]
    rates = [[m.drop_rate for m in block.modules() if isinstance(m, ResidualAdd)] for block in blocks]
    for i, pair in enumerate(rates):
        assert pair == pytest.approx([0.4 * i / (len(blocks) - 1)] * 2)


@torch.no_grad()
def test_a_branch_is_dropped_per_image_and_its_mean_kept() -> None:
    torch.manual_seed(0)
    add, skip = ResidualAdd(0.25).train(), torch.randn(4000, 2, 3, 3)
    branch = torch.ones_like(skip)
    added = add(skip, branch) - skip
    kept = added.amax((1, 2, 3))
    torch.testing.assert_close(added, kept.view(-1, 1, 1, 1).expand_as(added), atol=1e-5, rtol=0)
    values = kept.round(decimals=4).unique()
    torch.testing.assert_close(values, torch.tensor([0.0, 1 / 0.75]), atol=1e-3, rtol=0)
    assert float(kept.mean()) == pytest.approx(1.0, abs=0.05)


def test_an_empty_block_is_the_identity() -> None:
    x = torch.randn(1, 2, 3, 3)
    assert Block(())(x) is x


@pytest.mark.parametrize("name", available_spaces())
@torch.no_grad()
def test_channels_last_changes_nothing(name: str) -> None:
    network = build(name).eval()
    expected = network(IMAGES)
    fast = to_channels_last(copy.deepcopy(network))(IMAGES.contiguous(memory_format=torch.channels_last))
    torch.testing.assert_close(fast, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", available_spaces())
def test_every_parameter_gets_a_gradient(name: str) -> None:
    network = build(name).train()
    for norm in (m for m in network.modules() if isinstance(m, nn.BatchNorm2d)):
        nn.init.ones_(norm.weight)  # at the start those that end a branch are 0 and stop all gradients behind them
    loss: Tensor = network(IMAGES).square().sum()
    loss.backward()
    for parameter_name, parameter in network.named_parameters():
        assert parameter.grad is not None and parameter.grad.abs().sum() > 0, parameter_name


def test_initial_weights_follow_torchs_seed() -> None:
    one, same, other = (build(seed=seed).get_parameter("stem.conv.weight") for seed in (0, 0, 1))
    assert torch.equal(one, same) and not torch.equal(one, other)


@pytest.mark.parametrize("paper_init", [False, True])
def test_residual_branches_of_mbconv_networks_start_at_zero_but_for_the_papers(paper_init: bool) -> None:
    """Those that begin a stage have no other way through and start as they are."""
    segments = lower(load_space("proxyless").largest(), 64, 10)
    network = Network(segments, paper_init=paper_init)
    for segment, block in zip(segments, network.children(), strict=True):
        norms = [m for m in block.modules() if isinstance(m, nn.BatchNorm2d)]
        residual = any(node.residual for node in segment.nodes)
        started = [float(norm.weight.detach().abs().max()) for norm in norms]
        assert started[-1:] == [0.0 if residual and not paper_init else 1.0][: len(started)]
        assert all(value == 1.0 for value in started[:-1])
    assert sum(any(node.residual for node in s.nodes) for s in segments) == 15


def test_the_papers_initialisation() -> None:
    """Truncated normal of std 0.02, zero biases (the published family)."""
    torch.manual_seed(0)
    segments = lower(load_space("quadranet").largest(), 64, 10)
    network = Network(segments, layer_scale=1e-6, paper_init=True)
    for name, module in network.named_modules():
        if isinstance(module, nn.Conv2d | nn.Linear):
            assert float(module.weight.detach().std()) == pytest.approx(0.02, rel=0.15), name
            assert float(module.weight.detach().abs().max()) <= 2.0
            assert module.bias is not None and not module.bias.detach().any()


def test_the_other_initialisation_lets_signals_through() -> None:
    """With layer scale 1 activations neither vanish nor explode over 36 blocks."""
    torch.manual_seed(0)
    network = Network(lower(load_space("quadranet_t").largest(), 64, 10)).eval()
    x = IMAGES[:2]
    with torch.no_grad():
        for name, block in network.named_children():
            x = block(x)
            if name.startswith("stage"):
                assert 0.1 < float(x.std()) < 10, name
