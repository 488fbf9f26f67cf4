"""What published files hold, written down as sizes, and their names by rule: looked up in each project's source."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

State = dict[str, Tensor]
NORM = ("weight", "bias", "running_mean", "running_var")


@dataclass(frozen=True)
class Sizes:
    """stages: (blocks, kernel, stride, expansion, width) after the first block, which is 3x3 of expansion 1."""

    stem: int
    first: int
    stages: tuple[tuple[int, int, int, int, int], ...]
    mix: int = 1280

    def blocks(self) -> Iterator[tuple[int, int, int, int, int, int, int]]:
        """(stage from 1, index, kernel, stride, inputs, middle, width) of every block after the first."""
        inputs = self.first
        for stage, (count, kernel, stride, ratio, width) in enumerate(self.stages, start=1):
            for index in range(count):
                yield stage, index, kernel, stride if index == 0 else 1, inputs, ratio * inputs, width
                inputs = width


def lite(depths: tuple[int, ...], widths: tuple[int, ...]) -> Sizes:
    constants = ((3, 2), (5, 2), (3, 2), (5, 1), (5, 2), (3, 1))
    return Sizes(32, 16, tuple((n, k, s, 6, w) for n, (k, s), w in zip(depths, constants, widths, strict=True)))


def mobilenet(stem: int, first: int, depths: tuple[int, ...], widths: tuple[int, ...], mix: int = 1280) -> Sizes:
    strides = (2, 2, 2, 1, 2, 1)
    return Sizes(stem, first, tuple((n, 3, s, 6, w) for n, s, w in zip(depths, strides, widths, strict=True)), mix)


LITE0 = lite((2, 2, 3, 3, 4, 1), (24, 40, 80, 112, 192, 320))
LITE1 = lite((3, 3, 4, 4, 5, 1), (24, 40, 80, 112, 192, 320))
LITE2 = lite((3, 3, 4, 4, 5, 1), (24, 48, 88, 120, 208, 352))
V2 = mobilenet(32, 16, (2, 3, 4, 3, 3, 1), (24, 32, 64, 96, 160, 320))
V2_110D = mobilenet(32, 16, (3, 4, 5, 4, 4, 1), (24, 32, 72, 104, 176, 352))
V2_120D = mobilenet(32, 24, (3, 5, 6, 5, 5, 1), (32, 40, 80, 112, 192, 384))
V2_140 = mobilenet(48, 24, (2, 3, 4, 3, 3, 1), (32, 48, 88, 136, 224, 448), 1792)
PROXYLESS = Sizes(
    40,
    24,
    tuple(
        (1 if width == 416 else 4, 7, stride, 6, width)
        for stride, width in ((2, 32), (2, 56), (2, 104), (1, 128), (2, 248), (1, 416))
    ),
    1664,
)

Modules = dict[str, str]
"""Of a block or the ends of a network: what a module is -> its name in the file."""


def ends_and_first(layout: str) -> tuple[Modules, Modules]:
    """The stem with the head, and the first block."""
    match layout:
        case "efficientnet_lite_pytorch":
            return (
                {"conv": "_conv_stem", "norm": "_bn0", "mix": "_conv_head", "mix_norm": "_bn1", "classifier": "_fc"},
                {"dw": "_depthwise_conv", "dw_norm": "_bn1", "project": "_project_conv", "project_norm": "_bn2"},
            )
        case "timm":
            return (
                {"conv": "conv_stem", "norm": "bn1", "mix": "conv_head", "mix_norm": "bn2", "classifier": "classifier"},
                {"dw": "conv_dw", "dw_norm": "bn1", "project": "conv_pw", "project_norm": "bn2"},
            )
        case "torchvision":
            return (
                {
                    "conv": "features.0.0",
                    "norm": "features.0.1",
                    "mix": "features.18.0",
                    "mix_norm": "features.18.1",
                    "classifier": "classifier.1",
                },
                {"dw": "conv.0.0", "dw_norm": "conv.0.1", "project": "conv.1", "project_norm": "conv.2"},
            )
        case _:
            return (
                {
                    "conv": "first_conv.conv",
                    "norm": "first_conv.bn",
                    "mix": "feature_mix_layer.conv",
                    "mix_norm": "feature_mix_layer.bn",
                    "classifier": "classifier.linear",
                },
                {
                    "dw": "depth_conv.conv",
                    "dw_norm": "depth_conv.bn",
                    "project": "point_linear.conv",
                    "project_norm": "point_linear.bn",
                },
            )


def block_modules(layout: str) -> Modules:
    match layout:
        case "efficientnet_lite_pytorch":
            names = ("_expand_conv", "_bn0", "_depthwise_conv", "_bn1", "_project_conv", "_bn2")
        case "timm":
            names = ("conv_pw", "bn1", "conv_dw", "bn2", "conv_pwl", "bn3")
        case "torchvision":
            names = ("conv.0.0", "conv.0.1", "conv.1.0", "conv.1.1", "conv.2", "conv.3")
        case _:
            parts = ("inverted_bottleneck", "depth_conv", "point_linear")
            names = tuple(f"{part}.{module}" for part in parts for module in ("conv.conv", "bn.bn"))
    return dict(zip(("expand", "expand_norm", "dw", "dw_norm", "project", "project_norm"), names, strict=True))


def block_name(layout: str) -> Callable[[int, int, int], str]:
    """(stage, index, number over all blocks from 0, the first block 0 0 0) -> prefix."""
    return {
        "efficientnet_lite_pytorch": lambda stage, index, number: f"_blocks.{number}.",
        "timm": lambda stage, index, number: f"blocks.{stage}.{index}.",
        "torchvision": lambda stage, index, number: f"features.{number + 1}.",
        "once_for_all": lambda stage, index, number: f"blocks.{number}.conv.",
    }[layout]


def shapes_of(sizes: Sizes, layout: str, classes: int = 1000) -> dict[str, tuple[int, ...]]:
    """Name -> shape of every tensor of a file, in the order of the network's layers."""
    ends, first = ends_and_first(layout)
    named = block_name(layout)
    shapes: dict[str, tuple[int, ...]] = {}

    def add(conv: str, norm: str, *shape: int) -> None:
        shapes[f"{conv}.weight"] = shape
        shapes.update({f"{norm}.{part}": (shape[0],) for part in NORM})
        shapes[f"{norm}.num_batches_tracked"] = ()

    add(ends["conv"], ends["norm"], sizes.stem, 3, 3, 3)
    at = named(0, 0, 0)
    add(at + first["dw"], at + first["dw_norm"], sizes.stem, 1, 3, 3)
    add(at + first["project"], at + first["project_norm"], sizes.first, sizes.stem, 1, 1)
    own = block_modules(layout)
    width = sizes.first
    for number, (stage, index, kernel, _, inputs, middle, width) in enumerate(sizes.blocks(), start=1):
        at = named(stage, index, number)
        add(at + own["expand"], at + own["expand_norm"], middle, inputs, 1, 1)
        add(at + own["dw"], at + own["dw_norm"], middle, 1, kernel, kernel)
        if layout == "once_for_all":
            shapes |= {f"{at}depth_conv.conv.{a}to{b}_matrix": (b * b, b * b) for a, b in ((7, 5), (5, 3))}
        add(at + own["project"], at + own["project_norm"], width, middle, 1, 1)
    add(ends["mix"], ends["mix_norm"], sizes.mix, width, 1, 1)
    return shapes | {f"{ends['classifier']}.weight": (classes, sizes.mix), f"{ends['classifier']}.bias": (classes,)}


def state_of(sizes: Sizes, layout: str, classes: int = 1000, counted: int = 0, seed: int = 0) -> State:
    """Random weights whose activations neither vanish nor explode. counted: batches that the norms have seen.

    Some variances are far below the epsilon of a norm, as in trained networks, and the weights before them as small.
    """
    draw = torch.Generator().manual_seed(seed)
    state: State = {}
    weight = torch.empty(0)
    for name, shape in shapes_of(sizes, layout, classes).items():
        match name.rsplit(".", 1)[-1]:
            case "num_batches_tracked":
                state[name] = torch.tensor(counted)
            case "running_var":
                state[name] = torch.rand(shape, generator=draw) ** 4 + 1e-4
                weight *= state[name].sqrt().view(-1, 1, 1, 1)
            case "running_mean":
                state[name] = 0.01 * torch.randn(shape, generator=draw)
            case "bias":
                state[name] = 0.3 * torch.randn(shape, generator=draw)
            case _ if len(shape) == 1:
                state[name] = 0.5 + torch.rand(shape, generator=draw)
            case _:
                state[name] = weight = torch.randn(shape, generator=draw) / torch.Size(shape[1:]).numel() ** 0.5
    return state
