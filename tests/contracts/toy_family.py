"""A block family that stands outside the package: plain convolutions with a ReLU6, for the contract tests."""

from __future__ import annotations

from search_space import BlockChoice, Kind, SearchSpace, Stage, UserError
from search_space.blocks.graph import Graph


def check(space: SearchSpace) -> None:
    """Raise `UserError` for a head width, which the family has no layer for."""
    if space.head_width:
        raise UserError(f"space '{space.name}': family {space.family} has no head layer, head_width must be 0")


def stem(g: Graph, space: SearchSpace) -> Graph:
    """3x3, stride 2."""
    g.conv("conv", space.stem_width, kernel_size=3, stride=2, bias=True)
    return g


def transition(g: Graph, stage: Stage) -> Graph:
    """Nothing: the first block of a stage strides."""
    return g


def block(g: Graph, choice: BlockChoice, width: int, stride: int) -> Graph:
    """k x k to `expand_ratio` times the width, ReLU6, 1x1 back; residual where the shapes allow."""
    in_width = g.in_shape[0]
    g.conv("wide", choice.expand_ratio * width, choice.kernel_size, stride, bias=True)
    g.unary("act", Kind.RELU6)
    g.conv("narrow", width, bias=True)
    if stride == 1 and in_width == width:
        g.residual("residual", skip=g.INPUT)
    return g


def head(g: Graph, space: SearchSpace, num_classes: int) -> Graph:
    """Mean over all pixels and a linear classifier."""
    g.unary("pool", Kind.GLOBAL_POOL)
    g.linear("classifier", num_classes)
    return g
