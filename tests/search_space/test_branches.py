"""Which convolutions a factor on a tensor can be moved into."""

from __future__ import annotations

from search_space import Kind, LayerSpec, Node
from search_space.branches import scalable

CHANNELS = 4


def node(kind: Kind, *inputs: int) -> Node:
    return Node(kind.value, LayerSpec(kind, CHANNELS, CHANNELS, 8, 8), inputs)


def test_a_factor_moves_into_the_convolutions_behind_it() -> None:
    """a * b + c: into a and c."""
    convs = [node(Kind.DWCONV, -1) for _ in range(3)]
    nodes = [*convs, node(Kind.MUL, 0, 1), node(Kind.ADD, 3, 2), node(Kind.SCALE, 4)]
    assert scalable(nodes, 4) == [0, 2]
    assert scalable([*nodes, node(Kind.GELU, 4)], 4) == [], "something else reads it"
    assert scalable([*convs, node(Kind.ADD, 0, -1)], 3) == [], "the input is not scaled with it"


def test_a_factor_moves_into_the_batch_norms_behind_it() -> None:
    convs = [node(Kind.DWCONV, -1) for _ in range(3)]
    norms = [node(Kind.BATCH_NORM, i) for i in range(3)]
    nodes = [*convs, *norms, node(Kind.MUL, 3, 4), node(Kind.ADD, 6, 5), node(Kind.SCALE, 7)]
    assert scalable(nodes, 7) == [3, 5]
    assert scalable([*convs, node(Kind.BATCH_NORM, 0)], 3) == [3]


def test_every_input_of_a_segment_is_outside() -> None:
    for inputs in ((-1, -2), (-2, -1), (-3, -2)):
        nodes = [node(Kind.ADD, *inputs), node(Kind.SCALE, 0)]
        assert scalable(nodes, 0) == scalable(nodes, 1) == []
    assert scalable([node(Kind.CONV, -2), node(Kind.SCALE, -2)], 1) == []
    assert scalable([node(Kind.CONV, -1)], -2) == []
