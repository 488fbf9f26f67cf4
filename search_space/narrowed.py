"""A space with some of its blocks taken out: by kernel size, by name, or by a layer that they are made of.

What is left is a space like any other: equal cuts are equal values, whose digests and files name what they hold. Not
for what a network may cost: those are limits of a search.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from dataclasses import replace

from search_space.errors import UnknownName, UserError
from search_space.family import NUM_CLASSES, RESOLUTION
from search_space.layer import Kind, Node
from search_space.lower import lower_space
from search_space.space import ZERO, BlockChoice, SearchSpace

WITH_A_SIZE = (Kind.CONV, Kind.DWCONV, Kind.POOL)


def narrowed(
    space: SearchSpace, kernel_sizes: Sequence[int] | None = None, avoid: Collection[str] = (), pixels: int = RESOLUTION
) -> SearchSpace:
    """The space with blocks of these kernel sizes alone, and without what `avoid` names.

    avoid: blocks, such as 'k7e6', and layers that blocks are made of: convolutions with their size, such as 'dwconv7',
    others by kind, such as 'gelu'. Stem, transitions and head stay. pixels: of the images that it is looked at with.
    Raises `UnknownName` for what no block is called or made of, `UserError` for a kernel size that the space does not
    have, and where a stage would be left without a block.
    """
    if unknown := [size for size in kernel_sizes or () if size not in space.kernels]:
        raise UserError(
            f"kernel_sizes={_listed(kernel_sizes or ())} names {unknown[0]}: the kernel sizes of '{space.name}' are "
            f"{', '.join(map(str, space.kernels))}"
        )
    layers = _layers_of(space, pixels) if avoid else {}
    known = {str(block) for _, block in layers} | {name for names in layers.values() for name in names}
    for name in avoid:
        if name not in known:
            raise UnknownName("avoid", name, known, f"These are the blocks of '{space.name}' and their layers.")

    def stays(stage: int, block: BlockChoice) -> bool:
        if kernel_sizes is not None and block.kernel_size not in kernel_sizes:
            return False
        return not avoid or not ({str(block)} | layers[stage, block]) & set(avoid)

    stages = []
    for number, (stage, blocks) in enumerate(zip(space.stages, space.stage_choices, strict=True)):
        left = tuple(block for block in blocks if stays(number, block))
        if not left:
            raise UserError(
                f"{cut_words(kernel_sizes, avoid)} leaves no block in stage {number + 1} of '{space.name}', which has "
                f"{', '.join(map(str, blocks))}"
            )
        if left != blocks:
            stage = replace(stage, blocks=left, kernel_sizes=None, expand_ratios=None, quadratic=None)
        stages.append(stage)
    return replace(space, stages=tuple(stages))


def cut_words(kernel_sizes: Sequence[int] | None, avoid: Collection[str]) -> str:
    """'kernel_sizes=[3,5] avoid=[gelu]', as a command line has it; '' where nothing is cut."""
    given = (("kernel_sizes", kernel_sizes or ()), ("avoid", avoid))
    return " ".join(f"{name}={_listed(values)}" for name, values in given if values)


def _listed(values: Collection[object]) -> str:
    return f"[{','.join(map(str, values))}]"


def _layers_of(space: SearchSpace, pixels: int) -> dict[tuple[int, BlockChoice], set[str]]:
    """The layers of every stage's blocks by name, wherever in the stage a block stands."""
    found: dict[tuple[int, BlockChoice], set[str]] = {}
    for segment in lower_space(space, pixels, NUM_CLASSES):
        if segment.slot is not None:
            slot = space.slots[segment.slot]
            for block, nodes in zip(slot.candidates, segment.candidates, strict=True):
                if block != ZERO:
                    found.setdefault((slot.stage, block), set()).update(_names(nodes))
    return found


def _names(nodes: Sequence[Node]) -> Iterator[str]:
    for node in nodes:
        yield f"{node.spec.kind}{node.spec.kernel_size if node.spec.kind in WITH_A_SIZE else ''}"
