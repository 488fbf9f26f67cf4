"""The baselines of Tables I and II by name, with the sizes that their papers give.

Sources: ConvNeXt, arXiv 2201.03545; HorNet, arXiv 2207.14284; Swin, arXiv 2103.14030.

DeiT and TNT come from timm where it is installed; nothing here has trained weights.
"""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module
from typing import Literal

from torch import nn

from experiments.baselines.blocks import ConvNeXtBlock, conv_block, quadra_block, skip_block
from experiments.baselines.hornet import hor_block
from experiments.baselines.macro import ElementaryLayerNorm, Norm, four_stages
from experiments.baselines.swin import swin_network
from search_space.build import ChannelLayerNorm
from search_space.errors import UnknownName, UserError, one_line
from search_space.family import DEPTHS_24

Size = Literal["T", "S", "B"]
IMPORT_ERRORS = (ImportError, RuntimeError)  # RuntimeError: torchvision beside another build of torch
TABLE2_BLOCKS = ("skip", "conv", "swin", "hor", "quad", "quad, X only", "convnext")
TIMM = {  # name -> timm's; TNT as published, before timm's own repair
    "deit-s": "deit_small_patch16_224",
    "tnt-s": "tnt_s_legacy_patch16_224",
}


def convnext(size: Size, num_classes: int = 1000) -> nn.Module:
    """ConvNeXt (arXiv 2201.03545): (N, 3, H, W) -> (N, classes)."""
    width, depths = {"T": (96, (3, 3, 9, 3)), "S": (96, (3, 3, 27, 3)), "B": (128, (3, 3, 27, 3))}[size]
    return four_stages(lambda stage, channels: ConvNeXtBlock(channels), depths, width, num_classes=num_classes)


def hornet(size: Size, num_classes: int = 1000, norm: Norm = ChannelLayerNorm) -> nn.Module:
    """HorNet 7x7 (arXiv 2207.14284): (N, 3, H, W) -> (N, classes)."""
    width = {"T": 64, "S": 96, "B": 128}[size]
    return four_stages(
        lambda stage, channels: hor_block(stage, channels, norm), (2, 3, 18, 2), width, norm, num_classes
    )


def swin(size: Size, num_classes: int = 1000, resolution: int = 224) -> nn.Module:
    """Swin (arXiv 2103.14030): (N, 3, R, R) -> (N, classes), R the resolution."""
    width, depths = {"T": (96, (2, 2, 6, 2)), "S": (96, (2, 2, 18, 2)), "B": (128, (2, 2, 18, 2))}[size]
    return swin_network(depths, width, resolution, num_classes)


def table2_network(
    block: str, width: int, norm: Norm = ElementaryLayerNorm, resolution: int = 224, num_classes: int = 1000
) -> nn.Module:
    """A network of Table II: one kind of block at `DEPTHS_24`. (N, 3, R, R) -> (N, classes), R the resolution.

    norm: over channels first; the released code's own by default. Raises `UnknownName`.
    """
    makers: dict[str, Callable[[int, int], nn.Module]] = {
        "skip": lambda stage, channels: skip_block(channels),
        "conv": lambda stage, channels: conv_block(channels, norm),
        "hor": lambda stage, channels: hor_block(stage, channels, norm),
        "quad": lambda stage, channels: quadra_block(channels, norm),
        "quad, X only": lambda stage, channels: quadra_block(channels, norm, lean=True),
        "convnext": lambda stage, channels: ConvNeXtBlock(channels),
    }
    if block == "swin":
        return swin_network(DEPTHS_24, width, resolution, num_classes)
    if block not in makers:
        raise UnknownName("block", block, TABLE2_BLOCKS)
    return four_stages(makers[block], DEPTHS_24, width, norm, num_classes)


def timm_model(name: str, resolution: int = 224) -> nn.Module:
    """DeiT-S or TNT-S of Table I: (N, 3, R, R) -> (N, 1000), R the resolution.

    Raises `UserError` where timm is missing or does not import, `UnknownName` for what timm does not have (PVT v1
    and T2T-ViT among it).
    """
    if name not in TIMM:
        raise UnknownName("model of timm", name, TIMM)
    try:
        timm = import_module("timm")
    except IMPORT_ERRORS as error:
        raise UserError(
            f"'{name}' needs timm ({one_line(error)}): pip install -c constraints.txt -e '.[baselines]'"
        ) from error
    model: nn.Module = timm.create_model(TIMM[name], pretrained=False, img_size=resolution)
    return model


def has_timm() -> bool:
    """Whether timm is here and imports."""
    try:
        import_module("timm")
    except IMPORT_ERRORS:
        return False
    return True
