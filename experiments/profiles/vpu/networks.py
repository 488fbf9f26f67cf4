"""Published networks that dl-benchmark measured on the Myriad X, as lists of kernels and moved tensors.

`MovedElements("pass", n)` is an element-wise layer that does not merge: n elements read and written. A norm with its
ReLU before a convolution is one, (hard) swish `PASSES_OF_HARD_SWISH`. Not for the other devices.
"""

from __future__ import annotations

from collections.abc import Sequence

from experiments.profiles.networks import KernelList
from experiments.profiles.tables import MovedElements, Op, square
from search_space.layer import Kind
from search_space.space import divisible

PASSES_OF_HARD_SWISH = 2
RESNET_BLOCKS = {18: (2, 2, 2, 2), 34: (3, 4, 6, 3), 50: (3, 4, 6, 3), 101: (3, 4, 23, 3), 152: (3, 8, 36, 3)}
# depth -> (channels of the stem, channels a layer adds, layers a block)
DENSENETS = {
    121: (64, 32, (6, 12, 24, 16)),
    161: (96, 48, (6, 12, 36, 24)),
    169: (64, 32, (6, 12, 32, 32)),
    201: (64, 32, (6, 12, 48, 32)),
}
# One row a block: kernel size, expanded channels, output channels, squeeze-and-excite, hard swish, stride.
MOBILENET_V3_LARGE = (
    (3, 16, 16, 0, 0, 1),
    (3, 64, 24, 0, 0, 2),
    (3, 72, 24, 0, 0, 1),
    (5, 72, 40, 1, 0, 2),
    (5, 120, 40, 1, 0, 1),
    (5, 120, 40, 1, 0, 1),
    (3, 240, 80, 0, 1, 2),
    (3, 200, 80, 0, 1, 1),
    (3, 184, 80, 0, 1, 1),
    (3, 184, 80, 0, 1, 1),
    (3, 480, 112, 1, 1, 1),
    (3, 672, 112, 1, 1, 1),
    (5, 672, 160, 1, 1, 2),
    (5, 960, 160, 1, 1, 1),
    (5, 960, 160, 1, 1, 1),
)
MOBILENET_V3_SMALL = (
    (3, 16, 16, 1, 0, 2),
    (3, 72, 24, 0, 0, 2),
    (3, 88, 24, 0, 0, 1),
    (5, 96, 40, 1, 1, 2),
    (5, 240, 40, 1, 1, 1),
    (5, 240, 40, 1, 1, 1),
    (5, 120, 48, 1, 1, 1),
    (5, 144, 48, 1, 1, 1),
    (5, 288, 96, 1, 1, 2),
    (5, 576, 96, 1, 1, 1),
    (5, 576, 96, 1, 1, 1),
)
# One row a stage: expansion, kernel size, stride, output channels, blocks.
EFFICIENTNET_B0 = (
    (1, 3, 1, 16, 1),
    (6, 3, 2, 24, 2),
    (6, 5, 2, 40, 2),
    (6, 3, 2, 80, 3),
    (6, 5, 1, 112, 3),
    (6, 5, 2, 192, 4),
    (6, 3, 1, 320, 1),
)


def resnet(depth: int, squeezes: bool = False) -> list[Op]:
    """ResNet-18 to -152 (arXiv 1512.03385) at 224; in bottlenecks the 3x3 has the stride.

    squeezes: SE-ResNet (arXiv 1709.01507) of 50 layers and more, with a squeeze by 16 before every addition.
    """
    net, bottleneck = KernelList(3, 224), depth >= 50
    net.conv(64, 7, 2)
    net.max_pool()
    for stage, blocks in enumerate(RESNET_BLOCKS[depth]):
        width = 64 * 2**stage
        out = 4 * width if bottleneck else width
        for block in range(blocks):
            stride = 2 if block == 0 and stage else 1
            if block == 0 and net.channels != out:
                shortcut = KernelList(net.channels, net.size)
                shortcut.conv(out, 1, stride)
                net.ops += shortcut.ops
            if bottleneck:
                net.conv(width)
                net.conv(width, 3, stride)
                net.conv(out, adds=not squeezes)
                if squeezes:
                    net.squeeze_excite(width // 4)
                    net.ops.append(square(Kind.ADD, out, out, net.size, inputs=2))
            else:
                net.conv(width, 3, stride)
                net.conv(out, 3, adds=True)
    net.global_pool()
    net.linear(1000)
    return net.ops


def mobileone_s0() -> list[Op]:
    """MobileOne-S0 (arXiv 2206.04040) at 224 as it is deployed: every branch folded into one convolution."""
    net = KernelList(3, 224)
    net.conv(48, 3, 2)
    for width, blocks in ((48, 2), (128, 8), (256, 10), (1024, 1)):
        for block in range(blocks):
            net.dwconv(3, 2 if block == 0 else 1)
            net.conv(width)
    net.global_pool()
    net.linear(1000)
    return net.ops


def densenet(depth: int) -> list[Op]:
    """DenseNet-121 to -201 (arXiv 1608.06993) at 224: a norm and a ReLU over all that came before each layer."""
    stem, growth, blocks = DENSENETS[depth]
    net = KernelList(3, 224)
    net.conv(stem, 7, 2)
    net.max_pool()
    for index, layers in enumerate(blocks):
        for _ in range(layers):
            before = net.channels
            _unmerged(net)
            net.conv(4 * growth)
            net.conv(growth, 3)
            _concat(net, before + growth)
        _unmerged(net)
        if index < len(blocks) - 1:
            net.conv(net.channels // 2)
            _shrink(net)
    net.global_pool()
    net.linear(1000)
    return net.ops


def squeezenet_1_1() -> list[Op]:
    """SqueezeNet 1.1 (arXiv 1602.07360) at 227, which without padding gives the sizes of 224 with it."""
    net = KernelList(3, 224)
    net.conv(64, 3, 2)
    for squeezed, expanded, shrinks in (
        (16, 64, True),
        (16, 64, False),
        (32, 128, True),
        (32, 128, False),
        (48, 192, True),
        (48, 192, False),
        (64, 256, False),
        (64, 256, False),
    ):
        if shrinks:
            net.max_pool()
        net.conv(squeezed)
        for kernel_size in (1, 3):
            net.ops.append(square(Kind.CONV, squeezed, expanded, net.size, kernel_size))
        _concat(net, 2 * expanded)
    net.conv(1000)
    net.global_pool()
    return net.ops


def mobilenet_v3(blocks: Sequence[tuple[int, int, int, int, int, int]], last: int, head: int) -> list[Op]:
    """MobileNetV3 (arXiv 1905.02244) at 224; hard swish does not merge. last, head: the final widths."""
    net = KernelList(3, 224)
    net.conv(16, 3, 2)
    _swish(net)
    for kernel_size, middle, out, squeezes, swishes, stride in blocks:
        residual = stride == 1 and net.channels == out
        if middle != net.channels:
            net.conv(middle)
            if swishes:
                _swish(net)
        net.dwconv(kernel_size, stride)
        if squeezes:
            net.squeeze_excite(divisible(middle / 4))
        if swishes:
            _swish(net)
        net.conv(out, adds=residual)
    net.conv(last)
    _swish(net)
    net.global_pool()
    net.conv(head)
    net.conv(1000)
    return net.ops


def efficientnet_b0() -> list[Op]:
    """EfficientNet-B0 (arXiv 1905.11946) at 224; swish does not merge."""
    net = KernelList(3, 224)
    net.conv(32, 3, 2)
    _swish(net)
    for expansion, kernel_size, first_stride, out, blocks in EFFICIENTNET_B0:
        for block in range(blocks):
            entered, stride = net.channels, first_stride if block == 0 else 1
            if expansion > 1:
                net.conv(expansion * entered)
                _swish(net)
            net.dwconv(kernel_size, stride)
            _swish(net)
            net.squeeze_excite(max(1, entered // 4))
            net.conv(out, adds=block > 0)
    net.conv(1280)
    _swish(net)
    net.global_pool()
    net.linear(1000)
    return net.ops


def _unmerged(net: KernelList, passes: int = 1) -> None:
    net.ops += [MovedElements("pass", net.channels * net.size**2)] * passes


def _swish(net: KernelList) -> None:
    _unmerged(net, PASSES_OF_HARD_SWISH)


def _concat(net: KernelList, channels: int) -> None:
    net.channels = channels
    net.ops.append(MovedElements("concat", channels * net.size**2))


def _shrink(net: KernelList) -> None:
    net.ops.append(MovedElements("pool", net.channels * net.size**2))
    net.size //= 2
