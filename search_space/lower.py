"""The only walk over an architecture and the only shape arithmetic.

Builder, cost, latency, export and the supernet all read what `lower` and `lower_space` return.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from search_space.blocks import checked_family, chosen_layers
from search_space.blocks.graph import Graph
from search_space.errors import UserError
from search_space.layer import Node
from search_space.space import ZERO, Architecture, BlockChoice, SearchSpace


@dataclass(frozen=True)
class Segment:
    """A piece of a network with one input and one output tensor.

    `candidates` lists the alternative layer lists: one for a fixed piece or a chosen block, many
    for a slot of a supernet (there `slot` is the slot's index). An empty list is the identity.
    Kernels are never fused across segments, so that latency is additive over them.
    """

    name: str
    candidates: tuple[tuple[Node, ...], ...]
    slot: int | None = None

    @property
    def nodes(self) -> tuple[Node, ...]:
        """The layers of a segment that has no alternatives."""
        (nodes,) = self.candidates
        return nodes


def image_side(segments: Sequence[Segment]) -> int:
    """Pixels of the longer side of the image that a network without alternatives reads."""
    first = next(segment.nodes[0].spec for segment in segments if segment.nodes)
    return max(first.height, first.width)


def lower(architecture: Architecture, resolution: int, num_classes: int) -> tuple[Segment, ...]:
    """The layers of a network for (3, resolution, resolution) images, block by block.

    Raises `UserError` if the resolution is too small for the space.
    """
    slots = [[(block,) for block in blocks] for blocks in architecture.stages]
    return _walk(architecture.space, slots, resolution, num_classes)


def lower_space(space: SearchSpace, resolution: int, num_classes: int) -> tuple[Segment, ...]:
    """Every candidate of every slot, with the fixed pieces between them."""
    slots: list[list[tuple[BlockChoice, ...]]] = [[] for _ in space.stages]
    for slot in space.slots:
        slots[slot.stage].append(slot.candidates)
    return _walk(space, slots, resolution, num_classes)


def _walk(
    space: SearchSpace,
    slots: Sequence[Sequence[tuple[BlockChoice, ...]]],
    resolution: int,
    num_classes: int,
) -> tuple[Segment, ...]:
    if num_classes < 2:
        raise UserError(f"a classifier needs at least 2 classes, got {num_classes}")
    family = checked_family(space)
    layers = chosen_layers(space, family)
    segments: list[Segment] = []
    shape = (3, resolution, resolution)

    def graph() -> Graph:
        return Graph(shape, space.norm_eps, **layers)

    def append(name: str, graphs: list[Graph], slot: int | None = None) -> None:
        nonlocal shape
        shapes = {graph.out_shape for graph in graphs}
        (shape,) = shapes  # candidates of one slot that disagree in shape are a bug of their family
        if min(shape) < 1:
            raise UserError(f"resolution {resolution} is too small for space '{space.name}': {name} would give {shape}")
        segments.append(Segment(name, tuple(tuple(graph.nodes) for graph in graphs), slot))

    append("stem", [family.stem(graph(), space)])
    position = 0
    for stage_index, stage in enumerate(space.stages):
        if stage_index and (down := family.transition(graph(), stage)).nodes:
            append(f"down{stage_index + 1}", [down])
        if stage.least_blocks == 0:
            first = family.block(graph(), space.stage_choices[stage_index][0], stage.width, stage.stride)
            _check_can_be_left_out(space, stage_index, shape, first.out_shape)
        for block_index, candidates in enumerate(slots[stage_index]):
            stride = stage.stride if block_index == 0 else 1
            graphs = [graph() if c == ZERO else family.block(graph(), c, stage.width, stride) for c in candidates]
            append(f"stage{stage_index + 1}_block{block_index + 1}", graphs, position)
            position += 1
    append("head", [family.head(graph(), space, num_classes)])
    return tuple(segments)


def _check_can_be_left_out(
    space: SearchSpace, stage_index: int, before: tuple[int, int, int], after: tuple[int, int, int]
) -> None:
    """Raise `UserError` for a stage whose blocks may all be left out although its first one changes the shape."""
    if after != before or space.stages[stage_index].stride > 1:  # which a map of one pixel does not show
        raise UserError(
            f"space '{space.name}': stage {stage_index + 1} cannot be left out (min_blocks 0), its first block makes "
            f"{after[0]} channels of {before[0]} with stride {space.stages[stage_index].stride}; give it min_blocks of "
            "1 or more, or keep width and stride"
        )
