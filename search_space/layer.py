"""The layer vocabulary that profiles, predictors, builders and the supernet share.

A `LayerSpec` is one layer's kind and sizes and nothing else (no name, no position), so that
it can key a row of a device profile. A `Node` places a layer in a block. Not for weights.
"""

from dataclasses import dataclass
from enum import StrEnum


class Kind(StrEnum):
    """Every layer a network of this project is made of."""

    CONV = "conv"  # dense convolution, kernel 1 included
    DWCONV = "dwconv"  # depthwise convolution, out_channels == in_channels
    LINEAR = "linear"
    LAYER_NORM = "layer_norm"  # over channels, at every pixel
    BATCH_NORM = "batch_norm"
    RELU6 = "relu6"
    GELU = "gelu"
    HARD_SWISH = "hard_swish"  # x * ReLU6(x + 3) / 6
    SCALE = "scale"  # learnable factor per channel (layer scale); folded into weights on export
    ADD = "add"
    MUL = "mul"  # element-wise product of two tensors
    GLOBAL_POOL = "global_pool"  # mean over all pixels
    POOL = "pool"  # maximum or mean over a window; priced in foreign networks, in no space of this project
    CONCAT = "concat"  # tensors joined along channels; in_channels == out_channels == their sum; likewise
    TRANSPOSE = "transpose"  # elements moved to other places, as in a channel shuffle; likewise
    SOFTMAX = "softmax"  # over channels, at every pixel; likewise


WEIGHTED = frozenset({Kind.CONV, Kind.DWCONV, Kind.LINEAR})


@dataclass(frozen=True, slots=True)
class LayerSpec:
    """One layer's kind and sizes; batch 1.

    The input is (in_channels, height, width); `linear` and what follows a global pool has
    height = width = 1.
    """

    kind: Kind
    in_channels: int
    out_channels: int
    height: int
    width: int
    kernel_size: int = 1
    stride: int = 1
    padding: int = 0
    bias: bool = False

    def _pixels_after(self, size: int) -> int:
        if self.kind is Kind.GLOBAL_POOL:
            return 1
        return (size + 2 * self.padding - self.kernel_size) // self.stride + 1

    @property
    def out_height(self) -> int:
        """Rows of the output, 1 after a global pool."""
        return self._pixels_after(self.height)

    @property
    def out_width(self) -> int:
        """Columns of the output, 1 after a global pool."""
        return self._pixels_after(self.width)

    @property
    def in_elements(self) -> int:
        """Elements of one input tensor (add and mul read two of them)."""
        return self.in_channels * self.height * self.width

    @property
    def out_elements(self) -> int:
        """Elements of the output tensor."""
        return self.out_channels * self.out_height * self.out_width

    @property
    def macs(self) -> int:
        """Multiply-accumulates; norms, activations and element-wise layers count 0, as in the papers."""
        if self.kind not in WEIGHTED:
            return 0
        inputs = 1 if self.kind is Kind.DWCONV else self.in_channels
        return self.kernel_size**2 * inputs * self.out_elements

    @property
    def weights(self) -> int:
        """Learnable values without biases."""
        match self.kind:
            case Kind.CONV | Kind.LINEAR:
                return self.kernel_size**2 * self.in_channels * self.out_channels
            case Kind.DWCONV:
                return self.kernel_size**2 * self.out_channels
            case Kind.LAYER_NORM | Kind.BATCH_NORM:
                return 2 * self.out_channels
            case Kind.SCALE:
                return self.out_channels
            case _:
                return 0

    @property
    def params(self) -> int:
        """Learnable values, biases included."""
        return self.weights + (self.out_channels if self.bias else 0)


SEGMENT_INPUT = -1
BATCH_NORM_EPS = 1e-3  # ProxylessNAS' and EfficientNet's


@dataclass(frozen=True, slots=True)
class Node:
    """A layer in a block: its name there, and which earlier nodes it reads.

    `inputs` holds positions in the block's list of nodes; `SEGMENT_INPUT` is the block's input.
    `residual` marks the addition that closes a residual branch (skip first, branch second).
    eps: what a BatchNorm adds to the variance. constant: what a BatchNorm puts out, whatever it reads, before it is
    trained; None for one that normalises from the start. like: a layer of the same sizes whose trained weights are
    this one's at first, where a network starts from trained weights that lack this layer.
    """

    name: str
    spec: LayerSpec
    inputs: tuple[int, ...]
    residual: bool = False
    eps: float = BATCH_NORM_EPS
    constant: float | None = None
    like: str = ""
