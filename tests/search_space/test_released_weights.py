"""The released code's weights compute the same here. `Reference` is that network written independently from the paper's
description: Linear over NHWC, layer norm over channels by hand, names as in the released state dicts."""

from __future__ import annotations

from argparse import Namespace
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from search_space import Architecture, SearchSpace, Stage, UserError, lower
from search_space.blocks import SHIPPED
from search_space.build import Network
from search_space.errors import BadFile
from search_space.family import quadranet25_t
from search_space.released_weights import BLOCKS, load_released, released_names, released_state
from search_space.space import BlockChoice

DEPTHS, WIDTH, CLASSES = (1, 2, 1, 1), 8, 7
State = dict[str, Tensor]


def architecture(family: str = "quadra") -> Architecture:
    choice = BlockChoice(7, 4)
    stages = tuple(Stage(WIDTH * 2**i, depth) for i, depth in enumerate(DEPTHS))
    space = SearchSpace("released", family, WIDTH, stages, (7,), (4,))
    return Architecture(space, tuple((choice,) * depth for depth in DEPTHS))


class ChannelsFirstNorm(nn.LayerNorm):
    def forward(self, x: Tensor) -> Tensor:
        """x: (N, C, H, W) -> (N, C, H, W)."""
        centred = x - x.mean(1, keepdim=True)
        normed = centred * (centred.square().mean(1, keepdim=True) + 1e-6).rsqrt()
        return normed * self.weight.view(-1, 1, 1) + self.bias.view(-1, 1, 1)


class QuadraticDepthwise(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv1, self.conv2, self.conv3 = (
            nn.Conv2d(channels, channels, 7, padding=3, groups=channels) for _ in range(3)
        )

    def forward(self, x: Tensor) -> Tensor:
        """x: (N, C, H, W) -> (N, C, H, W)."""
        return self.conv1(x) * self.conv2(x) + self.conv3(x)


class QuadraticLinear(nn.Module):
    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.linear1, self.linear2, self.linear3 = (nn.Linear(inputs, outputs) for _ in range(3))

    def forward(self, x: Tensor) -> Tensor:
        """x: (N, H, W, inputs) -> (N, H, W, outputs)."""
        return self.linear1(x) * self.linear2(x) + self.linear3(x)


class ReferenceBlock(nn.Module):
    def __init__(self, channels: int, family: str) -> None:
        super().__init__()
        self.norm1 = ChannelsFirstNorm(channels)
        plain = nn.Conv2d(channels, channels, 7, padding=3, groups=channels)
        self.QuadraConv = plain if family == "linear_dw" else QuadraticDepthwise(channels)
        self.norm2 = nn.LayerNorm(channels, eps=1e-6)
        first, second = {"quadra_fc1": (True, False), "quadra_fc12": (True, True)}.get(family, (False, False))
        self.pwconv1 = (QuadraticLinear if first else nn.Linear)(channels, 4 * channels)
        self.pwconv2 = (QuadraticLinear if second else nn.Linear)(4 * channels, channels)
        self.gamma1 = nn.Parameter(torch.ones(channels))
        self.gamma2 = nn.Parameter(torch.ones(channels))

    def forward(self, x: Tensor) -> Tensor:
        """x: (N, C, H, W) -> (N, C, H, W)."""
        x = x + self.gamma1.view(-1, 1, 1) * self.QuadraConv(self.norm1(x))
        t = self.norm2(x.permute(0, 2, 3, 1))
        t = self.gamma2 * self.pwconv2(nn.functional.gelu(self.pwconv1(t)))
        return x + t.permute(0, 3, 1, 2)


class Reference(nn.Module):
    def __init__(self, family: str = "quadra") -> None:
        super().__init__()
        widths = [WIDTH * 2**i for i in range(4)]
        self.downsample_layers = nn.ModuleList(
            nn.Sequential(nn.Conv2d(3, w, 4, 4), ChannelsFirstNorm(w))
            if i == 0
            else nn.Sequential(ChannelsFirstNorm(w // 2), nn.Conv2d(w // 2, w, 2, 2))
            for i, w in enumerate(widths)
        )
        self.stages = nn.ModuleList(
            nn.Sequential(*(ReferenceBlock(w, family) for _ in range(depth)))
            for w, depth in zip(widths, DEPTHS, strict=True)
        )
        self.norm = nn.LayerNorm(widths[-1], eps=1e-6)
        self.head = nn.Linear(widths[-1], CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        """x: (N, 3, H, W) -> (N, classes)."""
        for down, stage in zip(self.downsample_layers, self.stages, strict=True):
            x = stage(down(x))
        return self.head(self.norm(x.mean((2, 3))))


@torch.no_grad()
def reference(family: str = "quadra", seed: int = 0) -> Reference:
    """With every parameter drawn, gains and scales around 1."""
    torch.manual_seed(seed)
    model = Reference(family).eval()
    for name, parameter in model.named_parameters():
        gain = parameter.dim() == 1 and not name.endswith("bias")
        parameter.copy_(float(gain) + 0.2 * torch.randn_like(parameter))
    return model


@pytest.mark.parametrize("family", BLOCKS)
@torch.no_grad()
def test_outputs_are_the_references(family: str) -> None:
    model = reference(family)
    network = Network(lower(architecture(family), 64, CLASSES)).eval()
    network.load_state_dict(released_state(architecture(family), model.state_dict(), CLASSES))
    images = torch.randn(2, 3, 64, 64)
    expected = model(images)
    assert expected.std() > 0.1
    torch.testing.assert_close(network(images), expected, rtol=1e-5, atol=1e-5)


def test_the_names_are_the_released_ones() -> None:
    names = released_names(quadranet25_t())
    assert names["stem.conv.weight"] == "downsample_layers.0.0.weight"
    assert names["down4.norm.bias"] == "downsample_layers.3.0.bias"
    assert names["stage3_block18.quad_b.weight"] == "stages.2.17.QuadraConv.conv2.weight"
    assert names["stage1_block1.scale2.weight"] == "stages.0.0.gamma2"
    assert names["head.classifier.bias"] == "head.bias"
    assert len(names) == len(set(names.values())) == 25 * (4 + 6 + 4 + 2) + 4 * 4 + 4


def without(state: State, name: str) -> State:
    return {key: value for key, value in state.items() if key != name}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda s: {**s, "stages.0.0.gamma3": s["norm.bias"]}, r"unknown stages\.0\.0\.gamma3$"),
        (
            lambda s: {**s, **{f"extra{i}": s["norm.bias"] for i in range(5)}},
            "unknown extra0, extra1, extra2 and 2 more",
        ),
        (lambda s: without(s, "stages.1.1.pwconv2.bias"), r"missing stages\.1\.1\.pwconv2\.bias$"),
        (
            lambda s: {**s, "stages.0.0.pwconv1.weight": torch.zeros(32, 8, 1, 1)},
            r"another shape stages\.0\.0\.pwconv1\.weight \(32, 8, 1, 1\) instead of \(32, 8\)",
        ),
        (lambda s: {**s, "head.weight": torch.zeros(5, 64)}, r"head\.weight \(5, 64\) instead of \(7, 64\)"),
        (lambda s: {**s, "stages.0.0.gamma1": torch.zeros(8, 1, 1)}, r"gamma1 \(8, 1, 1\) instead of \(8,\)"),
        (lambda s: reference("linear_dw").state_dict(), "unknown stages.*QuadraConv.bias"),
    ],
)
def test_what_does_not_fit_is_named(change, message: str) -> None:
    with pytest.raises(BadFile, match=message):
        released_state(architecture(), change(reference().state_dict()), CLASSES)


def test_a_family_that_was_not_released() -> None:
    assert set(BLOCKS) <= set(SHIPPED) - {"mbconv"}
    space = SearchSpace("mb", "mbconv", 16, (Stage(16, 1),), (3,), (3,), first_width=8, head_width=32)
    with pytest.raises(UserError, match="no blocks of family 'mbconv'"):
        released_state(space.smallest(), {})


@pytest.mark.parametrize("file", ["weights.pth", "weights.safetensors", "checkpoint.pth"])
@torch.no_grad()
def test_files(tmp_path: Path, file: str) -> None:
    model, path = reference(), tmp_path / file
    if path.suffix == ".safetensors":
        save_file(model.state_dict(), path)
    else:
        state = model.state_dict()
        torch.save({"model": state, "epoch": 3} if "checkpoint" in file else state, path)
    network = load_released(path, architecture(), CLASSES)
    images = torch.randn(1, 3, 64, 64)
    assert not network.training
    torch.testing.assert_close(network(images), model(images), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    "file", ["missing.pth", "text.pth", "text.safetensors", "objects.pth", "list.pth", "empty.pth"]
)
def test_bad_files(tmp_path: Path, file: str) -> None:
    path = tmp_path / file
    match path.stem:
        case "text":
            path.write_text("no weights")
        case "empty":
            path.touch()
        case "objects":
            torch.save({"model": reference().state_dict(), "args": Namespace(lr=0.1)}, path)
        case "list":
            torch.save([torch.zeros(3)], path)
    with pytest.raises(BadFile, match=path.name) as caught:
        load_released(path, architecture(), CLASSES)
    assert "\n" not in str(caught.value)
