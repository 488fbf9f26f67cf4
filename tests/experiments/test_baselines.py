"""The baselines are the published networks: sizes, work, what they compute, and what autograd keeps for them."""

from __future__ import annotations

import sys
from collections.abc import Callable
from functools import partial
from types import ModuleType

import pytest
import torch
from torch import Tensor, nn

from experiments.baselines.blocks import ConvNeXtBlock, conv_block, quadra_block, skip_block
from experiments.baselines.hornet import GatedConv, hor_block
from experiments.baselines.macro import ElementaryLayerNorm
from experiments.baselines.swin import SwinBlock, from_windows, relative_positions, shift_mask, to_windows
from experiments.baselines.zoo import (
    TABLE2_BLOCKS,
    Size,
    convnext,
    has_timm,
    hornet,
    swin,
    table2_network,
    timm_model,
)
from experiments.counting import count
from experiments.saved_activations import saved_bytes
from search_space import UserError, lower
from search_space.build import ChannelLayerNorm, Network
from search_space.errors import UnknownName
from search_space.family import DEPTHS_24, counted, family_architecture, quadranet

MIB = 2**20


@pytest.mark.parametrize(
    ("make", "size", "params", "gmacs"),
    [
        (convnext, "T", 28_589_128, 4.456),
        (convnext, "S", 50_223_688, 8.684),
        (convnext, "B", 88_591_464, 15.355),
        (hornet, "T", 22_409_512, 3.968),
        (hornet, "S", 49_528_264, 8.814),
        (hornet, "B", 87_256_680, 15.567),
        (swin, "T", 28_288_354, 4.491),
        (swin, "S", 49_606_258, 8.741),
        (swin, "B", 87_768_224, 15.431),
    ],
)
def test_sizes_and_work(make: Callable[[Size], nn.Module], size: Size, params: int, gmacs: float) -> None:
    """Official counts to the parameter; MACs at 224 pixels to the digits given."""
    found = count(partial(make, size))
    assert found.params == params
    assert round(found.macs / 1e9, 3) == gmacs


def test_the_counter_counts_as_the_layers_do() -> None:
    architecture = family_architecture("quadranet36-t")
    cost = counted(architecture)
    assert count(partial(Network, lower(architecture, 224, 1000))) == (cost.params, cost.macs)


@pytest.mark.parametrize("width", [64, 128])
def test_table2s_quadratic_network_is_the_familys(width: int) -> None:
    cost = counted(quadranet("24", width, DEPTHS_24))
    assert count(partial(table2_network, "quad", width)) == (cost.params, cost.macs)
    twin = counted(quadranet("24", width, DEPTHS_24, "linear_dw"))
    assert count(partial(table2_network, "conv", width)) == (twin.params, twin.macs)


NETWORKS: dict[str, Callable[[], nn.Module]] = {
    **{f"table2 {block}": partial(table2_network, block, 32, resolution=64) for block in TABLE2_BLOCKS},
    "convnext": partial(convnext, "T"),
    "hornet": partial(hornet, "T"),
    "swin": partial(swin, "T", resolution=64),
}


@pytest.mark.parametrize("name", NETWORKS)
def test_every_weight_learns(name: str) -> None:
    torch.manual_seed(0)
    network = NETWORKS[name]()
    logits = network(torch.randn(2, 3, 64, 64))
    assert logits.shape == (2, 1000)
    logits.square().sum().backward()
    assert all(p.grad is not None and bool(p.grad.isfinite().all()) for p in network.parameters())


def test_both_norms_are_one_function() -> None:
    x = torch.randn(2, 6, 3, 4)
    gradients = []
    for norm in (ElementaryLayerNorm(6), ChannelLayerNorm(6)):
        with torch.no_grad():
            norm.weight.copy_(torch.linspace(0.5, 1.5, 6))
            norm.bias.copy_(torch.linspace(-1, 1, 6))
        own = x.clone().requires_grad_()
        y = norm(own)
        y.square().sum().backward()
        gradients.append((y.detach(), own.grad, norm.weight.grad))
    for elementary, native in zip(*gradients, strict=True):
        torch.testing.assert_close(elementary, native, rtol=1e-5, atol=1e-5)


def units(block: nn.Module, channels: int, pixels: int = 16) -> float:
    """What autograd keeps for a block, in tensors of its input's size."""
    x = torch.randn(2, channels, pixels, pixels, requires_grad=True)
    return saved_bytes(block, x) / (4 * x.numel())


@pytest.mark.parametrize(
    ("make", "kept"),
    [
        (skip_block, 11),
        (ConvNeXtBlock, 12),
        (partial(conv_block, norm=ElementaryLayerNorm), 16),
        (partial(quadra_block, norm=ElementaryLayerNorm), 18),
        (partial(quadra_block, norm=ElementaryLayerNorm, lean=True), 16),
        (conv_block, 14),
        (quadra_block, 16),
    ],
)
def test_saved_tensors_of_a_block(make: Callable[[int], nn.Module], kept: int) -> None:
    """But for means and variances: two or so values a pixel. A fused norm over channels saves two tensors."""
    assert 0 <= units(make(128), 128) - kept < 0.1


def test_saved_tensors_of_the_hor_block() -> None:
    """Of the four orders 22, 23, 23.5 and 23.75 tensors."""
    found = [units(hor_block(stage, 128, norm=ElementaryLayerNorm), 128) for stage in range(4)]
    assert found == pytest.approx([22, 23, 23.5, 23.75], abs=0.1)


@pytest.mark.parametrize(
    ("block", "mib"),
    [("skip", 73.62), ("conv", 103.33), ("quad", 115.20), ("hor", 145.20), ("convnext", 79.56)],
)
def test_saved_memory_of_table2s_networks(block: str, mib: float) -> None:
    """MiB an image at C = 64: derived here from the blocks' tensors, by hand."""
    found = saved_bytes(table2_network(block, 64), torch.randn(1, 3, 224, 224)) / MIB
    assert found == pytest.approx(mib, abs=0.01)


@pytest.mark.slow
def test_saved_memory_of_swin() -> None:
    """By a formula derived here 108.89 MiB an image at C = 64; the network keeps 0.7 % less."""
    network = table2_network("swin", 64)
    two, three = (saved_bytes(network, torch.randn(n, 3, 224, 224)) for n in (2, 3))
    assert (three - two) / MIB == pytest.approx(108.89, rel=0.01)


@torch.no_grad()
def test_the_gated_convolution_by_hand() -> None:
    """Order 3 of 8 channels: widths 2, 4, 8."""
    torch.manual_seed(0)
    op, x = GatedConv(8, order=3), torch.randn(2, 8, 5, 6)
    both = op.project_in(x)
    gates = op.depthwise(both[:, 2:]) / 3
    p = both[:, :2] * gates[:, :2]
    p = op.widen[0](p) * gates[:, 2:6]
    p = op.widen[1](p) * gates[:, 6:]
    torch.testing.assert_close(op(x), op.project_out(p))


def test_windows_round_trip() -> None:
    x = torch.randn(2, 14, 14, 3)
    windows = to_windows(x, 7)
    assert torch.equal(from_windows(windows, 7, 14), x)
    assert torch.equal(windows[1].view(7, 7, 3), x[0, :7, 7:])


def reached(block: SwinBlock, row: int, column: int) -> Tensor:
    """(H, W): whether a token's attention sees the token at a place."""
    x = torch.randn(1, 14, 14, 32, requires_grad=True)
    with torch.no_grad():
        for parameter in block.feed_forward.parameters():
            parameter.zero_()
    block(x)[0, row, column].sum().backward()
    assert x.grad is not None
    return x.grad[0].abs().sum(-1) > 1e-20  # exp(-100) is no zero


@pytest.mark.parametrize(
    ("shifted", "at", "rows", "columns"),
    [
        (False, (0, 0), (0, 7), (0, 7)),
        (False, (13, 3), (7, 14), (0, 7)),
        (True, (0, 0), (0, 3), (0, 3)),
        (True, (5, 5), (3, 10), (3, 10)),
        (True, (12, 1), (10, 14), (0, 3)),
    ],
)
def test_attention_stays_in_its_window(
    shifted: bool, at: tuple[int, int], rows: tuple[int, int], columns: tuple[int, int]
) -> None:
    torch.manual_seed(0)
    expected = torch.zeros(14, 14, dtype=torch.bool)
    expected[slice(*rows), slice(*columns)] = True
    assert torch.equal(reached(SwinBlock(32, 1, 14, shifted), *at), expected)


def test_a_map_of_one_window_is_not_shifted() -> None:
    block = SwinBlock(32, 1, 7, shifted=True)
    assert (block.shift, block.mask, block.padding) == (0, None, 0)


def test_relative_positions_are_differences() -> None:
    table = relative_positions(3)
    assert table.unique().numel() == 25
    assert table.diagonal().unique().tolist() == [12], "a token and itself: the table's middle"
    assert table[0, 4] == table[4, 8], "one down and one right, wherever"
    assert table[0, 1] != table[1, 0]


def test_the_shift_mask_parts_what_was_apart() -> None:
    mask = shift_mask(14, 7, 3)
    assert mask.shape == (4, 49, 49)
    assert not mask[0].any(), "the first window is whole"
    assert mask.unique().tolist() == [-100, 0]


def test_unknown_block() -> None:
    with pytest.raises(UnknownName, match=r"unknown block 'quadra'\. Did you mean 'quad'"):
        table2_network("quadra", 64)


def test_timm_is_named_when_it_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "timm", None)
    with pytest.raises(UserError, match=r"'deit-s' needs timm .*pip install -c constraints.txt -e '\.\[baselines\]'"):
        timm_model("deit-s")
    assert not has_timm()
    with pytest.raises(UnknownName, match="Known: deit-s, tnt-s"):
        timm_model("pvt-s")


@pytest.mark.skipif(not has_timm(), reason="timm is not here, or does not import beside this torch")
@pytest.mark.parametrize(("name", "params", "gmacs"), [("deit-s", 22_050_664, 4.599), ("tnt-s", 23_755_336, 5.217)])
def test_timms_sizes_and_work(name: str, params: int, gmacs: float) -> None:
    """Published: 22M and 4.6G, 23.8M and 5.2G."""
    found = count(partial(timm_model, name))
    assert (found.params, round(found.macs / 1e9, 3)) == (params, gmacs)


def test_timm_is_asked_for_its_own_name(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []
    stand_in = ModuleType("timm")

    def create_model(name: str, pretrained: bool, img_size: int) -> nn.Module:
        asked.append((name, pretrained, img_size))
        return nn.Identity()

    stand_in.__dict__["create_model"] = create_model
    monkeypatch.setitem(sys.modules, "timm", stand_in)
    assert has_timm()
    assert isinstance(timm_model("deit-s", 64), nn.Module)
    assert asked == [("deit_small_patch16_224", False, 64)]
