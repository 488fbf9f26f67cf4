"""Which nodes of a block one lean layer computes: found by their kinds and connections, not by their names.

LayerNorm or GELU -> neuron [-> scale], where a neuron is one convolution, or A * B + C of three equal ones.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from search_space.layer import SEGMENT_INPUT, Kind, Node


@dataclass(frozen=True, slots=True)
class LeanNodes:
    """The nodes of a lean layer that have a module with something to compute; convolutions: one, or A, B, C."""

    pre: Node
    convolutions: tuple[Node, ...]
    scale: Node | None

    @property
    def inputs(self) -> tuple[int, ...]:
        """Positions that the layer reads, as `Node.inputs`."""
        return self.pre.inputs

    @property
    def parts(self) -> tuple[Node, ...]:
        """All its nodes, in the order in which they are computed."""
        return (self.pre, *self.convolutions) if self.scale is None else (self.pre, *self.convolutions, self.scale)


Step = Node | LeanNodes


def with_lean_layers(nodes: Sequence[Node]) -> list[tuple[int, Step]]:
    """The nodes with their positions; those of a lean layer are one step, at the position of the last of them."""
    steps: dict[int, Step] = dict(enumerate(nodes))
    for end in reversed(range(len(nodes))):
        match = _lean_layer(nodes, end) if end in steps else None
        if match is not None:
            steps[end], inner = match
            for i in inner:
                del steps[i]
    return sorted(steps.items())


def _lean_layer(nodes: Sequence[Node], end: int) -> tuple[LeanNodes, set[int]] | None:
    """The lean layer whose value is node `end`, and the positions of its other nodes, which nothing else may read."""
    scale = nodes[end] if nodes[end].spec.kind is Kind.SCALE else None
    last = end if scale is None else scale.inputs[0]
    neuron = _neuron(nodes, last)
    if neuron is None:
        return None
    convolutions, inside = neuron
    pre = convolutions[0].inputs[0]
    inside = (inside | {last, pre}) - {end}
    if _kind(nodes, pre) not in (Kind.LAYER_NORM, Kind.GELU):
        return None
    if any(inside & {*node.inputs} for i, node in enumerate(nodes) if i not in inside | {end}):
        return None
    return LeanNodes(nodes[pre], convolutions, scale), inside


def _neuron(nodes: Sequence[Node], end: int) -> tuple[tuple[Node, ...], set[int]] | None:
    """The convolutions of the neuron whose value is node `end`, and the positions of its nodes before that one."""
    if _kind(nodes, end) in (Kind.CONV, Kind.DWCONV):
        return (nodes[end],), set()
    if _kind(nodes, end) is not Kind.ADD:
        return None
    for product, c in (nodes[end].inputs, nodes[end].inputs[::-1]):
        if _kind(nodes, product) is Kind.MUL:
            positions = (*nodes[product].inputs, c)
            convolutions = tuple(nodes[i] for i in positions if _kind(nodes, i) in (Kind.CONV, Kind.DWCONV))
            if len(convolutions) == 3 and len({(node.spec, node.inputs) for node in convolutions}) == 1:
                return convolutions, {*positions, product}
    return None


def _kind(nodes: Sequence[Node], position: int) -> Kind | None:
    """None for the block's input, and for an addition that drops branches."""
    if position == SEGMENT_INPUT or nodes[position].residual:
        return None
    return nodes[position].spec.kind
