"""How a GPU cuts a matrix product into blocks, and what that leaves idle: coordinates of its kernels.

A convolution is taken as the product of its output pixels and output channels over its windows. Not for times.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import ceil, log

from device_profiles import Kernel

MULTIPROCESSORS = 108  # of an A100
# Multiply-adds that take as long as the launch of an eager kernel there (0.048 ms at 7.3 a ps). Of smaller products
# idle multiprocessors do not show, and these coordinates fade to 0.
LAUNCH_MACS = 3.5e8
SMALLEST_BLOCK = 32
WINOGRAD_TILE, WINOGRAD_MACS = 4, 36  # outputs along a side of a tile; multiplications a tile and pair of channels

Block = tuple[int, int]
"""Rows and columns of the product that one thread block computes."""


@dataclass(frozen=True, slots=True)
class Product:
    """(rows, depth) times (depth, columns)."""

    rows: int
    columns: int
    depth: int

    @classmethod
    def of(cls, kernel: Kernel) -> Product:
        """The matrix product that a convolution or linear layer is."""
        s = kernel.spec
        return cls(s.out_height * s.out_width, s.out_channels, s.kernel_size**2 * s.in_channels)

    @property
    def shown(self) -> float:
        """How much of the time depends on the work, 0..1."""
        macs = self.rows * self.columns * self.depth
        return macs / (macs + LAUNCH_MACS)

    @property
    def padded_macs(self) -> int:
        """Multiply-adds with rows and columns rounded up to the smallest block."""
        return self._blocks((SMALLEST_BLOCK, SMALLEST_BLOCK)) * SMALLEST_BLOCK**2 * self.depth

    def wave_macs(self, block: Block) -> int:
        """Multiply-adds that all multiprocessors have time for while the last wave of blocks runs out."""
        waves = ceil(self._blocks(block) / MULTIPROCESSORS)
        return waves * MULTIPROCESSORS * block[0] * block[1] * self.depth

    def idle(self, block: Block, at_once: int = 1) -> float:
        """Log of the places for blocks in all waves over the blocks; `at_once` on one multiprocessor."""
        waves = self._blocks(block) / (MULTIPROCESSORS * at_once)
        return self.shown * log(ceil(waves) / waves)

    def padding(self, block: Block) -> float:
        """Log of what the blocks compute over what is asked."""
        return self.shown * log(self._blocks(block) * block[0] * block[1] / (self.rows * self.columns))

    def _blocks(self, block: Block) -> int:
        return ceil(self.rows / block[0]) * ceil(self.columns / block[1])


def winograd_macs(kernel: Kernel) -> float:
    """Multiplications of a 3x3 convolution of stride 1 by Winograd's scheme over 4x4 outputs.

    Plain multiply-adds of any other. A tensor higher than wide is taken as a pile of square images, tiled one by one.
    """
    s = kernel.spec
    if (s.kernel_size, s.stride) != (3, 1):
        return s.macs
    tiles = s.out_height / s.out_width * ceil(s.out_width / WINOGRAD_TILE) ** 2
    return tiles * WINOGRAD_MACS * s.in_channels * s.out_channels
