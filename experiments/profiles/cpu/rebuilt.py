"""Networks of the A76 table built from their papers, layer by layer, as an exported graph has them. For evaluation.

Not for fitting: those lists come from the source, with what it leaves out put back.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from itertools import product

from experiments.profiles.networks import KernelList, mobilenet_v1, mobilenet_v2
from experiments.profiles.tables import MovedElements, Op, square
from search_space.layer import Kind


def resnet(blocks: tuple[int, ...], *, width: float = 1.0, squeezes: bool = False, pre: bool = False) -> list[Op]:
    """ResNet of basic blocks (arXiv 1512.03385), with gates (arXiv 1709.01507), or pre-activated (arXiv 1603.05027).

    The last block keeps 512 channels whatever the width, as in the library that the measured networks are from.
    """
    net = KernelList(3, 224)
    net.conv(int(64 * width), 7, 2)
    _max_pool(net)
    for stage, count in enumerate(blocks):
        for block in range(count):
            last = stage == 3 and block == count - 1
            out = 512 if last else int(64 * 2**stage * width)
            stride = 2 if block == 0 and stage else 1
            if pre:
                net.ops.append(square(Kind.BATCH_NORM, net.channels, net.channels, net.size))
            if net.channels != out:
                shortcut = KernelList(net.channels, net.size)
                shortcut.conv(out, 1, stride)
                net.ops += shortcut.ops
            net.conv(out, 3, stride)
            net.conv(out, 3)
            if squeezes:
                net.squeeze_excite(out // 16)
            net.ops.append(square(Kind.ADD, out, out, net.size, inputs=2))
    if pre:
        net.ops.append(square(Kind.BATCH_NORM, net.channels, net.channels, net.size))
    net.global_pool()
    net.linear(1000)
    return net.ops


def densenet_169() -> list[Op]:
    """DenseNet-169 (arXiv 1608.06993)."""
    net = KernelList(3, 224)
    net.conv(64, 7, 2)
    _max_pool(net)
    for index, layers in enumerate((6, 12, 32, 32)):
        for _ in range(layers):
            before = net.channels
            net.ops.append(square(Kind.BATCH_NORM, before, before, net.size))
            net.conv(128)
            net.conv(32, 3)
            net.channels = before + 32
            net.ops.append(MovedElements("concat", net.channels * net.size**2))
        net.ops.append(square(Kind.BATCH_NORM, net.channels, net.channels, net.size))
        if index < 3:
            net.conv(net.channels // 2)
            halved = net.channels * (net.size // 2) ** 2
            net.ops.append(MovedElements("pool", net.channels * net.size**2, 2, halved))
            net.size //= 2
    net.global_pool()
    net.linear(1000)
    return net.ops


def _max_pool(net: KernelList) -> None:
    """3x3 at stride 2."""
    halved = net.size // 2
    net.ops.append(MovedElements("pool", net.channels * net.size**2, 3, net.channels * halved**2))
    net.size = halved


BLOCKS = {10: (1, 1, 1, 1), 12: (2, 1, 1, 1), 14: (2, 2, 1, 1), 16: (2, 2, 2, 1), 18: (2, 2, 2, 2)}
WIDTHS = {"_w3d4": 0.75, "_wd2": 0.5, "_wd4": 0.25}


def _resnets() -> Mapping[str, Callable[[], list[Op]]]:
    found: dict[str, Callable[[], list[Op]]] = {}
    for squeezes, pre in product((False, True), repeat=2):
        name = "se" * squeezes + "pre" * pre + "resnet"
        same = partial(resnet, squeezes=squeezes, pre=pre)
        found |= {f"{name}{depth}": partial(same, blocks) for depth, blocks in BLOCKS.items()}
        found |= {f"{name}18{suffix}": partial(same, BLOCKS[18], width=width) for suffix, width in WIDTHS.items()}
    return found


REBUILT: Mapping[str, Callable[[], list[Op]]] = {
    **_resnets(),
    "densenet169": densenet_169,
    "mobilenet_w1": lambda: mobilenet_v1(1.0, 224),
    "mobilenet_w3d4": lambda: mobilenet_v1(0.75, 224),
    "mobilenet_wd4": lambda: mobilenet_v1(0.25, 224),
    "mobilenetv2b_w1": lambda: mobilenet_v2(1.0, 224),
}
"""Name in the A76 table -> its layers. The table does not hold all of these ResNets."""
