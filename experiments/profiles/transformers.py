"""Published vision transformers as lists of kernels, as their TensorFlow graphs of 2022-23 run them.

Linear layers over tokens are 1x1 convolutions over a column of pixels. `MatrixProduct` is a product of two computed
tensors, `MovedElements` what is only copied to other places or pooled. Scales that a runtime could fold into weights
are products here, as in those graphs, and depthwise convolutions are grouped ones. Not for convolutional networks
(`networks`).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from device_profiles import Kernel
from experiments.profiles.tables import AttentionOp, Gated, GroupedConv, MatrixProduct, MovedElements
from search_space.errors import UnknownName
from search_space.layer import Kind, LayerSpec
from search_space.space import divisible

CLASSES = 1000


@dataclass
class TransformerList:
    """Kernels under construction over `channels` x `height` x `width`; tokens are pixels in a column."""

    channels: int
    height: int
    width: int
    ops: list[AttentionOp] = field(default_factory=list)

    @property
    def pixels(self) -> int:
        """Pixels or tokens."""
        return self.height * self.width

    @property
    def elements(self) -> int:
        """Elements of the tensor."""
        return self.channels * self.pixels

    def conv(self, out_channels: int, kernel_size: int = 1, stride: int = 1, padding: int | None = None) -> None:
        """A convolution; its norm merges into it."""
        padding = kernel_size // 2 if padding is None else padding
        sizes = (self.channels, out_channels, self.height, self.width, kernel_size, stride, padding)
        self._append(LayerSpec(Kind.CONV, *sizes))

    def linear(self, out_channels: int, pixels: int | None = None, channels: int | None = None) -> None:
        """A linear layer over every token of a tensor (this one by default), which becomes the current one."""
        self.channels = channels or self.channels
        if pixels is not None:
            self.height, self.width = pixels, 1
        self.conv(out_channels)

    def depthwise(self, kernel_size: int, stride: int = 1) -> None:
        """Written as a convolution with as many groups as channels, which these graphs keep."""
        sizes = (self.channels, self.channels, self.height, self.width, kernel_size, stride, kernel_size // 2)
        spec = LayerSpec(Kind.DWCONV, *sizes)
        self.ops.append(GroupedConv(spec.macs, spec.out_elements, groups=self.channels))
        self.height, self.width = spec.out_height, spec.out_width

    def element_wise(self, kind: Kind, times: int = 1) -> None:
        """A layer over every element of the tensor."""
        spec = LayerSpec(kind, self.channels, self.channels, self.height, self.width)
        self.ops += [Kernel(spec, inputs=2 if kind in (Kind.ADD, Kind.MUL) else 1)] * times

    def scaled(self) -> None:
        """Times constants, which these graphs do not fold into weights."""
        self.ops.append(Kernel(LayerSpec(Kind.MUL, self.channels, self.channels, self.height, self.width)))

    def swish(self) -> None:
        """The product x * sigmoid(x), two operators."""
        self.ops.append(Gated(self.elements))

    def move(self, op: str, elements: int | None = None) -> None:
        """Elements (all of the tensor) copied elsewhere."""
        self.ops.append(MovedElements(op, self.elements if elements is None else elements))

    def tokens(self, classes: int = 0) -> None:
        """The image becomes a sequence; class tokens are joined to it."""
        self.height, self.width = self.pixels + classes, 1
        if classes:
            self.move("concat")

    def mean(self) -> None:
        """The mean over all pixels."""
        self._append(LayerSpec(Kind.GLOBAL_POOL, self.channels, self.channels, self.height, self.width))

    def head(self, count: int = 1) -> None:
        """Fully connected layers over the channels."""
        self.ops += [Kernel(LayerSpec(Kind.LINEAR, self.channels, CLASSES, 1, 1))] * count

    def attend(
        self, heads: int, keys: int, width: int, *, groups: int = 1, value_width: int | None = None, biased: int = 0
    ) -> None:
        """Queries of the current tokens against `keys`, heads of `width`, in every one of `groups` windows.

        `keys` counts a window's. biased: tensors added to the scores. Leaves the values of the heads side by side.
        """
        values, queries = value_width or width, self.pixels // groups
        scores = TransformerList(keys, groups * heads * queries, 1)
        moved = groups * heads * (queries * width + keys * width + keys * values)
        scores.move("transpose", moved)  # every head's queries, keys and values to one place
        scores.ops.append(MatrixProduct(groups * heads * queries * keys * width, scores.elements))
        scores.scaled()
        scores.element_wise(Kind.ADD, biased)
        scores.element_wise(Kind.SOFTMAX)
        self.ops += scores.ops
        self.channels = heads * values
        self.ops.append(MatrixProduct(groups * heads * queries * keys * values, self.elements))
        self.move("transpose")

    def mlp(self, middle: int, between: Callable[[TransformerList], None]) -> None:
        """Two linear layers, `between` them what stands there, and the residual addition."""
        out = self.channels
        self.linear(middle)
        between(self)
        self.linear(out)
        self.element_wise(Kind.ADD)

    def _append(self, spec: LayerSpec) -> None:
        self.ops.append(Kernel(spec))
        self.channels, self.height, self.width = spec.out_channels, spec.out_height, spec.out_width


def _gelu(net: TransformerList) -> None:
    net.element_wise(Kind.GELU)


def vit(
    width: int, depth: int, patch: int, resolution: int, *, class_tokens: int = 1, heads: int = 1
) -> list[AttentionOp]:
    """ViT (arXiv 2010.11929) and DeiT (arXiv 2012.12877), heads of 64; `heads`: classifiers on the class tokens."""
    net = TransformerList(3, resolution, resolution)
    net.conv(width, patch, patch, 0)
    net.tokens(class_tokens)
    net.element_wise(Kind.ADD)  # positions
    for _ in range(depth):
        net.element_wise(Kind.LAYER_NORM)
        for _ in range(3):
            net.linear(width)
        net.attend(width // 64, net.pixels, 64)
        net.linear(width)
        net.element_wise(Kind.ADD)
        net.element_wise(Kind.LAYER_NORM)
        net.mlp(4 * width, _gelu)
    net.element_wise(Kind.LAYER_NORM)
    net.head(heads)
    return net.ops


def swin(width: int, depths: Sequence[int], window: int, resolution: int) -> list[AttentionOp]:
    """Swin (arXiv 2103.14030), patches of 4, heads of 32; every second block shifts its windows."""
    net = TransformerList(3, resolution, resolution)
    net.conv(width, 4, 4, 0)
    net.element_wise(Kind.LAYER_NORM)
    for stage, depth in enumerate(depths):
        if stage:
            net.channels, net.height, net.width = 4 * net.channels, net.height // 2, net.width // 2
            net.move("concat")
            net.element_wise(Kind.LAYER_NORM)
            net.conv(net.channels // 2)
        channels, windows = net.channels, max(1, net.pixels // window**2)
        for block in range(depth):
            shifted = block % 2 == 1 and windows > 1
            net.element_wise(Kind.LAYER_NORM)
            net.move("transpose", net.elements * (2 if shifted else 1))
            for _ in range(3):
                net.conv(channels)
            net.attend(channels // 32, window**2, 32, groups=windows, biased=2 if shifted else 1)
            net.conv(channels)
            net.move("transpose", net.elements * (2 if shifted else 1))
            net.element_wise(Kind.ADD)
            net.element_wise(Kind.LAYER_NORM)
            net.mlp(4 * channels, _gelu)
    net.element_wise(Kind.LAYER_NORM)
    net.mean()
    net.head()
    return net.ops


def cvt(depths: Sequence[int], resolution: int) -> list[AttentionOp]:
    """CvT-13 and -21 (arXiv 2103.15808): queries, keys and values by depthwise convolutions, these two at stride 2."""
    net = TransformerList(3, resolution, resolution)
    for stage, (width, depth) in enumerate(zip((64, 192, 384), depths, strict=True)):
        if stage == 0:
            net.conv(width, 7, 4, 2)
        else:
            net.conv(width, 3, 2)
        side, classes = net.height, int(stage == 2)
        net.element_wise(Kind.LAYER_NORM)
        net.tokens(classes)
        tokens = net.pixels
        for _ in range(depth):
            net.element_wise(Kind.LAYER_NORM)
            keys = 0
            for stride in (1, 2, 2):
                image = TransformerList(width, side, side)
                image.depthwise(3, stride)
                image.tokens(classes)
                image.linear(width)
                keys = image.pixels
                net.ops += image.ops
            net.attend(width // 64, keys, 64)
            net.linear(width)
            net.element_wise(Kind.ADD)
            net.element_wise(Kind.LAYER_NORM)
            net.mlp(4 * width, _gelu)
        net.height, net.width = (side, side) if not classes else (tokens, 1)
    net.element_wise(Kind.LAYER_NORM)
    net.head()
    return net.ops


def mit(widths: Sequence[int], depths: Sequence[int], resolution: int = 224) -> list[AttentionOp]:
    """Mix Transformers of SegFormer (arXiv 2105.15203): keys and values of a reduced image, depthwise in the MLP."""
    net = TransformerList(3, resolution, resolution)
    for width, depth, (patch, stride), reduction, heads in zip(
        widths, depths, ((7, 4), (3, 2), (3, 2), (3, 2)), (8, 4, 2, 1), (1, 2, 5, 8), strict=True
    ):
        net.conv(width, patch, stride)
        net.element_wise(Kind.LAYER_NORM)
        for _ in range(depth):
            net.element_wise(Kind.LAYER_NORM)
            net.conv(width)  # queries
            reduced = TransformerList(width, net.height, net.width)
            if reduction > 1:
                reduced.conv(width, reduction, reduction, 0)
                reduced.element_wise(Kind.LAYER_NORM)
            reduced.conv(width)
            reduced.conv(width)
            net.ops += reduced.ops
            net.attend(heads, reduced.pixels, width // heads)
            net.conv(width)
            net.element_wise(Kind.ADD)
            net.element_wise(Kind.LAYER_NORM)
            net.mlp(4 * width, _mix)
        net.element_wise(Kind.LAYER_NORM)
    net.mean()
    net.head()
    return net.ops


def _mix(net: TransformerList) -> None:
    net.depthwise(3)
    net.element_wise(Kind.GELU)


def mobilevit(widths: Sequence[int], hidden: Sequence[int], expansion: int, resolution: int = 256) -> list[AttentionOp]:
    """MobileViT (arXiv 2110.02178), swish throughout. widths: of the stem, the stages, and the last convolution."""
    net = TransformerList(3, resolution, resolution)
    stem, *stages, last = widths
    net.conv(stem, 3, 2)
    net.swish()
    for stage, (width, blocks) in enumerate(zip(stages, (1, 3, 1, 1, 1), strict=True)):
        for block in range(blocks):
            stride = 2 if stage and block == 0 else 1
            residual = stride == 1 and net.channels == width
            net.conv(divisible(expansion * net.channels))
            net.swish()
            net.depthwise(3, stride)
            net.swish()
            net.conv(width)
            if residual:
                net.element_wise(Kind.ADD)
        if stage >= 2:
            _mobilevit_layers(net, hidden[stage - 2], (2, 4, 3)[stage - 2])
    net.conv(last)
    net.swish()
    net.mean()
    net.head()
    return net.ops


def _mobilevit_layers(net: TransformerList, width: int, depth: int) -> None:
    """Attention over the pixels that stand at one place of the 2x2 patches."""
    channels, side = net.channels, net.height
    net.conv(channels, 3)
    net.swish()
    net.conv(width)
    net.move("transpose")
    for _ in range(depth):
        net.element_wise(Kind.LAYER_NORM)
        for _ in range(3):
            net.conv(width)
        net.attend(4, net.pixels // 4, width // 4, groups=4)
        net.conv(width)
        net.element_wise(Kind.ADD)
        net.element_wise(Kind.LAYER_NORM)
        net.mlp(2 * width, TransformerList.swish)
    net.element_wise(Kind.LAYER_NORM)
    net.move("transpose")
    net.conv(channels)
    net.swish()
    net.channels, net.height, net.width = 2 * channels, side, side
    net.move("concat")
    net.conv(channels, 3)
    net.swish()


def efficientformer(
    widths: Sequence[int], depths: Sequence[int], attending: int, resolution: int = 224
) -> list[AttentionOp]:
    """EfficientFormer (arXiv 2206.01191): pooling as the mixer, attention in the last `attending` blocks."""
    net = TransformerList(3, resolution, resolution)
    net.conv(widths[0] // 2, 3, 2)
    net.conv(widths[0], 3, 2)
    for stage, (width, depth) in enumerate(zip(widths, depths, strict=True)):
        if stage:
            net.conv(width, 3, 2)
        for block in range(depth):
            if stage == 3 and block >= depth - attending:
                net.element_wise(Kind.LAYER_NORM)
                net.linear(8 * (2 * 32 + 128))
                net.attend(8, net.pixels, 32, value_width=128, biased=1)
                net.linear(width)
                net.scaled()
                net.element_wise(Kind.ADD)
                net.element_wise(Kind.LAYER_NORM)
            else:
                net.ops.append(MovedElements("pool", net.elements, 3, net.elements))
                net.element_wise(Kind.ADD)  # the pooled minus the tensor itself
                net.scaled()
                net.element_wise(Kind.ADD)
            out = net.channels
            net.conv(4 * width)
            net.element_wise(Kind.GELU)
            net.conv(out)
            net.scaled()
            net.element_wise(Kind.ADD)
    net.element_wise(Kind.LAYER_NORM)
    net.mean()
    net.head(2)
    return net.ops


MIT_WIDE = (64, 128, 320, 512)
TRANSFORMERS: Mapping[str, Callable[[], list[AttentionOp]]] = {
    "cvt-13": lambda: cvt((1, 2, 10), 224),
    "cvt-13-384": lambda: cvt((1, 2, 10), 384),
    "cvt-21": lambda: cvt((1, 4, 16), 224),
    "cvt-21-384": lambda: cvt((1, 4, 16), 384),
    "deit-base-distilled-patch16-224": lambda: vit(768, 12, 16, 224, class_tokens=2, heads=2),
    "deit-base-distilled-patch16-384": lambda: vit(768, 12, 16, 384, class_tokens=2, heads=2),
    "deit-small-distilled-patch16-224": lambda: vit(384, 12, 16, 224, class_tokens=2, heads=2),
    "deit-tiny-distilled-patch16-224": lambda: vit(192, 12, 16, 224, class_tokens=2, heads=2),
    "efficientformer-l1-300": lambda: efficientformer((48, 96, 224, 448), (3, 2, 6, 4), 1),
    "efficientformer-l3-300": lambda: efficientformer((64, 128, 320, 512), (4, 4, 12, 6), 4),
    "efficientformer-l7-300": lambda: efficientformer((96, 192, 384, 768), (6, 6, 18, 8), 8),
    "mit-b0": lambda: mit((32, 64, 160, 256), (2, 2, 2, 2)),
    "mit-b1": lambda: mit(MIT_WIDE, (2, 2, 2, 2)),
    "mit-b2": lambda: mit(MIT_WIDE, (3, 4, 6, 3)),
    "mit-b3": lambda: mit(MIT_WIDE, (3, 4, 18, 3)),
    "mit-b4": lambda: mit(MIT_WIDE, (3, 8, 27, 3)),
    "mit-b5": lambda: mit(MIT_WIDE, (3, 6, 40, 3)),
    "mobilevit-small": lambda: mobilevit((16, 32, 64, 96, 128, 160, 640), (144, 192, 240), 4),
    "mobilevit-x-small": lambda: mobilevit((16, 32, 48, 64, 80, 96, 384), (96, 120, 144), 4),
    "mobilevit-xx-small": lambda: mobilevit((16, 16, 24, 48, 64, 80, 320), (64, 80, 96), 2),
    "swin-base-patch4-window12-384": lambda: swin(128, (2, 2, 18, 2), 12, 384),
    "swin-base-patch4-window7-224": lambda: swin(128, (2, 2, 18, 2), 7, 224),
    "swin-small-patch4-window7-224": lambda: swin(96, (2, 2, 18, 2), 7, 224),
    "swin-tiny-patch4-window7-224": lambda: swin(96, (2, 2, 6, 2), 7, 224),
    "vit-base-patch16-224-in21k": lambda: vit(768, 12, 16, 224),
    "vit-base-patch16-384": lambda: vit(768, 12, 16, 384),
    "vit-base-patch32-224-in21k": lambda: vit(768, 12, 32, 224),
    "vit-base-patch32-384": lambda: vit(768, 12, 32, 384),
}
"""Name in the A76 table -> its layers."""


def transformer(name: str) -> list[AttentionOp]:
    """The layers of a network of the A76 table. Raises `UnknownName`."""
    if name not in TRANSFORMERS:
        raise UnknownName("vision transformer", name, TRANSFORMERS)
    return TRANSFORMERS[name]()


def macs(ops: Sequence[AttentionOp]) -> int:
    """Multiply-accumulates, those between computed tensors included."""
    counted = 0
    for op in ops:
        match op:
            case Kernel():
                counted += op.spec.macs
            case GroupedConv() | MatrixProduct():
                counted += op.macs
    return counted
