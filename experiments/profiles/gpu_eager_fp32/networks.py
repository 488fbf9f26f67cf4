"""Networks measured under eager PyTorch on the A100, as the lists of kernels that it launches: nothing merges.

Swish and sigmoid are taken for GELU: one pass over the tensor. Not for runtimes that merge (`networks`).
"""

from __future__ import annotations

from math import ceil

from device_profiles import Kernel
from experiments.profiles.networks import KernelList
from experiments.profiles.tables import square
from experiments.profiles.vpu.networks import EFFICIENTNET_B0, RESNET_BLOCKS
from search_space.layer import Kind
from search_space.space import divisible


def efficientnet(width: float, depth: float, size: int, wide_squeeze: bool = False) -> list[Kernel]:
    """EfficientNet (arXiv 1905.11946) by its multiples of B0's width and depth.

    wide_squeeze: the squeezed width is a quarter of the block's inner width, not of its input's.
    """
    net = KernelList(3, size)
    _conv(net, divisible(32 * width), 3, 2, then=Kind.GELU)
    for expansion, kernel_size, first_stride, out, blocks in EFFICIENTNET_B0:
        for block in range(ceil(blocks * depth)):
            entered = net.channels
            if expansion > 1:
                _conv(net, expansion * entered, then=Kind.GELU)
            net.dwconv(kernel_size, first_stride if block == 0 else 1)
            _after(net, Kind.BATCH_NORM, Kind.GELU)
            _squeeze_excite(net, (net.channels if wide_squeeze else entered) // 4)
            _conv(net, divisible(out * width))
            if block:
                _after(net, Kind.ADD)
    _conv(net, divisible(1280 * width), then=Kind.GELU)
    net.global_pool()
    net.linear(1000)
    return _kernels(net)


def resnet50() -> list[Kernel]:
    """ResNet-50 (arXiv 1512.03385) at 224, stride in the 3x3 (v1.5)."""
    net = KernelList(3, 224)
    _conv(net, 64, 7, 2, then=Kind.RELU6)
    pool = square(Kind.POOL, net.channels, net.channels, net.size, 3, 2)
    net.ops.append(pool)
    net.size = pool.spec.out_height
    for stage, blocks in enumerate(RESNET_BLOCKS[50]):
        width = 64 * 2**stage
        for block in range(blocks):
            stride = 2 if block == 0 and stage else 1
            if block == 0:
                shortcut = KernelList(net.channels, net.size)
                _conv(shortcut, 4 * width, 1, stride)
                net.ops += shortcut.ops
            _conv(net, width, then=Kind.RELU6)
            _conv(net, width, 3, stride, then=Kind.RELU6)
            _conv(net, 4 * width)
            _after(net, Kind.ADD, Kind.RELU6)
    net.global_pool()
    net.linear(1000)
    return _kernels(net)


def _conv(net: KernelList, channels: int, kernel_size: int = 1, stride: int = 1, then: Kind | None = None) -> None:
    net.conv(channels, kernel_size, stride)
    _after(net, Kind.BATCH_NORM, *([then] if then else []))


def _after(net: KernelList, *kinds: Kind) -> None:
    for kind in kinds:
        inputs = 2 if kind in (Kind.ADD, Kind.MUL) else 1
        net.ops.append(square(kind, net.channels, net.channels, net.size, inputs=inputs))


def _squeeze_excite(net: KernelList, squeezed: int) -> None:
    """Mean, two pointwise convolutions of one pixel with an activation each, product with the tensor."""
    gate = KernelList(net.channels, net.size)
    gate.global_pool()
    gate.conv(squeezed)
    _after(gate, Kind.GELU)
    gate.conv(net.channels)
    _after(gate, Kind.GELU)
    net.ops += gate.ops
    _after(net, Kind.MUL)


def _kernels(net: KernelList) -> list[Kernel]:
    return [op for op in net.ops if isinstance(op, Kernel)]
