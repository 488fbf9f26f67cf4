"""MobileNetV2's inverted bottleneck, the blocks of the ProxylessNAS space (arXiv 1812.00332).

1x1 expand, k x k depthwise, 1x1 project, each with BatchNorm, ReLU6 after the first two unless the space names
another activation; residual where the shapes allow. Stem 3x3 stride 2 and one expansion-1 block; head 1x1 mix, pool,
classifier. The same blocks make MobileNetV2 (arXiv 1801.04381), MnasNet-B1 and EfficientNet-Lite. An expansion of 1
keeps its 1x1 convolution in every block but the stem's, so that it can be a slice of a wider one.

The depthwise convolution c has two quadratic forms, in which the norm belongs to the convolution and the activation
comes last: c(x) * (1 + a(x)) and c(x) + a(x) * b(x) (arXiv 2311.17956). Before training a is 0, by the factor of its
norm, so that the block computes what the plain one does; gradients move that factor first (arXiv 2405.03192).
"""

from __future__ import annotations

from search_space.blocks.graph import Graph
from search_space.errors import UserError
from search_space.layer import Kind
from search_space.space import PROJECTION, BlockChoice, SearchSpace, Stage

STEM_STRIDE = 2

QUADRATIC = (2, 3)
LAYERS = {"norm": (Kind.BATCH_NORM,), "activation": (Kind.RELU6, Kind.HARD_SWISH, Kind.GELU)}


def check(space: SearchSpace) -> None:
    """Raise `UserError` unless the space names the width of the head."""
    if space.head_width < 1:
        raise UserError(f"space '{space.name}': family mbconv needs head_width, a width above 0")


def stem(g: Graph, space: SearchSpace) -> Graph:
    """3x3 convolution with `stem_stride` (2), then a block of expansion 1 to `first_width`, if that is not 0."""
    g.conv("conv", space.stem_width, kernel_size=3, stride=space.stem_stride or STEM_STRIDE, bias=False)
    g.unary("norm", g.norm)
    g.unary("act", g.activation)
    return _depthwise_and_project(g, kernel_size=3, width=space.first_width, stride=1) if space.first_width else g


def transition(g: Graph, stage: Stage) -> Graph:
    """Nothing: the first block of a stage strides."""
    return g


def block(g: Graph, choice: BlockChoice, width: int, stride: int) -> Graph:
    """Expand, depthwise with the stride, project; residual at stride 1 between equal widths.

    `PROJECTION` is a 1x1 convolution with the stride and a norm.
    """
    in_width = g.in_shape[0]
    if choice == PROJECTION:
        g.conv("shortcut", width, stride=stride, bias=False)
        g.unary("shortcut_norm", g.norm)
        return g
    g.conv("expand", choice.expand_ratio * in_width, bias=False)
    g.unary("expand_norm", g.norm)
    g.unary("expand_act", g.activation)
    _depthwise_and_project(g, choice.kernel_size, width, stride, choice.branches)
    if stride == 1 and in_width == width:
        g.residual("residual", skip=g.INPUT)
    return g


def _depthwise_and_project(g: Graph, kernel_size: int, width: int, stride: int, branches: int = 1) -> Graph:
    x = g.last

    def term(name: str, constant: float | None = None) -> int:
        """A further depthwise convolution with its norm."""
        g.dwconv(name, kernel_size, stride, bias=False, x=x, like="depthwise")
        return g.unary(f"{name}_norm", g.norm, constant=constant)

    g.dwconv("depthwise", kernel_size, stride, bias=False)
    c = g.unary("depthwise_norm", g.norm)
    if branches == 2:
        g.binary("gated", Kind.MUL, term("gate", constant=1.0), c)
    elif branches == 3:
        product = g.binary("product", Kind.MUL, term("quad_a", constant=0.0), term("quad_b"))
        g.binary("quadratic", Kind.ADD, product, c)
    g.unary("depthwise_act", g.activation)
    g.conv("project", width, bias=False)
    g.unary("project_norm", g.norm)
    return g


def head(g: Graph, space: SearchSpace, num_classes: int) -> Graph:
    """1x1 convolution to `head_width`, mean over all pixels, classifier."""
    g.conv("mix", space.head_width, bias=False)
    g.unary("norm", g.norm)
    g.unary("act", g.activation)
    g.unary("pool", Kind.GLOBAL_POOL)
    g.linear("classifier", num_classes)
    return g
