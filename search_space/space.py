"""Search spaces and the networks in them, as values. Not for weights, latencies or files of spaces (`space_file`).

A `SearchSpace` is stages, slots and the candidates of each slot; what its blocks are made of is its block family's
business (`search_space.blocks`). A network of a space has two types on purpose: a `GatePath` is a choice per slot of a
supernet and so knows which weights it means; an `Architecture` is the network that it stands for, Zeros packed away.
A space makes networks and a network names its space, so they stand in one module, which imports no block family.
"""

from __future__ import annotations

import hashlib
import json
import random
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import product
from math import prod
from typing import Annotated, Any

from search_space.bounds import BLOCKS, CANDIDATES, KERNEL, RATIO, STAGES, STRIDE, WIDEST
from search_space.errors import UserError
from search_space.reading import (
    NOT_EMPTY,
    UNSAID,
    Above,
    AtLeast,
    AtMost,
    Must,
    Spelled,
    check,
    read,
    shown,
    text_of,
    to_plain,
)

Count = Annotated[int, AtLeast(1)]
Width = Annotated[int, AtLeast(0), AtMost(WIDEST)]  # 0: no such layer
Channels = Annotated[int, AtLeast(1), AtMost(WIDEST)]
Stride = Annotated[int, AtLeast(1), AtMost(STRIDE)]
Ratio = Annotated[int, AtLeast(1), AtMost(RATIO)]
FEW_STAGES = Must(f"a list of at most {STAGES}", lambda stages: len(stages) <= STAGES)
NOT_MANY = Must(f"a list of at most {CANDIDATES}", lambda values: len(values) <= CANDIDATES)
Distinct = Must("a list without repeats", lambda values: len(set(values)) == len(values))
Kernel = Annotated[int, AtLeast(1), AtMost(KERNEL), Must("odd", lambda size: size % 2 == 1)]
Branches = Annotated[int, Must("2 or 3, a number of depthwise convolutions", lambda number: number in (2, 3))]
Name = Annotated[str, Spelled(lambda name: text_of(name) if type(name) in (int, float) else name, str)]


@dataclass(frozen=True, slots=True, order=True)
class BlockChoice:
    """A candidate operation: a block's kernel size, expansion ratio and depthwise convolutions.

    branches: 1 but for the quadratic forms of a block that is plain: 2 for c(x) * (1 + a(x)), 3 for c(x) + a(x) * b(x).
    """

    kernel_size: int
    expand_ratio: int
    branches: int = 1

    def __str__(self) -> str:
        quadratic = "" if self.branches == 1 else f"q{self.branches}"
        return "zero" if self == ZERO else f"k{self.kernel_size}e{self.expand_ratio}{quadratic}"


ZERO = BlockChoice(0, 0)  # ProxylessNAS' Zero operation: the block is left out
PROJECTION = BlockChoice(1, 0)  # a 1x1 convolution alone, which carries the stride; of families that have it


def parse_block(text: object) -> BlockChoice:
    """'k7e6' -> kernel 7, expansion 6; 'k7e6q3': the same with three depthwise convolutions. Raises `UserError`."""
    match = re.fullmatch(r"k(\d{1,9})e(\d{1,9})(?:q([23]))?", text) if isinstance(text, str) else None
    if match is None:
        raise UserError(f"{shown(text)} is not a block; blocks are written like k7e6, quadratic forms k7e6q2 or k7e6q3")
    return BlockChoice(int(match[1]), int(match[2]), int(match[3] or 1))


Block = Annotated[BlockChoice, Spelled(parse_block, str)]
Candidate = Annotated[
    Block,
    Must(
        f"a block of odd kernel up to {KERNEL} and expansion 1 to {RATIO}, or {PROJECTION}",
        lambda block: (
            block == PROJECTION
            or (block.kernel_size % 2 == 1 and block.kernel_size <= KERNEL and 1 <= block.expand_ratio <= RATIO)
        ),
    ),
]
Kernels = Annotated[tuple[Kernel, ...] | None, NOT_EMPTY, NOT_MANY, Distinct, UNSAID]
Ratios = Annotated[tuple[Ratio, ...] | None, NOT_EMPTY, NOT_MANY, Distinct, UNSAID]
Quadratic = Annotated[tuple[Branches, ...] | None, Distinct, UNSAID]


@dataclass(frozen=True, slots=True)
class Stage:
    """Blocks of one width; the first carries the stride.

    min_blocks: so many blocks are mandatory, Zero may stand in the others. zero: false for a stage of `max_blocks`
    blocks exactly. kernel_sizes, expand_ratios, quadratic: in place of the space's. blocks: the candidates one by one,
    in place of all products of a kernel and a ratio.
    """

    width: Channels
    max_blocks: Annotated[int, AtLeast(1), AtMost(BLOCKS)]
    stride: Stride = 1
    min_blocks: Annotated[int, AtLeast(0), UNSAID] = 1
    zero: Annotated[bool, UNSAID] = True
    kernel_sizes: Kernels = None
    expand_ratios: Ratios = None
    quadratic: Quadratic = None
    blocks: Annotated[tuple[Candidate, ...] | None, NOT_EMPTY, NOT_MANY, Distinct, UNSAID] = None

    @property
    def least_blocks(self) -> int:
        """How many blocks of the stage every network has."""
        return self.min_blocks if self.zero else self.max_blocks

    def check(self) -> None:
        """Raise `UserError` where two fields contradict each other."""
        if self.min_blocks > self.max_blocks:
            raise UserError(f"min_blocks={self.min_blocks} is more than max_blocks={self.max_blocks}")
        if not self.zero and self.min_blocks not in (1, self.max_blocks):
            raise UserError(f"min_blocks={self.min_blocks} stands beside zero: false; leave one of them out")
        for name in ("kernel_sizes", "expand_ratios", "quadratic"):
            if self.blocks is not None and getattr(self, name) is not None:
                raise UserError(f"{name} stands beside blocks, which names every block; leave one of them out")


@dataclass(frozen=True, slots=True)
class Slot:
    """One place for a block: its stage and place there (from 0) and what may stand in it."""

    stage: int
    index: int
    candidates: tuple[BlockChoice, ...]


@dataclass(frozen=True, slots=True)
class GatePath:
    """The index of the chosen candidate for every slot of a space."""

    choices: tuple[int, ...]


@dataclass(frozen=True)
class SearchSpace:
    """A set of networks. Equal spaces are equal values; `to_dict` round-trips through JSON.

    `stem_width`, `head_width` and `first_width` are read by the block family (a family that has
    no such layer has 0 there). `kernel_sizes` and `expand_ratios` are those of every stage that has none of its own.
    quadratic: the quadratic forms that stand beside every plain block, by their depthwise convolutions; None for none.
    norm_eps: of BatchNorms; stem_stride: of the first convolution; None for the family's own. `norm` and `activation`
    are kinds of layers that the family accepts; None for its own.
    """

    name: Name
    family: Name
    stem_width: Channels
    stages: Annotated[tuple[Stage, ...], NOT_EMPTY, FEW_STAGES]
    kernel_sizes: Kernels = None
    expand_ratios: Ratios = None
    first_width: Width = 0
    head_width: Width = 0
    norm_eps: Annotated[float | None, Above(0), UNSAID] = None
    stem_stride: Annotated[int | None, AtLeast(1), AtMost(STRIDE), UNSAID] = None
    norm: Annotated[str | None, UNSAID] = None
    activation: Annotated[str | None, UNSAID] = None
    quadratic: Quadratic = None

    def __post_init__(self) -> None:
        check(self, where=f"space '{self.name}'")
        for number, stage in enumerate(self.stages):
            try:
                stage.check()
                for name in ("kernel_sizes", "expand_ratios"):
                    if stage.blocks is None and getattr(stage, name) is None and getattr(self, name) is None:
                        raise UserError(f"no {name}; give them to the stage, or to the space for all stages")
                if (
                    len(stage.kernel_sizes or self.kernel_sizes or ())
                    * len(stage.expand_ratios or self.expand_ratios or ())
                    * len(self._forms(stage))
                    > CANDIDATES
                    and stage.blocks is None
                ):
                    raise UserError(f"more than {CANDIDATES} candidates, products of a kernel and a ratio")
            except UserError as error:
                raise UserError(f"stages[{number}] of '{self.name}': {error}") from error

    @cached_property
    def stage_choices(self) -> tuple[tuple[BlockChoice, ...], ...]:
        """Every stage's blocks, Zero left out.

        As listed, or kernel sizes in order, expansion ratios within each, and quadratic forms after the plain block.
        """

        def choices(stage: Stage) -> tuple[BlockChoice, ...]:
            if stage.blocks is not None:
                return stage.blocks
            kernels, ratios = stage.kernel_sizes or self.kernel_sizes, stage.expand_ratios or self.expand_ratios
            return tuple(BlockChoice(*each) for each in product(kernels or (), ratios or (), self._forms(stage)))

        return tuple(choices(stage) for stage in self.stages)

    def _forms(self, stage: Stage) -> tuple[int, ...]:
        return (1, *((self.quadratic or ()) if stage.quadratic is None else stage.quadratic))

    @cached_property
    def choices(self) -> tuple[BlockChoice, ...]:
        """Every block that some stage offers, once, in the order of the stages."""
        return tuple(dict.fromkeys(choice for choices in self.stage_choices for choice in choices))

    @cached_property
    def kernels(self) -> tuple[int, ...]:
        """Every kernel size that some stage offers, ascending."""
        return tuple(sorted({choice.kernel_size for choice in self.choices}))

    @cached_property
    def ratios(self) -> tuple[int, ...]:
        """Every expansion ratio that some stage offers, ascending."""
        return tuple(sorted({choice.expand_ratio for choice in self.choices}))

    @cached_property
    def slots(self) -> tuple[Slot, ...]:
        """The places for blocks, stage by stage; Zero is the last candidate of all that are not mandatory."""
        return tuple(
            Slot(s, b, choices if b < stage.least_blocks else (*choices, ZERO))
            for s, (stage, choices) in enumerate(zip(self.stages, self.stage_choices, strict=True))
            for b in range(stage.max_blocks)
        )

    @property
    def path_count(self) -> int:
        """Number of gate paths: one choice per slot, Zeros where they stand."""
        return prod(len(slot.candidates) for slot in self.slots)

    @property
    def architecture_count(self) -> int:
        """Number of distinct networks: a Zero's position does not matter."""
        return prod(
            sum(len(choices) ** depth for depth in range(stage.least_blocks, stage.max_blocks + 1))
            for stage, choices in zip(self.stages, self.stage_choices, strict=True)
        )

    def architecture(self, path: GatePath) -> Architecture:
        """The network that a gate path stands for, Zeros packed away."""
        self.check_path(path)
        stages: list[list[BlockChoice]] = [[] for _ in self.stages]
        for slot, choice in zip(self.slots, path.choices, strict=True):
            if slot.candidates[choice] != ZERO:
                stages[slot.stage].append(slot.candidates[choice])
        return Architecture(self, tuple(map(tuple, stages)))

    def path(self, architecture: Architecture) -> GatePath:
        """The gate path of an architecture whose Zeros all stand at the end of their stage."""
        choices = []
        for slot in self.slots:
            blocks = architecture.stages[slot.stage]
            wanted = blocks[slot.index] if slot.index < len(blocks) else ZERO
            choices.append(slot.candidates.index(wanted))
        return GatePath(tuple(choices))

    def check_path(self, path: GatePath) -> None:
        """Raise `UserError` unless the path has one valid choice for every slot."""
        if len(path.choices) != len(self.slots):
            raise UserError(f"space '{self.name}' has {len(self.slots)} slots, the path has {len(path.choices)}")
        for i, (slot, choice) in enumerate(zip(self.slots, path.choices, strict=True)):
            if not 0 <= choice < len(slot.candidates):
                raise UserError(f"slot {i} of '{self.name}' has candidates 0..{len(slot.candidates) - 1}, not {choice}")

    def random_path(self, rng: random.Random) -> GatePath:
        """A gate path drawn uniformly, every slot on its own."""
        return GatePath(tuple(rng.randrange(len(slot.candidates)) for slot in self.slots))

    def random_architecture(self, rng: random.Random) -> Architecture:
        """A network drawn with depth and choices uniform in every stage."""
        return Architecture(
            self,
            tuple(
                tuple(rng.choice(choices) for _ in range(rng.randint(stage.least_blocks, stage.max_blocks)))
                for stage, choices in zip(self.stages, self.stage_choices, strict=True)
            ),
        )

    def mutate(self, path: GatePath, rng: random.Random) -> GatePath:
        """The path with one slot's choice changed."""
        slot = rng.randrange(len(self.slots))
        others = [c for c in range(len(self.slots[slot].candidates)) if c != path.choices[slot]]
        if not others:
            return path
        choices = list(path.choices)
        choices[slot] = rng.choice(others)
        return replace(path, choices=tuple(choices))

    def smallest(self) -> Architecture:
        """As few blocks as may be, each of the smallest expansion and kernel of its stage, plain where it can be."""
        return Architecture(
            self,
            tuple(
                (min(choices, key=size_of),) * stage.least_blocks
                for stage, choices in zip(self.stages, self.stage_choices, strict=True)
            ),
        )

    def largest(self, quadratic: bool = False) -> Architecture:
        """Every slot filled with the block of the largest expansion and kernel of its stage, plain where it can be.

        quadratic: in its form of most depthwise convolutions instead.
        """
        return Architecture(
            self,
            tuple(
                (max(choices, key=size_of if quadratic else plain_size_of),) * stage.max_blocks
                for stage, choices in zip(self.stages, self.stage_choices, strict=True)
            ),
        )

    def scaled(self, width_mult: float) -> SearchSpace:
        """The space with every width multiplied and rounded to a multiple of 8 (MobileNet's rule)."""
        if not 0.1 <= width_mult <= 10:
            raise UserError(f"width_mult={width_mult} is not between 0.1 and 10")
        if width_mult == 1.0:
            return self
        return replace(
            self,
            stem_width=divisible(self.stem_width * width_mult),
            first_width=divisible(self.first_width * width_mult) if self.first_width else 0,
            head_width=divisible(self.head_width * max(1.0, width_mult)) if self.head_width else 0,
            stages=tuple(replace(stage, width=divisible(stage.width * width_mult)) for stage in self.stages),
        )

    def to_dict(self) -> dict[str, Any]:
        """As JSON or YAML holds it; widths stand together."""
        plain = to_plain(self)
        widths = {name: plain.pop(name) for name in ("name", "family", "stem_width", "first_width", "head_width")}
        return {**widths, **plain}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any], where: str = "space") -> SearchSpace:
        """Read `to_dict`'s form. Raises `BadFile` naming `where` and the field at fault."""
        return read(cls, data, where)


def size_of(choice: BlockChoice) -> tuple[int, int, int]:
    """What a block's cost grows with: its expansion, then its kernel, then its depthwise convolutions."""
    return choice.expand_ratio, choice.kernel_size, choice.branches


def plain_size_of(choice: BlockChoice) -> tuple[int, int, int]:
    """The same of the plain block; among the forms of one block, the plainest is the largest."""
    return choice.expand_ratio, choice.kernel_size, -choice.branches


@dataclass(frozen=True)
class Architecture:
    """The blocks of every stage, within a space. Raises `UserError` where they do not fit it."""

    space: SearchSpace
    stages: tuple[tuple[Block, ...], ...]

    def __post_init__(self) -> None:
        if len(self.stages) != len(self.space.stages):
            raise UserError(
                f"space '{self.space.name}' has {len(self.space.stages)} stages, the architecture {len(self.stages)}"
            )
        for number, (blocks, stage) in enumerate(zip(self.stages, self.space.stages, strict=True), start=1):
            if not stage.least_blocks <= len(blocks) <= stage.max_blocks:
                raise UserError(
                    f"stage {number} of '{self.space.name}' holds {stage.least_blocks} to {stage.max_blocks} blocks, "
                    f"not {len(blocks)}"
                )
            choices = self.space.stage_choices[number - 1]
            for block in blocks:
                if block not in choices:
                    known = ", ".join(map(str, choices))
                    raise UserError(
                        f"'{block}' is not a block of '{self.space.name}' in stage {number}; its blocks there: {known}"
                    )

    def __str__(self) -> str:
        return " | ".join(" ".join(map(str, blocks)) for blocks in self.stages)

    @property
    def digest(self) -> str:
        """A short stable hash: equal for equal architectures, on any machine."""
        return hashlib.sha256(json.dumps(self.to_dict(), sort_keys=True).encode()).hexdigest()[:12]

    def to_dict(self) -> dict[str, Any]:
        """As JSON holds it: the space, and every stage's blocks in text, such as 'k7e6'."""
        return dict(to_plain(self))

    @classmethod
    def from_dict(cls, data: Mapping[str, Any], where: str = "architecture") -> Architecture:
        """Read `to_dict`'s form. Raises `BadFile` naming `where` and the field at fault."""
        return read(cls, data, where)


def divisible(width: float) -> int:
    """The multiple of 8 nearest to a width, at most 10 % below it."""
    rounded = max(8, int(width + 4) // 8 * 8)
    return rounded if rounded >= 0.9 * width else rounded + 8
