"""The weight gradients of QuadraNet's depthwise neuron on CPUs as matrix products.

torch's own is slow on CPUs for kernels above 3 x 3: 60 to 70 % of a 7x7 neuron's training time (torch 2.13, one
x86-64 core). Here maps are cut into tiles of 4 x 4 pixels; a tile's gradient meets every pixel of its surroundings
in one product per channel, of which the pairs at the kernel's offsets are summed: twice the multiplications, half
the time. Copies of about 2^18 elements are made at a time, in float32 for lower types.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

TILE = 4
ELEMENTS = 2**18


def usable(x: Tensor, kernel_size: int) -> bool:
    """Whether this is faster than torch's own. x: (N, C, H, W)."""
    return x.device.type == "cpu" and 5 <= kernel_size <= 13 and kernel_size % 2 == 1


def weight_gradients(x: Tensor, grads: Sequence[Tensor], kernel_size: int) -> tuple[Tensor, ...]:
    """x, and every grad = dL/dy of a depthwise convolution of x: (N, C, H, W) -> for each (C, 1, k, k)."""
    n, c, h, w = x.shape
    border = kernel_size // 2
    tile_h, tile_w = min(TILE, h), min(TILE, w)
    below, right = -h % tile_h, -w % tile_w  # rows and columns of zeros that complete the tiles
    around_h, around_w = tile_h + kernel_size - 1, tile_w + kernel_size - 1
    tiles = (h + below) // tile_h * ((w + right) // tile_w)
    images = max(1, ELEMENTS // (c * tiles * around_h * around_w))
    dtype = torch.promote_types(x.dtype, torch.float32)
    products = x.new_zeros(c, around_h * around_w, len(grads) * tile_h * tile_w, dtype=dtype)
    for i in range(0, n, images):
        part = F.pad(x[i : i + images].to(dtype).contiguous(), (border, border + right, border, border + below))
        around = part.unfold(2, around_h, tile_h).unfold(3, around_w, tile_w)  # n, c, tiles down, tiles across, h, w
        around = around.permute(1, 0, 2, 3, 4, 5).reshape(c, -1, around_h * around_w)
        part = torch.stack([F.pad(g[i : i + images].to(dtype).contiguous(), (0, right, 0, below)) for g in grads], 2)
        inside = part.unfold(3, tile_h, tile_h).unfold(4, tile_w, tile_w)  # n, c, grads, tiles down, across, h, w
        inside = inside.permute(1, 0, 3, 4, 2, 5, 6).reshape(c, around.shape[1], -1)
        products.baddbmm_(around.transpose(1, 2), inside)
    channel, row, _ = products.stride()
    at_offsets = products.as_strided(
        (c, len(grads), kernel_size, kernel_size, tile_h, tile_w),
        (channel, tile_h * tile_w, around_w * row, row, around_w * row + tile_w, row + 1),
    )
    return at_offsets.sum((4, 5)).to(x.dtype).unsqueeze(2).unbind(1)
