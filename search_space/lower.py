"""The only walk over an architecture and the only shape arithmetic.

Builder, cost, latency, export and the supernet all read what `lower` and `lower_space` return.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from search_space.blocks import family_of
from search_space.blocks.graph import Graph
from search_space.errors import UserError
from search_space.layer import Node
from search_space.space import ZERO, Architecture, BlockChoice, SearchSpace

PROBE = 64  # pixels of a map that every stride halves


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
    family = family_of(space)
    family.check(space)
    segments: list[Segment] = []
    shape = (3, resolution, resolution)

    def graph() -> Graph:
        return Graph(shape, space.norm_eps)

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
            _check_can_be_left_out(space, stage_index, shape[0])
        for block_index, candidates in enumerate(slots[stage_index]):
            stride = stage.stride if block_index == 0 else 1
            graphs = [graph() if c == ZERO else family.block(graph(), c, stage.width, stride) for c in candidates]
            append(f"stage{stage_index + 1}_block{block_index + 1}", graphs, position)
            position += 1
    append("head", [family.head(graph(), space, num_classes)])
    return tuple(segments)


def _check_can_be_left_out(space: SearchSpace, stage_index: int, in_width: int) -> None:
    """Raise `UserError` for a stage whose blocks may all be left out although its first one changes the shape."""
    stage, first = space.stages[stage_index], space.stage_choices[stage_index][0]
    before = (in_width, PROBE, PROBE)
    after = family_of(space).block(Graph(before, space.norm_eps), first, stage.width, stage.stride).out_shape
    if after != before:
        raise UserError(
            f"space '{space.name}': stage {stage_index + 1} cannot be left out (min_blocks 0), its first block makes "
            f"{after[0]} channels of {in_width} with stride {PROBE // after[1]}; give it min_blocks of 1 or more, or "
            "keep width and stride"
        )
