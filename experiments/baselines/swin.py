"""Swin Transformer (arXiv 2103.14030, section 3): windows of 7 x 7, shifted by 3 in every other block.

Every map's size is fixed when the network is built, as the relative positions and masks depend on it. Maps that
no window divides are padded with zeros; at 224 pixels none is.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

from experiments.baselines.blocks import FeedForward

WINDOW, HEAD_DIM = 7, 32


class WindowAttention(nn.Module):
    """Multi-head attention within windows, with a learned bias per relative position and head."""

    relative: Tensor

    def __init__(self, channels: int, heads: int, window: int) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(channels, 3 * channels)
        self.project = nn.Linear(channels, channels)
        self.bias_table = nn.Parameter(torch.zeros((2 * window - 1) ** 2, heads))
        self.register_buffer("relative", relative_positions(window), persistent=False)

    def forward(self, x: Tensor, mask: Tensor | None) -> Tensor:
        """x: (windows of all images, w*w, C); mask: (windows of one image, w*w, w*w) or None -> as x."""
        windows, tokens, channels = x.shape
        q, k, v = self.qkv(x).view(windows, tokens, 3, self.heads, -1).permute(2, 0, 3, 1, 4).unbind()
        scores = (q * (channels // self.heads) ** -0.5) @ k.transpose(-2, -1)
        scores = scores + self.bias_table[self.relative].permute(2, 0, 1)
        if mask is not None:
            by_image = scores.view(-1, len(mask), self.heads, tokens, tokens) + mask.unsqueeze(1)
            scores = by_image.view(windows, self.heads, tokens, tokens)
        mixed = scores.softmax(-1) @ v
        return self.project(mixed.transpose(1, 2).reshape(windows, tokens, channels))


class SwinBlock(nn.Module):
    """x + attention(norm(x)), then x + FFN(norm(x)), over maps (N, H, W, C)."""

    mask: Tensor | None

    def __init__(self, channels: int, heads: int, size: int, shifted: bool) -> None:
        """size: height and width of the map. Where one window covers it there is no shift."""
        super().__init__()
        self.window = min(WINDOW, size)
        self.shift = WINDOW // 2 if shifted and size > WINDOW else 0
        self.padding = -size % self.window
        self.norm1 = nn.LayerNorm(channels)
        self.attention = WindowAttention(channels, heads, self.window)
        self.norm2 = nn.LayerNorm(channels)
        self.feed_forward = FeedForward(channels)
        mask = shift_mask(size + self.padding, self.window, self.shift) if self.shift else None
        self.register_buffer("mask", mask, persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        """x: (N, H, W, C) -> (N, H, W, C)."""
        x = x + self._attend(self.norm1(x))
        return x + self.feed_forward(self.norm2(x))

    def _attend(self, x: Tensor) -> Tensor:
        size = x.shape[1]
        if self.padding:
            x = functional.pad(x, (0, 0, 0, self.padding, 0, self.padding))
        if self.shift:
            x = x.roll((-self.shift, -self.shift), (1, 2))
        x = from_windows(self.attention(to_windows(x, self.window), self.mask), self.window, x.shape[1])
        if self.shift:
            x = x.roll((self.shift, self.shift), (1, 2))
        return x[:, :size, :size]


class PatchEmbedding(nn.Module):
    """4x4 pixels to one token, normed."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, channels, 4, 4)
        self.norm = nn.LayerNorm(channels)

    def forward(self, x: Tensor) -> Tensor:
        """x: (N, 3, H, W) -> (N, H/4, W/4, C)."""
        return self.norm(self.conv(x).permute(0, 2, 3, 1))


class PatchMerging(nn.Module):
    """2x2 tokens side by side, normed, halved in width."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(4 * channels)
        self.reduce = nn.Linear(4 * channels, 2 * channels, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """x: (N, H, W, C) -> (N, H/2, W/2, 2C), odd sizes rounded up."""
        odd = x.shape[1] % 2
        if odd:
            x = functional.pad(x, (0, 0, 0, odd, 0, odd))
        quarters = [x[:, i::2, j::2] for j in (0, 1) for i in (0, 1)]
        return self.reduce(self.norm(torch.cat(quarters, -1)))


class SwinHead(nn.Module):
    """The classifier at the end, channels last: LayerNorm, mean over pixels, linear."""

    def __init__(self, channels: int, num_classes: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(channels)
        self.classifier = nn.Linear(channels, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        """x: (N, H, W, C) -> (N, classes)."""
        return self.classifier(self.norm(x).mean((1, 2)))


def swin_network(depths: Sequence[int], width: int, resolution: int = 224, num_classes: int = 1000) -> nn.Sequential:
    """(N, 3, R, R) -> (N, classes), R the resolution; heads of 32 channels."""
    size = resolution // 4
    layers: list[nn.Module] = [PatchEmbedding(width)]
    channels = width
    for stage, depth in enumerate(depths):
        if stage:
            layers.append(PatchMerging(channels))
            channels, size = 2 * channels, -(-size // 2)
        layers += [SwinBlock(channels, channels // HEAD_DIM, size, shifted=i % 2 == 1) for i in range(depth)]
    return nn.Sequential(*layers, SwinHead(channels, num_classes))


def to_windows(x: Tensor, window: int) -> Tensor:
    """x: (N, H, W, C) -> (N * H/w * W/w, w*w, C)."""
    images, height, width, channels = x.shape
    x = x.view(images, height // window, window, width // window, window, channels)
    return x.transpose(2, 3).reshape(-1, window * window, channels)


def from_windows(x: Tensor, window: int, size: int) -> Tensor:
    """The inverse of `to_windows` for square maps. x: (N * (size/w)^2, w*w, C) -> (N, size, size, C)."""
    count = size // window
    x = x.view(-1, count, count, window, window, x.shape[-1])
    return x.transpose(2, 3).reshape(-1, size, size, x.shape[-1])


def relative_positions(window: int) -> Tensor:
    """(w*w, w*w): the row of the bias table for every pair of tokens of a window."""
    y, x = torch.meshgrid(torch.arange(window), torch.arange(window), indexing="ij")
    y, x = y.flatten(), x.flatten()
    down, right = y[:, None] - y[None, :], x[:, None] - x[None, :]
    return (down + window - 1) * (2 * window - 1) + right + window - 1


def shift_mask(size: int, window: int, shift: int) -> Tensor:
    """(windows, w*w, w*w): -100 between tokens that the cyclic shift brought together, 0 elsewhere."""
    strip = torch.zeros(size)  # 0 | 1 | 2: untouched windows, and both parts of the last one
    strip[size - window : size - shift] = 1
    strip[size - shift :] = 2
    regions = to_windows((3 * strip[:, None] + strip[None, :]).view(1, size, size, 1), window).squeeze(-1)
    return torch.zeros(len(regions), window**2, window**2).masked_fill(regions[:, :, None] != regions[:, None, :], -100)
