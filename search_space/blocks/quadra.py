"""QuadraNet's block (arXiv 2311.17956): a quadratic depthwise neuron and an FFN, both pre-normed residuals.

x += g1 * (A(n) * B(n) + C(n)),  n = LayerNorm(x),  A, B, C depthwise k x k with bias;
x += g2 * W2(GELU(W1(LayerNorm(x)))).  Stem, down-sampling and head are ConvNeXt's.
Its relatives (`linear_dw`, `quadra_fc1`, `quadra_fc12`) put other layers in this frame.
"""

from __future__ import annotations

from collections.abc import Callable

from search_space.blocks.graph import Graph
from search_space.errors import UserError
from search_space.layer import Kind
from search_space.space import PROJECTION, BlockChoice, SearchSpace, Stage


def check(space: SearchSpace) -> None:
    """Raise `UserError` for a stem of another width than the first stage, and for what this family does not have."""
    if space.stem_width != space.stages[0].width:
        raise UserError(
            f"space '{space.name}': stem_width={space.stem_width} must equal the first stage's width "
            f"{space.stages[0].width}; its blocks are residual"
        )
    if any(stage.stride != 1 for stage in space.stages):
        raise UserError(
            f"space '{space.name}': stages of family {space.family} have stride 1; they halve the map between them"
        )
    if PROJECTION in space.choices:
        raise UserError(
            f"space '{space.name}': family {space.family} has no block {PROJECTION}; expansions are 1 or more"
        )
    for field in ("norm_eps", "stem_stride"):
        if getattr(space, field) is not None:
            raise UserError(f"space '{space.name}': family {space.family} has no {field}; leave it out")


def stem(g: Graph, space: SearchSpace) -> Graph:
    """ConvNeXt's: 4x4 patches, then LayerNorm."""
    g.conv("conv", space.stem_width, kernel_size=4, stride=4, padding=0, bias=True)
    g.unary("norm", Kind.LAYER_NORM)
    return g


def transition(g: Graph, stage: Stage) -> Graph:
    """ConvNeXt's: LayerNorm, then 2x2 with stride 2 to the stage's width."""
    g.unary("norm", Kind.LAYER_NORM)
    g.conv("conv", stage.width, kernel_size=2, stride=2, padding=0, bias=True)
    return g


def block(g: Graph, choice: BlockChoice, width: int, stride: int) -> Graph:
    """The frame around a quadratic depthwise neuron and a plain FFN."""
    return frame(g, choice, width, depthwise=quadratic_depthwise, expand=pointwise, project=pointwise)


def frame(
    g: Graph,
    choice: BlockChoice,
    width: int,
    *,
    depthwise: Callable[[Graph, int], int],
    expand: Callable[[Graph, str, int], int],
    project: Callable[[Graph, str, int], int],
) -> Graph:
    """The two residual branches. depthwise(g, kernel size); expand and project (g, name, output channels)."""
    g.unary("norm1", Kind.LAYER_NORM)
    depthwise(g, choice.kernel_size)
    g.unary("scale1", Kind.SCALE)
    x = g.residual("residual1", skip=g.INPUT)
    g.unary("norm2", Kind.LAYER_NORM)
    expand(g, "expand", choice.expand_ratio * width)
    g.unary("act", Kind.GELU)
    project(g, "project", width)
    g.unary("scale2", Kind.SCALE)
    g.residual("residual2", skip=x)
    return g


def quadratic_depthwise(g: Graph, kernel_size: int) -> int:
    """a(x) * b(x) + c(x), each depthwise."""
    x = g.last
    a, b, c = (g.dwconv(f"quad_{part}", kernel_size, bias=True, x=x) for part in "abc")
    return g.binary("quadratic", Kind.ADD, g.binary("product", Kind.MUL, a, b), c)


def pointwise(g: Graph, name: str, out_channels: int) -> int:
    """One 1x1 convolution with bias."""
    return g.conv(name, out_channels, bias=True)


def quadratic_pointwise(g: Graph, name: str, out_channels: int) -> int:
    """a(x) * b(x) + c(x), each a 1x1 convolution: three times the cost of one (Table V)."""
    x = g.last
    a, b, c = (g.conv(f"{name}_{part}", out_channels, bias=True, x=x) for part in "abc")
    return g.binary(f"{name}_quadratic", Kind.ADD, g.binary(f"{name}_product", Kind.MUL, a, b), c)


def head(g: Graph, space: SearchSpace, num_classes: int) -> Graph:
    """Mean over all pixels, LayerNorm, classifier."""
    g.unary("pool", Kind.GLOBAL_POOL)
    g.unary("norm", Kind.LAYER_NORM)
    g.linear("classifier", num_classes)
    return g
