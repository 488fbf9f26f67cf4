"""Residual branches in a list of nodes: which layers a factor on a tensor can be moved into.

g * conv(x) is a convolution with scaled weights, g * norm(x) a batch norm with scaled factors and offsets;
g * (a * b + c) scales a and c. Used to fold layer scales on export and to start residual branches small.
"""

from __future__ import annotations

from collections.abc import Sequence

from search_space.layer import Kind, Node


def scalable(nodes: Sequence[Node], position: int) -> list[int]:
    """Positions of the convolutions and batch norms whose weights scale node `position`'s output; empty for none.

    Only nodes with a single reader are passed, so that nothing else changes. Below 0 are the segment's inputs.
    """
    if position < 0 or sum(node.inputs.count(position) for node in nodes) > 1:
        return []
    node = nodes[position]
    match node.spec.kind:
        case Kind.CONV | Kind.DWCONV | Kind.BATCH_NORM:
            return [position]
        case Kind.MUL | Kind.SCALE:
            return scalable(nodes, node.inputs[0])
        case Kind.ADD:
            parts = [scalable(nodes, x) for x in node.inputs]
            return [p for part in parts for p in part] if all(parts) else []
        case _:
            return []


def branch_ends(nodes: Sequence[Node]) -> list[list[int]]:
    """For every residual branch, the convolutions and batch norms that scale its output."""
    return [scalable(nodes, node.inputs[1]) for node in nodes if node.residual]
