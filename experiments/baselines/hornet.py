"""HorNet's recursive gated convolution and block (arXiv 2207.14284, section 3), the 7x7 variant."""

from __future__ import annotations

from torch import Tensor, nn

from experiments.baselines.blocks import framed
from experiments.baselines.macro import Norm
from search_space.build import ChannelLayerNorm


class GatedConv(nn.Module):
    """gnConv of order n: p_0 is gated by depthwise features n times, widening from C / 2^(n-1) to C channels.

    widths d_j = C / 2^(n-1-j); p = p_0 * q_0, then p = conv1x1_j(p) * q_{j+1} for j = 0..n-2.
    """

    SCALE = 1 / 3

    def __init__(self, channels: int, order: int) -> None:
        super().__init__()
        self.widths = [channels // 2 ** (order - 1 - j) for j in range(order)]
        gates = sum(self.widths)  # 2C - d_0
        self.project_in = nn.Conv2d(channels, 2 * channels, 1)
        self.depthwise = nn.Conv2d(gates, gates, 7, padding=3, groups=gates)
        self.widen = nn.ModuleList(
            nn.Conv2d(narrow, wide, 1) for narrow, wide in zip(self.widths[:-1], self.widths[1:], strict=True)
        )
        self.project_out = nn.Conv2d(channels, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        """x: (N, C, H, W) -> (N, C, H, W)."""
        p, gates = self.project_in(x).split((self.widths[0], sum(self.widths)), dim=1)
        first, *rest = (self.depthwise(gates) * self.SCALE).split(self.widths, dim=1)
        p = p * first
        for widen, gate in zip(self.widen, rest, strict=True):
            p = widen(p) * gate
        return self.project_out(p)


def hor_block(stage: int, channels: int, norm: Norm = ChannelLayerNorm) -> nn.Module:
    """HorNet's block: orders 2, 3, 4, 5 in its four stages."""
    return framed(channels, GatedConv(channels, order=2 + stage), norm)
