"""Block families: what stem, transition, block and head are made of. One family a file."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

from search_space.blocks import linear_dw, mbconv, quadra, quadra_fc1, quadra_fc12
from search_space.blocks.graph import Graph
from search_space.errors import UnknownName

if TYPE_CHECKING:
    from search_space.space import BlockChoice, SearchSpace, Stage


class BlockFamily(Protocol):
    """Four functions that append layers to a graph and return it, and a check of a space's fields."""

    def check(self, space: SearchSpace) -> None:
        """Raise `UserError` for a space that the family cannot build."""

    def stem(self, g: Graph, space: SearchSpace) -> Graph: ...

    def transition(self, g: Graph, stage: Stage) -> Graph:
        """What stands between stages; it may leave the graph empty."""

    def block(self, g: Graph, choice: BlockChoice, width: int, stride: int) -> Graph: ...

    def head(self, g: Graph, space: SearchSpace, num_classes: int) -> Graph: ...


FAMILIES: dict[str, BlockFamily] = {
    "quadra": quadra,
    "quadra_fc1": quadra_fc1,
    "quadra_fc12": quadra_fc12,
    "linear_dw": linear_dw,
    "mbconv": mbconv,
}


def family_of(space: SearchSpace) -> BlockFamily:
    """The block family of a space. Raises `UnknownName`."""
    if space.family not in FAMILIES:
        raise UnknownName(f"block family of space '{space.name}'", space.family, FAMILIES)
    return FAMILIES[space.family]
