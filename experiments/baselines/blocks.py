"""Blocks of Table II and ConvNeXt's own, as the released code of each writes them.

Sources: github.com/miniHuiHui/QuadraNet, facebookresearch/ConvNeXt, raoyongming/HorNet.

Conv, Hor and Quadra blocks are one frame: a spatial branch and a feed-forward branch, each pre-normed, scaled
per channel and residual. The Skip block is the feed-forward branch alone.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from experiments.baselines.macro import Norm
from search_space.build import ChannelLayerNorm
from search_space.operators.layers import QuadraticConv2d

LAYER_SCALE = 1e-6


class SpatialBranch(nn.Module):
    """x + scale * operator(norm(x)) over (N, C, H, W)."""

    def __init__(self, channels: int, operator: nn.Module, norm: Norm) -> None:
        super().__init__()
        self.norm = norm(channels)
        self.operator = operator
        self.scale = nn.Parameter(torch.full((channels,), LAYER_SCALE))

    def forward(self, x: Tensor) -> Tensor:
        """x: (N, C, H, W) -> (N, C, H, W)."""
        return x + self.scale.view(-1, 1, 1) * self.operator(self.norm(x))


class FeedForward(nn.Module):
    """Linear, GELU, linear over the last axis; `ratio` times as wide between."""

    def __init__(self, channels: int, ratio: int = 4) -> None:
        super().__init__()
        self.expand = nn.Linear(channels, ratio * channels)
        self.act = nn.GELU()
        self.project = nn.Linear(ratio * channels, channels)

    def forward(self, x: Tensor) -> Tensor:
        """x: (..., C) -> (..., C)."""
        return self.project(self.act(self.expand(x)))


class FeedForwardBranch(nn.Module):
    """x + scale * FFN(LayerNorm(x)), computed with channels last; alone it is the Skip block."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(channels, eps=1e-6)
        self.feed_forward = FeedForward(channels)
        self.scale = nn.Parameter(torch.full((channels,), LAYER_SCALE))

    def forward(self, x: Tensor) -> Tensor:
        """x: (N, C, H, W) -> (N, C, H, W)."""
        branch = self.scale * self.feed_forward(self.norm(x.permute(0, 2, 3, 1)))
        return x + branch.permute(0, 3, 1, 2)


class ConvNeXtBlock(nn.Module):
    """x + scale * FFN(LayerNorm(dw7x7(x))): one residual."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.depthwise = depthwise(channels)
        self.norm = nn.LayerNorm(channels, eps=1e-6)
        self.feed_forward = FeedForward(channels)
        self.scale = nn.Parameter(torch.full((channels,), LAYER_SCALE))

    def forward(self, x: Tensor) -> Tensor:
        """x: (N, C, H, W) -> (N, C, H, W)."""
        branch = self.norm(self.depthwise(x).permute(0, 2, 3, 1))
        return x + (self.scale * self.feed_forward(branch)).permute(0, 3, 1, 2)


def depthwise(channels: int) -> nn.Conv2d:
    """The 7x7 depthwise convolution of ConvNeXt (arXiv 2201.03545): (N, C, H, W) -> (N, C, H, W)."""
    return nn.Conv2d(channels, channels, 7, padding=3, groups=channels)


def skip_block(channels: int) -> nn.Module:
    """The feed-forward branch alone."""
    return FeedForwardBranch(channels)


def conv_block(channels: int, norm: Norm = ChannelLayerNorm) -> nn.Module:
    """The frame around one depthwise convolution."""
    return framed(channels, depthwise(channels), norm)


def quadra_block(channels: int, norm: Norm = ChannelLayerNorm, lean: bool = False) -> nn.Module:
    """The frame around a(x) * b(x) + c(x), each depthwise. For it autograd keeps x, a(x) and b(x); `lean`: x only."""
    return framed(channels, QuadraticConv2d(channels, channels, 7, padding=3, groups=channels, lean=lean), norm)


def framed(channels: int, operator: nn.Module, norm: Norm) -> nn.Module:
    """The frame of Conv, Hor and Quadra blocks: (N, C, H, W) -> (N, C, H, W).

    operator: keeps that shape; norm: made for `channels`, it stands before the operator.
    """
    return nn.Sequential(SpatialBranch(channels, operator, norm), FeedForwardBranch(channels))
