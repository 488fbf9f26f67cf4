"""Published networks as lists of kernels, for calibrating a device on measured whole networks.

Fused as inference runtimes fuse them: norm and activation in their convolution, addition apart or
merged as asked. Not for searching, and no weights.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from device_profiles import Kernel
from experiments.profiles.tables import MovedElements, Op, Row, square
from search_space.errors import UserError
from search_space.layer import Kind, LayerSpec
from search_space.space import divisible


@dataclass
class KernelList:
    """Kernels under construction over a square tensor of `channels` x `size` x `size`.

    `merged_add`: whether a residual addition merges into the convolution before it.
    """

    channels: int
    size: int
    merged_add: bool = False
    ops: list[Op] = field(default_factory=list)

    def conv(self, out_channels: int, kernel_size: int = 1, stride: int = 1, *, adds: bool = False) -> None:
        """A convolution; `adds`: a residual addition follows."""
        inputs = 2 if adds and self.merged_add else 1
        kernel = square(Kind.CONV, self.channels, out_channels, self.size, kernel_size, stride, inputs)
        self.ops.append(kernel)
        self.channels, self.size = out_channels, kernel.spec.out_height
        if adds and not self.merged_add:
            self.ops.append(square(Kind.ADD, self.channels, self.channels, self.size, inputs=2))

    def dwconv(self, kernel_size: int, stride: int = 1) -> None:
        """A depthwise convolution."""
        kernel = square(Kind.DWCONV, self.channels, self.channels, self.size, kernel_size, stride)
        self.ops.append(kernel)
        self.size = kernel.spec.out_height

    def max_pool(self, stride: int = 2) -> None:
        """A window pooling."""
        self.ops.append(MovedElements("pool", self.channels * self.size**2))
        self.size = -(-self.size // stride)

    def global_pool(self) -> None:
        """The mean over all pixels."""
        self.ops.append(square(Kind.GLOBAL_POOL, self.channels, self.channels, self.size))
        self.size = 1

    def linear(self, out_features: int) -> None:
        """A fully connected layer over everything before it."""
        self.ops.append(Kernel(LayerSpec(Kind.LINEAR, self.channels * self.size**2, out_features, 1, 1)))
        self.channels, self.size = out_features, 1

    def squeeze_excite(self, squeezed: int) -> None:
        """Pool, two pointwise convolutions of one pixel, product with the tensor."""
        channels, size = self.channels, self.size
        self.global_pool()
        self.conv(squeezed)
        self.conv(channels)
        self.ops.append(square(Kind.MUL, channels, channels, size, inputs=1))
        self.size = size


def resnet50(merged_add: bool) -> list[Op]:
    """ResNet-50 (arXiv 1512.03385) at 224, stride in the 3x3 (v1.5)."""
    net = KernelList(3, 224, merged_add)
    net.conv(64, 7, 2)
    net.max_pool()
    for stage, (width, blocks) in enumerate(((64, 3), (128, 4), (256, 6), (512, 3))):
        for block in range(blocks):
            stride = 2 if block == 0 and stage else 1
            if block == 0:
                shortcut = KernelList(net.channels, net.size)
                shortcut.conv(4 * width, 1, stride)
                net.ops += shortcut.ops
            net.conv(width)
            net.conv(width, 3, stride)
            net.conv(4 * width, adds=True)
    net.global_pool()
    net.linear(1000)
    return net.ops


def vgg(depth: int) -> list[Op]:
    """VGG-16 or VGG-19 (arXiv 1409.1556) at 224."""
    late = {16: 3, 19: 4}[depth]
    net = KernelList(3, 224)
    for width, convs in ((64, 2), (128, 2), (256, late), (512, late), (512, late)):
        for _ in range(convs):
            net.conv(width, 3)
        net.max_pool()
    for features in (4096, 4096, 1000):
        net.linear(features)
    return net.ops


def mobilenet_v1(width_mult: float, resolution: int) -> list[Op]:
    """MobileNetV1 (arXiv 1704.04861)."""
    net = KernelList(3, resolution)
    net.conv(divisible(32 * width_mult), 3, 2)
    for width, stride in (
        (64, 1),
        (128, 2),
        (128, 1),
        (256, 2),
        (256, 1),
        (512, 2),
        *[(512, 1)] * 5,
        (1024, 2),
        (1024, 1),
    ):
        net.dwconv(3, stride)
        net.conv(divisible(width * width_mult))
    net.global_pool()
    net.linear(1000)
    return net.ops


def mobilenet_v2(width_mult: float, resolution: int, merged_add: bool = False) -> list[Op]:
    """MobileNetV2 (arXiv 1801.04381)."""
    net = KernelList(3, resolution, merged_add)
    net.conv(divisible(32 * width_mult), 3, 2)
    net.dwconv(3)
    net.conv(divisible(16 * width_mult))
    for expand, width, blocks, stride in (
        (6, 24, 2, 2),
        (6, 32, 3, 2),
        (6, 64, 4, 2),
        (6, 96, 3, 1),
        (6, 160, 3, 2),
        (6, 320, 1, 1),
    ):
        for block in range(blocks):
            net.conv(expand * net.channels)
            net.dwconv(3, stride if block == 0 else 1)
            net.conv(divisible(width * width_mult), adds=block > 0)
    net.conv(divisible(1280 * max(1.0, width_mult)))
    net.global_pool()
    net.linear(1000)
    return net.ops


def convnext_tiny() -> list[Op]:
    """ConvNeXt-T (arXiv 2201.03545) at 224; scales are folded."""
    net = KernelList(3, 224)

    def element_wise(kind: Kind, inputs: int = 1) -> None:
        net.ops.append(square(kind, net.channels, net.channels, net.size, inputs=inputs))

    def patches(out_channels: int, size: int) -> None:
        spec = LayerSpec(Kind.CONV, net.channels, out_channels, net.size, net.size, size, size)
        net.ops.append(Kernel(spec))
        net.channels, net.size = out_channels, spec.out_height

    patches(96, 4)
    element_wise(Kind.LAYER_NORM)
    for width, blocks in ((96, 3), (192, 3), (384, 9), (768, 3)):
        if width != net.channels:
            element_wise(Kind.LAYER_NORM)
            patches(width, 2)
        for _ in range(blocks):
            net.dwconv(7)
            element_wise(Kind.LAYER_NORM)
            net.conv(4 * width)
            element_wise(Kind.GELU)
            net.conv(width)
            element_wise(Kind.ADD, inputs=2)
    net.global_pool()
    element_wise(Kind.LAYER_NORM)
    net.linear(1000)
    return net.ops


def gpunet(layers: Sequence[Row]) -> list[Op]:
    """A GPUNet (arXiv 2205.00841) from the rows of its layers, the image first.

    Cells that a layer has no use for are empty. Raises `UserError` for a layer type whose sizes are not published
    (GPUNet-D2's `head_large`).
    """
    net = KernelList(3, layers[0].integer("img_resolution"), merged_add=True)
    for layer in layers[1:]:
        kind, out = layer.text("layer_type"), _given(layer, "num_out_channels", 0)
        kernel_size, stride = _given(layer, "kernel_size", 3), _given(layer, "stride", 1)
        match kind:
            case "head":
                net.conv(out, 3, 2)
            case "conv":
                net.conv(out, kernel_size, stride)
            case "irb" | "fused_irb":
                residual, entered = stride == 1 and net.channels == out, net.channels
                middle = divisible(layer.number("expansion") * entered)
                if kind == "irb":
                    net.conv(middle)
                    net.dwconv(kernel_size, stride)
                else:
                    net.conv(middle, kernel_size, stride)
                if _given(layer, "use_se", 0):
                    net.squeeze_excite(divisible(entered / 4))
                net.conv(out, adds=residual)
            case "tail":
                net.conv(out)
                net.global_pool()
                net.linear(layer.integer("num_classes"))
            case unknown:
                raise UserError(f"GPUNet layer type '{unknown}' has no published sizes")
    return net.ops


def _given(layer: Row, column: str, without: int) -> int:
    return layer.integer(column) if layer.text(column) else without
