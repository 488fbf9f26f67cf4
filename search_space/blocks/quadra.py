"""QuadraNet's block (arXiv 2311.17956): a quadratic depthwise neuron and an FFN, both pre-normed residuals.

x += g1 * (A(n) * B(n) + C(n)),  n = LayerNorm(x),  A, B, C depthwise k x k with bias;
x += g2 * W2(GELU(W1(LayerNorm(x)))).  Stem, down-sampling and head are ConvNeXt's.
Its relatives (`linear_dw`, `quadra_fc1`, `quadra_fc12`) put other layers in this frame.

With BatchNorm a norm follows every convolution instead, with nothing between, so that it folds into the weights, and
its factor is the layer scale:

x += BN(A x) * BN(B x) + BN(C x);  x += BN(W2 act(BN(W1 x))).
"""

from __future__ import annotations

from collections.abc import Callable

from search_space.blocks.graph import Graph
from search_space.errors import UserError
from search_space.layer import Kind
from search_space.space import PROJECTION, BlockChoice, SearchSpace, Stage

LAYERS = {
    "norm": (Kind.LAYER_NORM, Kind.BATCH_NORM),
    "activation": (Kind.GELU, Kind.HARD_SWISH, Kind.RELU6),
}


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
    for field, has in (("norm_eps", space.norm == Kind.BATCH_NORM), ("stem_stride", False)):
        if getattr(space, field) is not None and not has:
            raise UserError(f"space '{space.name}': family {space.family} has no {field}; leave it out")


def stem(g: Graph, space: SearchSpace) -> Graph:
    """ConvNeXt's: 4x4 patches, then the norm."""
    g.conv("conv", space.stem_width, kernel_size=4, stride=4, padding=0, bias=_norms_first(g))
    g.unary("norm", g.norm)
    return g


def transition(g: Graph, stage: Stage) -> Graph:
    """ConvNeXt's: LayerNorm, then 2x2 with stride 2 to the stage's width; BatchNorm follows."""
    _norm_first(g, "norm")
    g.conv("conv", stage.width, kernel_size=2, stride=2, padding=0, bias=_norms_first(g))
    if not _norms_first(g):
        g.unary("norm", g.norm)
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
    _norm_first(g, "norm1")
    depthwise(g, choice.kernel_size)
    _layer_scale(g, "scale1")
    x = g.residual("residual1", skip=g.INPUT)
    _norm_first(g, "norm2")
    expand(g, "expand", choice.expand_ratio * width)
    g.unary("act", g.activation)
    project(g, "project", width)
    _layer_scale(g, "scale2")
    g.residual("residual2", skip=x)
    return g


def _norms_first(g: Graph) -> bool:
    """Whether norms stand at the head of a branch, as LayerNorm does, and not behind every convolution."""
    return g.norm is not Kind.BATCH_NORM


def _norm_first(g: Graph, name: str) -> None:
    if _norms_first(g):
        g.unary(name, g.norm)


def _layer_scale(g: Graph, name: str) -> None:
    if _norms_first(g):
        g.unary(name, Kind.SCALE)


def depthwise(g: Graph, name: str, kernel_size: int, x: int | None = None) -> int:
    """One depthwise convolution, with its bias or BatchNorm."""
    convolution = g.dwconv(name, kernel_size, bias=_norms_first(g), x=x)
    return convolution if _norms_first(g) else g.unary(f"{name}_norm", g.norm)


def quadratic_depthwise(g: Graph, kernel_size: int) -> int:
    """a(x) * b(x) + c(x), each depthwise."""
    x = g.last
    a, b, c = (depthwise(g, f"quad_{part}", kernel_size, x) for part in "abc")
    return g.binary("quadratic", Kind.ADD, g.binary("product", Kind.MUL, a, b), c)


def pointwise(g: Graph, name: str, out_channels: int, x: int | None = None) -> int:
    """One 1x1 convolution, with its bias or BatchNorm."""
    convolution = g.conv(name, out_channels, bias=_norms_first(g), x=x)
    return convolution if _norms_first(g) else g.unary(f"{name}_norm", g.norm)


def quadratic_pointwise(g: Graph, name: str, out_channels: int) -> int:
    """a(x) * b(x) + c(x), each a 1x1 convolution: three times the cost of one (Table V)."""
    x = g.last
    a, b, c = (pointwise(g, f"{name}_{part}", out_channels, x) for part in "abc")
    return g.binary(f"{name}_quadratic", Kind.ADD, g.binary(f"{name}_product", Kind.MUL, a, b), c)


def head(g: Graph, space: SearchSpace, num_classes: int) -> Graph:
    """Mean over all pixels, LayerNorm if that is the norm, classifier."""
    g.unary("pool", Kind.GLOBAL_POOL)
    _norm_first(g, "norm")
    g.linear("classifier", num_classes)
    return g
