"""QuadraNet's block with both FFN layers quadratic: '+Conv1+Conv2' of Table V (arXiv 2311.17956)."""

from __future__ import annotations

from search_space.blocks.graph import Graph
from search_space.blocks.quadra import (
    LAYERS,
    check,
    frame,
    head,
    quadratic_depthwise,
    quadratic_pointwise,
    stem,
    transition,
)
from search_space.space import BlockChoice

__all__ = ["LAYERS", "block", "check", "head", "stem", "transition"]


def block(g: Graph, choice: BlockChoice, width: int, stride: int) -> Graph:
    """The frame around a quadratic depthwise neuron and an FFN whose two layers are quadratic."""
    return frame(
        g, choice, width, depthwise=quadratic_depthwise, expand=quadratic_pointwise, project=quadratic_pointwise
    )
