"""QuadraNet's block (arXiv 2311.17956): a quadratic depthwise neuron and an FFN, both pre-normed residuals.

x += g1 * (A(n) * B(n) + C(n)),  n = LayerNorm(x),  A, B, C depthwise k x k with bias;
x += g2 * W2(GELU(W1(LayerNorm(x)))).  Stem, down-sampling and head are ConvNeXt's.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from search_space.blocks.graph import Graph
from search_space.errors import UserError
from search_space.layer import Kind

if TYPE_CHECKING:
    from search_space.space import BlockChoice, SearchSpace, Stage


def check(space: SearchSpace) -> None:
    if space.stem_width != space.stages[0].width:
        raise UserError(
            f"space '{space.name}': stem_width={space.stem_width} must equal the first stage's width "
            f"{space.stages[0].width}; its blocks are residual"
        )
    if any(stage.stride != 1 for stage in space.stages):
        raise UserError(f"space '{space.name}': stages of family quadra have stride 1; they halve the map between them")


def stem(g: Graph, space: SearchSpace) -> Graph:
    g.conv("conv", space.stem_width, kernel_size=4, stride=4, padding=0, bias=True)
    g.unary("norm", Kind.LAYER_NORM)
    return g


def transition(g: Graph, stage: Stage) -> Graph:
    g.unary("norm", Kind.LAYER_NORM)
    g.conv("conv", stage.width, kernel_size=2, stride=2, padding=0, bias=True)
    return g


def block(g: Graph, choice: BlockChoice, width: int, stride: int) -> Graph:
    x = g.unary("norm1", Kind.LAYER_NORM)
    a = g.dwconv("quad_a", choice.kernel_size, bias=True, x=x)
    b = g.dwconv("quad_b", choice.kernel_size, bias=True, x=x)
    c = g.dwconv("quad_c", choice.kernel_size, bias=True, x=x)
    ab = g.binary("product", Kind.MUL, a, b)
    g.binary("quadratic", Kind.ADD, ab, c)
    g.unary("scale1", Kind.SCALE)
    x = g.residual("residual1", skip=g.INPUT)
    g.unary("norm2", Kind.LAYER_NORM)
    g.conv("expand", choice.expand_ratio * width, bias=True)
    g.unary("act", Kind.GELU)
    g.conv("project", width, bias=True)
    g.unary("scale2", Kind.SCALE)
    g.residual("residual2", skip=x)
    return g


def head(g: Graph, space: SearchSpace, num_classes: int) -> Graph:
    g.unary("pool", Kind.GLOBAL_POOL)
    g.unary("norm", Kind.LAYER_NORM)
    g.linear("classifier", num_classes)
    return g
