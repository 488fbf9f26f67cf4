"""ConvNeXt's four-stage macro, which ConvNeXt, HorNet, QuadraNet and the networks of Table II share.

Stem 4x4/4 and norm; norm and 2x2/2 between stages; mean over pixels, norm, linear. Widths C, 2C, 4C, 8C.
Not for training to accuracy: weights start as torch draws them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from torch import Tensor, nn

from search_space.build import ChannelLayerNorm

Norm = Callable[[int], nn.Module]
"""Channels -> a norm over the channels of (N, C, H, W)."""

BlockMaker = Callable[[int, int], nn.Module]
"""(stage from 0, channels) -> a block (N, C, H, W) -> (N, C, H, W)."""


class ElementaryLayerNorm(nn.LayerNorm):
    """LayerNorm over the channels of (N, C, H, W) from elementary operations, as the released code has it.

    Autograd keeps three tensors of the input's size for it (x - mean twice, and the quotient), torch's own
    kernel one (counted here). The values are those of `ChannelLayerNorm`.
    """

    def __init__(self, channels: int) -> None:
        super().__init__(channels, eps=1e-6)

    def forward(self, x: Tensor) -> Tensor:
        """x: (N, C, H, W) -> (N, C, H, W)."""
        mean = x.mean(1, keepdim=True)
        variance = (x - mean).pow(2).mean(1, keepdim=True)
        normed = (x - mean) / (variance + self.eps).sqrt()
        return self.weight.view(-1, 1, 1) * normed + self.bias.view(-1, 1, 1)


class Head(nn.Module):
    """The classifier at the end: mean over pixels, LayerNorm, linear."""

    def __init__(self, channels: int, num_classes: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(channels, eps=1e-6)
        self.classifier = nn.Linear(channels, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        """x: (N, C, H, W) -> (N, classes)."""
        return self.classifier(self.norm(x.mean((2, 3))))


def four_stages(
    block: BlockMaker, depths: Sequence[int], width: int, norm: Norm = ChannelLayerNorm, num_classes: int = 1000
) -> nn.Sequential:
    """(N, 3, H, W) -> (N, classes)."""
    layers: list[nn.Module] = [nn.Conv2d(3, width, 4, 4), norm(width)]
    for stage, depth in enumerate(depths):
        channels = width * 2**stage
        if stage:
            layers += [norm(channels // 2), nn.Conv2d(channels // 2, channels, 2, 2)]
        layers += [block(stage, channels) for _ in range(depth)]
    return nn.Sequential(*layers, Head(width * 2 ** (len(depths) - 1), num_classes))
