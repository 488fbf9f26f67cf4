"""QuadraNet's block with one depthwise convolution in place of three: the linear twin of Fig. 5 (arXiv 2311.17956)."""

from __future__ import annotations

from search_space.blocks.graph import Graph
from search_space.blocks.quadra import LAYERS, check, depthwise, frame, head, pointwise, stem, transition
from search_space.space import BlockChoice

__all__ = ["LAYERS", "block", "check", "head", "stem", "transition"]


def block(g: Graph, choice: BlockChoice, width: int, stride: int) -> Graph:
    """QuadraNet's two residual branches, the first with one depthwise convolution."""
    return frame(g, choice, width, depthwise=linear_depthwise, expand=pointwise, project=pointwise)


def linear_depthwise(g: Graph, kernel_size: int) -> int:
    """One depthwise convolution, where QuadraNet has a(x) * b(x) + c(x)."""
    return depthwise(g, "depthwise", kernel_size)
